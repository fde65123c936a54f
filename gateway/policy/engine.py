"""Asks Cedar, with the schema at every step. An error of any kind is not an answer.

Two ways Cedar fails open, both closed here and proven in `tests/house/test_cedar_traps.py`: a policy that errors is skipped, so
that a forbid over a missing attribute disappears; and a forbid on an action group does not match when the entities were built
without the schema. INVARIANT: entities, requests and policies all meet the same schema, and a ruling with errors denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import cedarpy
import msgspec

from gateway.evidence import Subject, SubjectKind
from gateway.policy.cedar_text import NAMESPACE, Policy, literals
from gateway.policy.facts import RouteFacts
from gateway.policy.recent import Recent

PRINCIPALS = 1024  # parsed subjects kept; a subject's requests of the next minute need not be parsed again
SERVICE = "gateway"  # the one Service: what is done to the gateway itself

_TYPES: Mapping[SubjectKind, str] = {
    SubjectKind.USER: f"{NAMESPACE}::User",
    SubjectKind.APPLICATION: f"{NAMESPACE}::Application",
    SubjectKind.SERVICE_ACCOUNT: f"{NAMESPACE}::ServiceAccount",
    SubjectKind.KEY: f"{NAMESPACE}::Key",
}


class Question(msgspec.Struct, frozen=True):
    """One action on one model; an empty model means the gateway itself. `context` is the schema's `Context` record."""

    action: str
    model: str
    context: Mapping[str, object]


class Ruling(msgspec.Struct, frozen=True):
    """Cedar's answer. `ids` are the satisfied permits of a yes, the satisfied forbids of a no. `failed`: no clean answer."""

    allowed: bool
    ids: tuple[str, ...]
    failed: bool = False


_NO = Ruling(False, (), True)


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": f"{NAMESPACE}::{kind}", "id": name}


class Engine:
    """The parsed policies, schema and models of one set. Raises `ValueError` when they do not fit together."""

    def __init__(self, schema: cedarpy.Schema, policies: Sequence[Policy], routes: Iterable[RouteFacts]) -> None:
        self._schema = schema
        # Keyed by @id, so that no positional name can attribute a decision to another policy.
        parsed = {policy.id: policy.parsed for policy in policies}
        document = {"templates": {}, "staticPolicies": parsed, "templateLinks": []}
        self._policies = cedarpy.PolicySet.from_json_str(msgspec.json.encode(document).decode())
        if len(self._policies) != len(policies):
            raise ValueError("the policy engine holds another number of policies than the files")
        models = [
            {
                "uid": _uid("Model", route.name),
                "attrs": {
                    "data_class": route.data_class,
                    "data_level": route.data_level,
                    "region": route.region,
                    "owner": route.owner,
                    "operations": sorted(route.operations),
                },
                "parents": [],
            }
            for route in routes
        ]
        self._entities = cedarpy.Entities.from_json_str(msgspec.json.encode(models).decode(), schema)
        self._principals: Recent[tuple[Subject, frozenset[str], int], cedarpy.Entities] = Recent(PRINCIPALS)
        # A directory may put a person in hundreds of groups; only those that some policy names can matter.
        self._groups = frozenset(name for policy in policies for kind, name in literals(policy.parsed) if kind == f"{NAMESPACE}::Group")

    def ask(self, subject: Subject, roles: frozenset[str], clearance: int, questions: Sequence[Question]) -> list[Ruling]:
        """Return one ruling for each question. Never raises for anything the subject or a request holds."""
        kind = _TYPES.get(subject.kind)
        if kind is None:
            return [_NO] * len(questions)
        # INVARIANT: tenant ids and issuers hold no `|`, so no two subjects share an id
        principal = {"type": kind, "id": f"{subject.tenant}|{subject.issuer}|{subject.subject_id}"}
        try:
            entities = self._with(subject, roles, clearance, principal)
            requests = [
                {
                    "principal": principal,
                    "action": _uid("Action", question.action),
                    "resource": _uid("Model", question.model) if question.model else _uid("Service", SERVICE),
                    "context": msgspec.json.encode(question.context).decode(),
                }
                for question in questions
            ]
            answers = cedarpy.is_authorized_batch(requests, self._policies, entities, self._schema)
        except (ValueError, TypeError, OverflowError):
            return [_NO] * len(questions)
        return [_ruling(answer) for answer in answers]

    def _with(self, subject: Subject, roles: frozenset[str], clearance: int, principal: Mapping[str, str]) -> cedarpy.Entities:
        key = (subject, roles, clearance)
        known = self._principals.get(key)
        if known is not None:
            return known
        tenant = _uid("Tenant", subject.tenant)
        entity = {
            "uid": principal,
            "attrs": {
                "tenant": {"__entity": tenant},
                "issuer": subject.issuer,
                "application": subject.application,
                "scopes": sorted(subject.scopes),
                "clearance": clearance,
                "guest": subject.guest,
            },
            "parents": [
                tenant,
                *(_uid("Role", role) for role in sorted(roles)),
                *(_uid("Group", group) for group in sorted(subject.groups & self._groups)),
            ],
        }
        made = self._entities.with_added_json_str(msgspec.json.encode([entity]).decode(), self._schema)
        self._principals.put(key, made)
        return made


def _ruling(answer: cedarpy.AuthzResult) -> Ruling:
    # SECURITY: an erroring forbid was skipped, so an Allow beside an error means nothing
    if answer.diagnostics.errors or answer.decision is cedarpy.Decision.NoDecision:
        return _NO
    return Ruling(answer.decision is cedarpy.Decision.Allow, tuple(sorted(answer.diagnostics.reasons)))
