"""Turns a directory of policies into a `PolicySet`, or says everything that is wrong with it.

The order: read (bounded), parse every file, check them together, build the engine, probe it, run the set's tests and the
invariants. Only what passed all of it is returned; there is no partly loaded set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cedarpy
import jsonschema_rs
import msgspec

from gateway.evidence import Role, SubjectKind, Use
from gateway.policy.cedar_text import Policy, check_together, read_policies
from gateway.policy.content_profiles import ContentRules, read_content
from gateway.policy.decide import SEE, SERVICE_ACTIONS, USE, PolicySet
from gateway.policy.engine import Engine, Question
from gateway.policy.facts import EXTERNAL, RouteFacts, Zones, context_at
from gateway.policy.faults import Fault, PolicyFaults
from gateway.policy.files import Files, digest, read_files
from gateway.policy.limit_tiers import LimitTiers, read_limits
from gateway.policy.obligations import Standards
from gateway.policy.roles import RoleMap, read_roles
from gateway.policy.testing import example_subject, read_cases, read_models, run_cases
from gateway.policy.toml_table import read_table

SCHEMA = "gateway.cedarschema"
_REQUIRED = (SCHEMA, "roles.toml", "content.toml", "limits.toml")
_BAD = "tests/bad/"


class Invariants(msgspec.Struct, frozen=True):
    """What no set may break: a file of cases, read once at the start and kept outside every set."""

    file: str
    content: bytes


def read_invariants(path: Path) -> Invariants:
    """Read the invariants file. Raises `PolicyFaults` when it cannot be read: a gate that is missing is not an open one."""
    try:
        return Invariants(path.name, path.read_bytes())
    except OSError as error:
        raise PolicyFaults([Fault(path.name, 0, f"cannot be read: {error.strerror}")]) from error


def load_policies(
    directory: Path,
    *,
    invariants: Path | None,
    routes: Mapping[str, RouteFacts] | None,
    zones: Zones | None = None,
    tenants: Collection[str] | None = None,
    bad_sets: bool = False,
) -> PolicySet:
    """Read, check and test the set in `directory`. Raises `PolicyFaults` with everything that is wrong.

    `routes` None takes the models that the set's tests declare, for looking at a set without settings; `tenants` None any tenant.
    """
    files = read_files(directory)
    kept = read_invariants(invariants) if invariants else None
    return build(files, routes=routes, zones=zones or Zones(), tenants=tenants, invariants=kept, bad_sets=bad_sets)


def deny_all(routes: Mapping[str, RouteFacts], zones: Zones) -> PolicySet:
    """Return the set that permits nothing: what a gateway without policies serves."""
    return PolicySet(
        digest=digest({}),
        policies=(),
        roles=RoleMap(rules={}),
        content=ContentRules(default="", strictness=(), profiles={}),
        limits=LimitTiers(default="", strictness=(), tiers={}),
        schemas={},
        routes=routes,
        zones=zones,
        standards=Standards(profile="", tier="", profiles=(), tiers=()),
        engine=None,
    )


def build(
    files: Files,
    *,
    routes: Mapping[str, RouteFacts] | None,
    zones: Zones,
    tenants: Collection[str] | None = None,
    invariants: Invariants | None = None,
    bad_sets: bool = False,
) -> PolicySet:
    """Build a set from files in memory. Raises `PolicyFaults`.

    `bad_sets` also proves that each set under `tests/bad/` is refused. That tests this loader and not the candidate, so checks ask
    for it and reloads do not.
    """
    faults: list[Fault] = []
    models = read_models(files, faults)
    served = models if routes is None else routes
    draft = _parse(files, {**models, **served}, tenants, faults)
    if faults or draft is None:
        raise PolicyFaults(faults)
    policies = draft.over(served, zones, faults)
    rehearsal = policies if served is models else draft.over(models, zones, faults)
    if faults or policies is None or rehearsal is None:
        raise PolicyFaults(faults)
    cases = [case for name in sorted(files) if _is_test(name) for case in read_cases(name, files[name], rehearsal, faults)]
    kept = read_cases(invariants.file, invariants.content, policies, faults) if invariants else []
    if not cases:
        faults.append(Fault("tests", 0, "the set has no tests: say in tests/*.toml what it must permit and deny"))
    if not faults:
        faults.extend(run_cases(rehearsal, cases))
        faults.extend(run_cases(policies, kept))
    if not faults and bad_sets:
        faults.extend(_run_bad_sets(files, zones))
    if faults:
        raise PolicyFaults(faults)
    return policies


def _is_test(name: str) -> bool:
    return name.startswith("tests/") and name.count("/") == 1 and name.endswith(".toml")


class _Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A set that parsed without fault, before it meets the models."""

    digest: str
    schema: Any
    policies: Sequence[Policy]
    roles: RoleMap
    content: ContentRules
    limits: LimitTiers
    schemas: Mapping[str, Mapping[str, Any]]
    standards: Standards

    def over(self, routes: Mapping[str, RouteFacts], zones: Zones, faults: list[Fault]) -> PolicySet | None:
        """Build the engine over `routes` and probe it."""
        try:
            engine = Engine(self.schema, self.policies, routes.values())
        except ValueError as error:
            faults.append(Fault(SCHEMA, 0, f"the schema does not fit the gateway's models: {error}"))
            return None
        faults.extend(_probe(engine, routes))
        return PolicySet(
            digest=self.digest,
            policies=self.policies,
            roles=self.roles,
            content=self.content,
            limits=self.limits,
            schemas=self.schemas,
            routes=routes,
            zones=zones,
            standards=self.standards,
            engine=engine,
        )


