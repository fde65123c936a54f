"""Does a policy set do what its writers say it does? `tests/*.toml`, `tests/bad/`, and the invariants kept outside the set.

A case is: who, does what, on which model, under which circumstances, and the decision expected. The models that a set's own
tests speak of are declared in those tests, so that they say the same on every installation; invariants meet the real models too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.evidence import Obligations, Operation, Subject, SubjectKind
from gateway.policy.decide import SEE, SERVICE_ACTIONS, USE, Decision, PolicySet
from gateway.policy.facts import DATA_CLASSES, LOOPBACK, Context, RouteFacts, context_at
from gateway.policy.faults import Fault
from gateway.policy.toml_table import Table, read_table

PERMIT, DENY, UNSEEN = "permit", "deny", "unseen"
EXPECTATIONS = (PERMIT, DENY, UNSEEN)

ACTIONS = frozenset({SEE, *USE, *SERVICE_ACTIONS})
_GROUPS: Mapping[str, tuple[str, ...]] = {"use": USE}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_OBLIGED = ("profile", "tier", "output_tokens_cap", "output_tokens_default", "grants", "regions", "stream_mode")
_SIGN_IN = ("auth_context", "auth_methods", "client_auth", "device", "sign_in_state")
_MAX_CELLS = 20_000  # questions one case may expand to


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One test. `roles` None: the roles follow from the subject's claims. `because` None: any policies may decide."""

    name: str
    subject: Subject
    roles: frozenset[str] | None
    actions: tuple[str, ...]
    models: tuple[str, ...] | None  # None: every model
    when: Mapping[str, Any]
    expect: tuple[str, ...]
    because: frozenset[str] | None
    step_up: str | None  # the authentication context that is asked for; None: whatever it is
    obliged: Mapping[str, Any]
    file: str
    line: int


class Cell(msgspec.Struct, frozen=True):
    """The answer to one question: permit, deny or unseen, and the decision that says so."""

    word: str
    decision: Decision


def example_subject(**facts: Any) -> Subject:
    """Return an invented subject for tests and explanations; it never met a credential."""
    known: dict[str, Any] = {
        "tenant": "example",
        "issuer": "https://issuer.example",
        "subject_id": "example",
        "kind": SubjectKind.USER,
        "app_roles": frozenset(),
        "groups": frozenset(),
        "scopes": frozenset(),
        "application": "",
        "token_digest": b"",
        "token_id": "",
        "issued_at_s": 0,
        "expires_at_s": 0,
    }
    return Subject(**{**known, **facts})


def ask(policies: PolicySet, subject: Subject, roles: frozenset[str], questions: Iterable[tuple[str, str, Context]]) -> list[Cell]:
    """Answer as requests would be answered: a model that may not be seen is unseen, whatever else is permitted."""
    wanted = tuple(questions)
    looks = tuple(dict.fromkeys((SEE, model, context) for _, model, context in wanted if model))
    acts = tuple(dict.fromkeys(question for question in wanted if question[0] != SEE))
    both = (*looks, *acts)
    known = dict(zip(both, policies.judge(subject, roles, both), strict=True))
    cells = []
    for action, model, context in wanted:
        seen = known[SEE, model, context] if model else None
        if seen is not None and (action == SEE or not seen.allowed):
            cells.append(Cell(PERMIT if seen.allowed else UNSEEN, seen))
        else:
            decision = known[action, model, context]
            cells.append(Cell(PERMIT if decision.allowed else DENY, decision))
    return cells


def _model(name: str, table: Table) -> RouteFacts:
    table.known("operations", "data_class", "region", "owner")
    operations = table.strings("operations")
    for operation in operations:
        if operation not in {o.value for o in Operation}:
            table.fault(f"`{operation}` is no operation: use {', '.join(Operation)}", "operations")
    return RouteFacts(
        name=name,
        operations=frozenset(operations),
        data_class=table.choice("data_class", DATA_CLASSES, default="internal"),
        region=table.string("region", default=""),
        owner=table.string("owner", default=""),
    )


