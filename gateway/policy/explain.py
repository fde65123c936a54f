"""Why was it decided so, what would another set decide, and what would this set have decided then?

Prose is built from the policies' own @says. Nothing here serves a request; every answer comes from the same engine that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from gateway.evidence import Obligations, Subject, SubjectKind
from gateway.policy.decide import ACTIONS, SEE, SERVICE_ACTIONS, USE, PolicySet
from gateway.policy.facts import EXTERNAL, LOOPBACK, Context, context_at
from gateway.policy.testing import DENY, PERMIT, UNSEEN, Cell, ask, example_subject

MAX_RECORD_BYTES = 65_535
_OURS = ("policy_denied", "DeploymentNotFound", "")  # other refusals were no decision of policy
_NOON_WEDNESDAY = 6 * 1440 + 720  # minutes since the epoch: a Wednesday, 12:00 UTC


class Deciding(msgspec.Struct, frozen=True):
    """One policy that decided."""

    id: str
    says: str
    owner: str
    at: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One decision in words. `roles_that_may` are the single roles that the same question would be permitted to."""

    decision: str
    action: str
    model: str
    roles: tuple[str, ...]
    detail: str
    policies: tuple[Deciding, ...]
    obligations: Obligations | None
    roles_that_may: tuple[str, ...]
    policy_digest: str

    def prose(self) -> str:
        """Return the explanation for a person to read."""
        what = f"{self.action} on `{self.model}`" if self.model else self.action
        who = " + ".join(self.roles) or "a subject without a role"
        words = {PERMIT: "permitted", DENY: "denied", UNSEEN: "answered as if the model did not exist"}
        lines = [f"{what} by {who}: {words[self.decision]}"]
        lines += [f"  {policy.says}  [{policy.id}, {policy.owner}, {policy.at}]" for policy in self.policies]
        if self.detail and not self.policies:
            lines.append(f"  {self.detail}")
        if self.decision == PERMIT and self.obligations is not None:
            lines += [f"  {key}: {value}" for key, value in _shown(self.obligations).items()]
        elif self.decision != PERMIT:
            lines.append(f"  roles that may: {', '.join(self.roles_that_may) or 'none'}")
        return "\n".join(lines)


def _shown(obligations: Obligations) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(obligations)
    shown["grants"] = ", ".join(sorted(obligations.grants)) or "none"
    shown["regions"] = "any" if obligations.regions is None else ", ".join(sorted(obligations.regions))
    return shown


def explain(policies: PolicySet, subject: Subject, roles: frozenset[str], action: str, model: str, context: Context) -> Explanation:
    """Explain one decision for a subject with exactly `roles`."""
    cell = ask(policies, subject, roles, [(action, model, context)])[0]
    may = []
    if cell.word != PERMIT:
        for role in policies.roles.rules:
            if ask(policies, subject, frozenset({role}), [(action, model, context)])[0].word == PERMIT:
                may.append(role)
    deciding = []
    for name in cell.decision.policy_ids:
        policy = policies.policies[name]
        deciding.append(Deciding(policy.id, policy.says, policy.owner, f"{policy.file}:{policy.line}"))
    return Explanation(
        decision=cell.word,
        action=action,
        model=model,
        roles=tuple(sorted(roles)),
        detail=cell.decision.detail,
        policies=tuple(deciding),
        obligations=cell.decision.obligations,
        roles_that_may=tuple(may),
        policy_digest=policies.digest,
    )


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of the matrix that two sets answer differently. `zone` says from where it was asked."""

    role: str
    action: str
    model: str
    zone: str
    before: str
    after: str

    def __str__(self) -> str:
        what = f"{self.action} on `{self.model}`" if self.model else self.action
        return f"{self.role or 'no role'}: {what} from {self.zone}: {self.before} -> {self.after}"


def _answers(before: Cell, after: Cell) -> tuple[str, str]:
    """Return both answers in words, with the obligations in which they differ; equal where nothing does."""
    if before.word != after.word or before.decision.obligations is None or after.decision.obligations is None:
        return before.word, after.word
    old, new = _shown(before.decision.obligations), _shown(after.decision.obligations)
    keys = [key for key in old if old[key] != new[key]]
    was, now = (", ".join([PERMIT, *(f"{key} {shown[key]}" for key in keys)]) for shown in (old, new))
    return was, now


def _matrix(policies: PolicySet, role: str, models: Iterable[str], zone: str) -> dict[tuple[str, str], Cell]:
    subject = example_subject(issued_at_s=(_NOON_WEDNESDAY - 1) * 60)
    roles = frozenset({role} if role in policies.roles.rules else ())
    questions = []
    for model in models:
        context = context_at(subject, policies.routes.get(model), zone, False, _NOON_WEDNESDAY)
        questions += [(action, model, context) for action in (SEE, *USE)]
    context = context_at(subject, None, zone, False, _NOON_WEDNESDAY)
    questions += [(action, "", context) for action in sorted(SERVICE_ACTIONS)]
    cells = ask(policies, subject, roles, questions)
    return {(action, model): cell for (action, model, _), cell in zip(questions, cells, strict=True)}


def compare(before: PolicySet, after: PolicySet) -> Iterator[Change]:
    """Yield the cells of role x model x action that changed, from the gateway's own host and from outside, at noon UTC."""
    models = tuple(dict.fromkeys((*before.routes, *after.routes)))
    for role in ("", *dict.fromkeys((*before.roles.rules, *after.roles.rules))):
        for zone in (LOOPBACK, EXTERNAL):
            old, new = _matrix(before, role, models, zone), _matrix(after, role, models, zone)
            for (action, model), cell in old.items():
                was, now = _answers(cell, new[action, model])
                if was != now:
                    yield Change(role=role, action=action, model=model, zone=zone, before=was, after=now)


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """One record decided again. `after` is "" where the record does not say enough."""

    position: int  # from 1
    request_id: str
    action: str
    model: str
    before: str
    after: str
    reason: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.after) and (self.before == PERMIT) != (self.after == PERMIT)