def _parse(files: Files, models: Mapping[str, RouteFacts], tenants: Collection[str] | None, faults: list[Fault]) -> _Draft | None:
    if not any(name.startswith("access/") for name in files):
        faults.append(Fault("access", 0, "the set holds no policies: an empty set is never loaded over another"))
    faults.extend(Fault(name, 0, "the file is missing") for name in _REQUIRED if name not in files)
    if faults:
        return None
    limits = read_limits(files["limits.toml"], faults, tenants)
    content_faults: list[Fault] = []
    content = read_content(files["content.toml"], files, content_faults)
    faults.extend(content_faults)
    roles = read_roles(files["roles.toml"], faults)
    schemas = _read_schemas(files, faults)
    standards = Standards(
        profile=content.default,
        tier=limits.default,
        profiles=content.strictness,
        tiers=limits.strictness,
        strict_profiles=frozenset(name for name, profile in content.profiles.items() if profile.stream_mode == "strict"),
    )
    try:
        schema = cedarpy.Schema.from_str(files[SCHEMA].decode("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        faults.append(Fault(SCHEMA, 0, f"not a Cedar schema: {error}"))
        return None
    policies: list[Policy] = []
    for name in sorted(files):
        if name.startswith("access/"):
            policies.extend(read_policies(name, files[name], schema, standards, faults))
    check_together(policies, frozenset(roles.rules), frozenset(models), faults)
    return _Draft(
        digest=digest(files),
        schema=schema,
        policies=policies,
        roles=roles,
        content=content,
        limits=limits,
        schemas=schemas,
        standards=standards,
    )


def _probe(engine: Engine, routes: Mapping[str, RouteFacts]) -> list[Fault]:
    """Ask every action once for every kind of subject: a schema that does not fit our requests would deny everything."""
    faults = []
    for kind in SubjectKind:
        subject = example_subject(kind=kind)
        for action in (SEE, *USE, *sorted(SERVICE_ACTIONS)):
            route = None if action in SERVICE_ACTIONS else next(iter(routes.values()), None)
            if route is None and action not in SERVICE_ACTIONS:
                continue
            context = context_at(subject, route, EXTERNAL, False, 0)
            ruling = engine.ask(subject, frozenset(), 0, [Question(action, route.name if route else "", context.as_cedar())])[0]
            if ruling.failed:
                message = f"the schema does not fit the gateway's requests: action `{action}` by a subject of kind `{kind}` gives an error"
                faults.append(Fault(SCHEMA, 0, message))
    return faults


def _read_schemas(files: Files, faults: list[Fault]) -> dict[str, Mapping[str, Any]]:
    schemas: dict[str, Mapping[str, Any]] = {}
    for name in sorted(files):
        if not name.startswith("schemas/"):
            continue
        try:
            schema = msgspec.json.decode(files[name])
            jsonschema_rs.meta.validate(schema)
            jsonschema_rs.validator_for(schema)
        except (ValueError, RecursionError) as error:
            problem = str(error).splitlines()[0] if str(error) else "cannot be parsed"
            faults.append(Fault(name, 0, f"not a JSON Schema: {problem}"))
            continue
        if not isinstance(schema, dict):
            faults.append(Fault(name, 0, "not a JSON Schema: it must be an object"))
            continue
        faults.extend(Fault(name, 0, problem) for problem in inspect_problems(schema))
        schemas[name.removeprefix("schemas/").removesuffix(".json")] = schema
    return schemas


_ROLES = {role.value for role in Role}
_USES = {use.value for use in Use}


def inspect_problems(schema: Any, path: str = "#") -> list[str]:
    """Say which places of a schema could let text through that nobody reads.

    Every object is closed, every value has a type, and every string says in `x-inspect` who speaks in it and what it is for, unless
    `const` or `enum` fixes what it can be.
    """
    if not isinstance(schema, dict):
        return [f"{path}: a schema must be an object: `true` lets anything through"]
    if "const" in schema or "enum" in schema:
        return []
    problems: list[str] = []
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds or []
    combined = [key for key in ("anyOf", "oneOf") if key in schema]
    if not kinds and not combined:
        problems.append(f"{path}: `type` is missing")
    for key in ("$ref", "$dynamicRef", "allOf", "if", "not", "patternProperties", "dependentSchemas"):
        if key in schema:
            problems.append(f"{path}: `{key}` is not supported here: write the schema out")
    if "string" in kinds:
        problems.extend(_annotation_problems(schema, path))
    if "object" in kinds:
        if schema.get("additionalProperties") is not False:
            problems.append(f"{path}: an object must say `additionalProperties: false`")
        for name, part in schema.get("properties", {}).items():
            problems.extend(inspect_problems(part, f"{path}/properties/{name}"))
    if "array" in kinds:
        if "maxItems" not in schema:
            problems.append(f"{path}: an array must say `maxItems`")
        problems.extend(inspect_problems(schema.get("items"), f"{path}/items"))
    for key in combined:
        for index, part in enumerate(schema[key]):
            problems.extend(inspect_problems(part, f"{path}/{key}/{index}"))
    return problems


def _annotation_problems(schema: Mapping[str, Any], path: str) -> list[str]:
    note = schema.get("x-inspect")
    problems = [] if "maxLength" in schema else [f"{path}: a string must say `maxLength`"]
    if not isinstance(note, dict) or note.keys() != {"role", "use"}:
        return [*problems, f"{path}: a string must say `x-inspect` with `role` and `use`"]
    if note["role"] not in _ROLES:
        problems.append(f"{path}: `x-inspect.role` must be one of {', '.join(sorted(_ROLES))}")
    if note["use"] not in _USES:
        problems.append(f"{path}: `x-inspect.use` must be one of {', '.join(sorted(_USES))}")
    return problems


def bad_set_names(files: Files) -> tuple[str, ...]:
    """Return the names of the sets under `tests/bad/`."""
    return tuple(sorted({name.split("/")[2] for name in files if name.startswith(_BAD)}))


def bad_set_faults(files: Files, name: str, zones: Zones) -> tuple[str, tuple[Fault, ...], list[Fault]]:
    """Lay one bad set over the good one; return the message expected, what it was refused for, and faults of the case itself."""
    prefix = f"{_BAD}{name}/"
    case_faults: list[Fault] = []
    file = prefix + "expect.toml"
    table = read_table(file, files.get(file, b""), case_faults)
    table.known("says", "message", "without")
    table.string("says")
    message = table.string("message")
    good = {path: content for path, content in files.items() if not path.startswith(_BAD)}
    for path in table.strings("without"):
        if good.pop(path, None) is None:
            table.fault(f"`without` names `{path}`, which the set does not have", "without")
    laid = {path.removeprefix(prefix): content for path, content in files.items() if path.startswith(prefix) and path != file}
    try:
        build({**good, **laid}, routes=None, zones=zones)
    except PolicyFaults as refused:
        return message, refused.faults, case_faults
    return message, (), case_faults


def _run_bad_sets(files: Files, zones: Zones) -> list[Fault]:
    faults: list[Fault] = []
    for name in bad_set_names(files):
        message, found, case_faults = bad_set_faults(files, name, zones)
        faults.extend(case_faults)
        if not found:
            faults.append(Fault(f"{_BAD}{name}", 0, "this set must be refused but was accepted"))
        elif not any(message in str(fault) for fault in found):
            faults.append(Fault(f"{_BAD}{name}", 0, f"refused, but not with `{message}`: {found[0]}"))
    return faults
