"""Reads `access/*.cedar`: one `Policy` for each statement, with its file and line, its annotations checked.

The splitter knows strings and comments only; Cedar itself parses each statement, so a disagreement between the two is a fault
and never a policy that quietly is not there. Templates are refused: a policy that needs linking cannot be read on its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import cedarpy
import msgspec

from gateway.challenge import AUTH_CONTEXT
from gateway.policy.faults import Fault
from gateway.policy.obligations import ANNOTATIONS, PERMIT_ANNOTATIONS, Standards, Stated, read_stated

NAMESPACE = "Gateway"
MAX_POLICIES = 2000

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
# A comment, a string, the end of a statement, or the start of anything else.
_TOKEN = re.compile(r"""//[^\n]*|"(?:[^"\\]|\\.)*"|;|[^\s"/;]+|/|"|\s+""", re.DOTALL)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One permit or forbid. `parsed` is Cedar's JSON form of it."""

    id: str
    says: str
    owner: str
    permits: bool
    tell: bool
    requires: str  # authentication context that would satisfy it: a permit grants only with it, a forbid says what lifts it
    stated: Stated
    file: str
    line: int
    text: str
    parsed: dict[str, Any]


def split(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each statement; the last may be unfinished."""
    start, first = 0, -1
    for token in _TOKEN.finditer(text):
        word = token[0]
        if first < 0 and not word.isspace() and not word.startswith("//"):
            first = token.start()
        if word == ";":
            yield text.count("\n", 0, first) + 1, text[first : token.end()]
            start, first = token.end(), -1
    if first >= 0:
        yield text.count("\n", 0, first) + 1, text[first if first > start else start :]


def literals(node: Any) -> Iterator[tuple[str, str]]:
    """Yield every entity (type, id) that a parsed policy names."""
    if isinstance(node, dict):
        if node.keys() == {"type", "id"} and isinstance(node["type"], str) and isinstance(node["id"], str):
            yield node["type"], node["id"]
            return
        for value in node.values():
            yield from literals(value)
    elif isinstance(node, list):
        for value in node:
            yield from literals(value)


def _check_annotations(notes: Mapping[str, str], permits: bool, problems: list[str]) -> None:
    for name in ("id", "says", "owner"):
        if not (notes.get(name) or "").strip():
            problems.append(f"the policy has no @{name}")
    if notes.get("id") and not _ID.fullmatch(notes["id"]):
        problems.append(f"@id `{notes['id']}` must be lower-case letters, digits, `.`, `_` and `-`, 80 at most")
    for name in sorted(notes.keys() - ANNOTATIONS):
        problems.append(f"unknown annotation @{name}")
    if not permits:
        problems.extend(f"@{name} is for a permit: a forbid has no obligations" for name in sorted(notes.keys() & PERMIT_ANNOTATIONS))
    if "requires_auth_context" in notes and AUTH_CONTEXT.fullmatch(notes["requires_auth_context"]) is None:
        problems.append("@requires_auth_context must be an authentication context of the directory, c1 to c99")
    if notes.get("tell", "false") not in ("true", "false"):
        problems.append('@tell must be "true" or "false"')


def _one(statement: str) -> dict[str, Any]:
    parsed = msgspec.json.decode(cedarpy.policies_to_json_str(statement))
    policies = list(parsed["staticPolicies"].values())
    if parsed["templates"] or len(policies) != 1 or not isinstance(policies[0], dict):
        raise ValueError("this is not one policy that stands on its own: templates are not used here")
    return policies[0]


def read_policies(file: str, content: bytes, schema: cedarpy.Schema, standards: Standards, faults: list[Fault]) -> list[Policy]:
    """Read one file of policies, each validated against the schema in strict mode."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        faults.append(Fault(file, 0, "the file is not UTF-8"))
        return []
    policies: list[Policy] = []
    for line, statement in split(text):
        try:
            parsed = _one(statement)
        except ValueError as error:
            faults.append(Fault(file, line, f"not Cedar: {error}"))
            continue
        problems: list[str] = []
        notes = {name: value or "" for name, value in parsed.get("annotations", {}).items()}
        permits = parsed["effect"] == "permit"
        _check_annotations(notes, permits, problems)
        stated = read_stated(notes, standards, problems) if permits else Stated()
        verdict = cedarpy.validate_policies(statement, schema)
        problems.extend(error.error.replace("for policy `policy0`, ", "") for error in verdict.errors)
        if not verdict.validation_passed and not verdict.errors:
            problems.append("the policy does not fit the schema")
        faults.extend(Fault(file, line, problem) for problem in problems)
        policies.append(
            Policy(
                id=notes.get("id", ""),
                says=notes.get("says", ""),
                owner=notes.get("owner", ""),
                permits=permits,
                tell=notes.get("tell") == "true",
                requires=notes.get("requires_auth_context", ""),
                stated=stated,
                file=file,
                line=line,
                text=statement,
                parsed=parsed,
            )
        )
    if not policies and not any(fault.file == file for fault in faults):
        faults.append(Fault(file, 0, "the file holds no policy"))
    return policies


def check_together(policies: list[Policy], roles: frozenset[str], models: frozenset[str], faults: list[Fault]) -> None:
    """Check what only the whole set shows: ids used twice, and roles, models and services that do not exist."""
    if len(policies) > MAX_POLICIES:
        faults.append(Fault("access", 0, f"the set holds over {MAX_POLICIES} policies"))
    seen: dict[str, Policy] = {}
    known = {
        "Role": (roles, "roles.toml defines no role"),
        "Model": (models, "neither settings nor the tests declare a model"),
        "Service": (frozenset({"gateway"}), "there is no service"),
    }
    for policy in policies:
        first = seen.setdefault(policy.id, policy)
        if first is not policy and policy.id:
            message = f"@id `{policy.id}` is used twice: first at {first.file}:{first.line}"
            faults.append(Fault(policy.file, policy.line, message))
        # SECURITY: a forbid that names a model nobody has is a forbid that never applies
        for kind, name in sorted(set(literals(policy.parsed))):
            names, words = known.get(kind.removeprefix(f"{NAMESPACE}::"), (None, ""))
            if names is not None and name not in names:
                faults.append(Fault(policy.file, policy.line, f"{words} `{name}`"))