def _names(table: Table, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(table.data.get(key), str):
        return (table.string(key),)
    return table.strings(key, default=default or ...)


def _subject(table: Table) -> Subject:
    table.known("kind", "tenant", "issuer", "id", "application", "app_roles", "groups", "scopes", "guest", "roles", *_SIGN_IN)
    return example_subject(
        kind=SubjectKind(table.choice("kind", tuple(SubjectKind), default="user")),
        tenant=table.string("tenant", default="example"),
        issuer=table.string("issuer", default="https://issuer.example"),
        subject_id=table.string("id", default="example"),
        application=table.string("application", default=""),
        app_roles=frozenset(table.strings("app_roles")),
        groups=frozenset(table.strings("groups")),
        scopes=frozenset(table.strings("scopes")),
        guest=table.boolean("guest", default=False),
        auth_context=frozenset(table.strings("auth_context")),
        auth_methods=frozenset(table.strings("auth_methods")),
        client_auth=table.string("client_auth", default=""),
        device=table.boolean("device", default=False),
        sign_in_state=frozenset(table.strings("sign_in_state")),
    )


def _when(table: Table) -> dict[str, Any]:
    table.known("zone", "hour", "minute", "weekday", "token_age_minutes", "stream", "data_class", "region", "sign_in_zone")
    when: dict[str, Any] = {"zone": table.string("zone", default=LOOPBACK)}
    when["minute_of_day"] = table.integer("hour", 0, 23, default=12) * 60 + table.integer("minute", 0, 59, default=0)
    when["weekday"] = table.choice("weekday", _WEEKDAYS, default="wednesday")
    when["token_age_minutes"] = table.integer("token_age_minutes", 0, 10**6, default=1)
    when["stream"] = table.boolean("stream", default=False)
    if "sign_in_zone" in table.data:
        when["sign_in_zone"] = table.string("sign_in_zone")
    if "data_class" in table.data:
        when["data_class"] = table.choice("data_class", DATA_CLASSES)
    if "region" in table.data:
        when["region"] = table.string("region")
    return when


def _case(table: Table, policies: PolicySet) -> Case:
    table.known("name", "who", "does", "on", "when", "expect", "because", "step_up", "obliged")
    who = table.table("who")
    roles = frozenset(who.strings("roles")) if "roles" in who.data else None
    for role in sorted((roles or frozenset()) - policies.roles.rules.keys()):
        who.fault(f"there is no role `{role}`", "roles")
    actions = tuple(action for name in _names(table, "does", ()) for action in _GROUPS.get(name, (name,)))
    for action in actions:
        if action not in ACTIONS:
            table.fault(f"there is no action `{action}`: use `use` or {', '.join(sorted(ACTIONS))}", "does")
    on = _names(table, "on", ("*",))
    expect = _names(table, "expect", ())
    for word in expect:
        if word not in EXPECTATIONS:
            table.fault(f"`{word}` cannot be expected: use {', '.join(EXPECTATIONS)}", "expect")
    because = frozenset(table.strings("because")) if "because" in table.data else None
    for name in sorted((because or frozenset()) - policies.policies.keys()):
        table.fault(f"there is no policy `{name}`", "because")
    obliged = table.table("obliged")
    obliged.known(*_OBLIGED)
    return Case(
        name=table.string("name"),
        subject=_subject(who),
        roles=roles,
        actions=actions,
        models=None if on == ("*",) else on,
        when=_when(table.table("when")),
        expect=expect,
        because=because,
        step_up=table.string("step_up") if "step_up" in table.data else None,
        obliged=obliged.data,
        file=table.file,
        line=table.line,
    )


def read_models(files: Mapping[str, bytes], faults: list[Fault]) -> dict[str, RouteFacts]:
    """Read the models that the tests of a set declare."""
    models: dict[str, RouteFacts] = {}
    for file in sorted(files):
        if file.startswith("tests/") and file.count("/") == 1 and file.endswith(".toml"):
            root = read_table(file, files[file], faults)
            for name, table in root.table("models").tables():
                if name in models:
                    table.fault(f"the model `{name}` is declared twice")
                models[name] = _model(name, table)
    return models


def read_cases(file: str, content: bytes, policies: PolicySet, faults: list[Fault]) -> list[Case]:
    """Read one file of cases."""
    root = read_table(file, content, faults)
    root.known("models", "test")
    return [_case(table, policies) for table in root.array("test")]


def _differs(decision: Obligations | None, obliged: Mapping[str, Any]) -> list[str]:
    bad = []
    for key, wanted in obliged.items():
        found = getattr(decision, key, None)
        if isinstance(found, frozenset):
            found, wanted = sorted(found), sorted(wanted) if isinstance(wanted, list) else wanted
        elif isinstance(wanted, list) and found in wanted:
            continue  # any of them
        if found != wanted:
            bad.append(f"`{key}` is {found}, not {wanted}")
    return bad


def _complaint(case: Case, action: str, model: str, cell: Cell) -> str:
    where = f"{action} on `{model}`" if model else action
    if cell.word not in case.expect:
        why = cell.decision.detail or f"permitted by {', '.join(cell.decision.policy_ids)}"
        return f"`{case.name}`: {where}: expected {' or '.join(case.expect)}, got {cell.word} ({why})"
    if case.because is not None and frozenset(cell.decision.policy_ids) != case.because:
        found = ", ".join(cell.decision.policy_ids) or "no policy"
        return f"`{case.name}`: {where}: decided by {found}, not {', '.join(sorted(case.because)) or 'no policy'}"
    if case.step_up is not None and cell.decision.step_up != case.step_up:
        return f"`{case.name}`: {where}: asks for `{cell.decision.step_up}` by signing in again, not for `{case.step_up}`"
    bad = _differs(cell.decision.obligations, case.obliged) if cell.word == "permit" or case.expect == ("permit",) else []
    return f"`{case.name}`: {where}: {'; '.join(bad)}" if bad else ""


def run_case(policies: PolicySet, case: Case) -> list[Fault]:
    """Return what a case finds wrong, at most one fault."""
    models = tuple(policies.routes) if case.models is None else case.models
    roles = policies.roles.of(case.subject) if case.roles is None else case.roles
    cells = [(a, m) for a in case.actions for m in (("",) if a in SERVICE_ACTIONS else models)]
    if len(cells) > _MAX_CELLS:
        return [Fault(case.file, case.line, f"`{case.name}` asks over {_MAX_CELLS} questions")]
    questions = []
    for action, model in cells:
        plain = context_at(case.subject, policies.routes.get(model), LOOPBACK, False, 0)
        questions.append((action, model, msgspec.structs.replace(plain, **case.when)))
    for (action, model), cell in zip(cells, ask(policies, case.subject, roles, questions), strict=True):
        complaint = _complaint(case, action, model, cell)
        if complaint:
            return [Fault(case.file, case.line, complaint)]
    return []


def run_cases(policies: PolicySet, cases: Iterable[Case]) -> list[Fault]:
    """Run every case and return every fault."""
    return [fault for case in cases for fault in run_case(policies, case)]