def _texts(fields: Mapping[str, Any], key: str) -> frozenset[str]:
    value = fields.get(key)
    return frozenset(item for item in value if isinstance(item, str)) if isinstance(value, list) else frozenset()


def _recorded_minute(fields: Mapping[str, Any]) -> int:
    try:
        return int(datetime.fromisoformat(str(fields.get("time"))).timestamp()) // 60
    except (ValueError, OverflowError):
        return _NOON_WEDNESDAY


def replay_one(policies: PolicySet, position: int, fields: Mapping[str, Any]) -> Replayed | None:
    """Decide a record again; None for a record that is no decision. Best effort: a record holds no token, so age counts as 1 minute."""
    if fields.get("type") not in ("opened", "refused", None) or not isinstance(fields.get("action"), str):
        return None
    if "decision" not in fields and fields.get("refusal", "") not in _OURS:
        return None
    action = ACTIONS.get(fields["action"], fields["action"])
    model = "" if action in SERVICE_ACTIONS else str(fields.get("resource") or fields.get("route") or "")
    before = PERMIT if fields.get("decision") in ("permit", "allow") else DENY
    known = {"position": position, "request_id": str(fields.get("request_id", "")), "action": action, "model": model, "before": before}
    if not isinstance(fields.get("roles"), list):
        return Replayed(**known, after="", reason="the record does not name roles")
    if action not in (SEE, *USE, *SERVICE_ACTIONS):
        return Replayed(**known, after="", reason="the record names no action of this gateway")
    minute = _recorded_minute(fields)
    kind = fields.get("subject_kind")
    subject = example_subject(
        tenant=str(fields.get("tenant", "")),
        kind=SubjectKind(kind) if kind in {k.value for k in SubjectKind} else SubjectKind.USER,
        application=str(fields.get("application", "")),
        issued_at_s=(minute - 1) * 60,
    )
    zone = str(fields["zone"]) if isinstance(fields.get("zone"), str) else policies.zones.of(str(fields.get("peer", "")))
    context = context_at(subject, policies.routes.get(model), zone, bool(fields.get("stream")), minute)
    cell = ask(policies, subject, _texts(fields, "roles"), [(action, model, context)])[0]
    return Replayed(**known, after=cell.word, reason=cell.decision.detail or ", ".join(cell.decision.policy_ids))


def replay(policies: PolicySet, lines: Iterable[bytes]) -> Iterator[Replayed]:
    """Decide the records of JSON lines again. A line that is no record is passed over; `position` counts all lines."""
    for position, line in enumerate(lines, 1):
        if len(line) > MAX_RECORD_BYTES + 1:
            continue
        try:
            fields = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        # `gateway audit query --json` wraps a record beside its index
        if isinstance(fields, dict) and isinstance(fields.get("record"), dict):
            fields = fields["record"]
        if isinstance(fields, dict):
            found = replay_one(policies, position, fields)
            if found is not None:
                yield found
