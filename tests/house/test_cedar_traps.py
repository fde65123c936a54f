"""Two ways in which Cedar alone fails open, reproduced against the library, and proof that our engine does not.

Both were measured on cedarpy 4.12. If a new version behaves otherwise the reproductions fail, and the guard may be reviewed.
"""

from __future__ import annotations

import json

import cedarpy
import msgspec
import pytest
from policy_sets import SEE, STARTER, WEDNESDAY_NOON_S, small

from gateway.policy.engine import Engine, Question
from gateway.policy.facts import RouteFacts, context_at
from gateway.policy.testing import example_subject

PERMIT = '@id("p") permit (principal, action, resource is Gateway::Model);'
FORBID_CLASS = '@id("f") forbid (principal, action, resource is Gateway::Model) when { context.data_class == "restricted" };'
FORBID_GROUP = '@id("g") forbid (principal, action in Gateway::Action::"use", resource);'

SCHEMA = cedarpy.Schema.from_str((STARTER / "gateway.cedarschema").read_text())
SUBJECT = example_subject(app_roles=frozenset({"reader"}), issued_at_s=int(WEDNESDAY_NOON_S))
ROUTE = RouteFacts(name="m", data_class="restricted")
CONTEXT = context_at(SUBJECT, ROUTE, "loopback", False, int(WEDNESDAY_NOON_S) // 60).as_cedar()

USER = {"type": "Gateway::User", "id": "u"}
TENANT = {"type": "Gateway::Tenant", "id": "t"}
ENTITIES = [
    {
        "uid": USER,
        "attrs": {"tenant": {"__entity": TENANT}, "issuer": "", "application": "", "scopes": [], "clearance": 3, "guest": False},
        "parents": [],
    },
    {
        "uid": {"type": "Gateway::Model", "id": "m"},
        "attrs": {"data_class": "restricted", "data_level": 3, "region": "", "owner": "", "operations": []},
        "parents": [],
    },
]


def request(context: dict[str, object]) -> dict[str, object]:
    return {
        "principal": USER,
        "action": {"type": "Gateway::Action", "id": "chat"},
        "resource": {"type": "Gateway::Model", "id": "m"},
        "context": context,
    }


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in CONTEXT.items() if key != name}


def test_reproduction_a_forbid_over_a_missing_attribute_is_skipped():
    policies = cedarpy.PolicySet.from_str(PERMIT + FORBID_CLASS)
    answer = cedarpy.is_authorized(request(without("data_class")), policies, json.dumps(ENTITIES))
    assert answer.decision is cedarpy.Decision.Allow
    assert answer.diagnostics.errors


def test_reproduction_a_forbid_on_an_action_group_does_not_match_without_the_schema_in_the_entities():
    policies = cedarpy.PolicySet.from_str(PERMIT + FORBID_GROUP)
    bare = cedarpy.Entities.from_json_str(json.dumps(ENTITIES))
    answer = cedarpy.is_authorized(request(CONTEXT), policies, bare, SCHEMA)
    assert answer.decision is cedarpy.Decision.Allow
    assert not answer.diagnostics.errors
    typed = cedarpy.Entities.from_json_str(json.dumps(ENTITIES), SCHEMA)
    assert cedarpy.is_authorized(request(CONTEXT), policies, typed, SCHEMA).decision is cedarpy.Decision.Deny


def engine(*statements: str) -> Engine:
    policies = small("".join(f'@says("x") @owner("x") {s}\n' for s in statements)).policies.values()
    return Engine(SCHEMA, list(policies), [ROUTE])


@pytest.mark.parametrize("name", sorted(CONTEXT))
def test_a_missing_attribute_denies(name):
    rules = engine(PERMIT, FORBID_CLASS.replace("restricted", "never"))
    whole, short = rules.ask(SUBJECT, frozenset(), 0, [Question("chat", "m", CONTEXT), Question("chat", "m", without(name))])
    assert whole.allowed
    assert not short.allowed
    assert short.failed


@pytest.mark.parametrize("name", sorted(CONTEXT))
def test_an_attribute_of_another_type_denies(name):
    wrong = {**CONTEXT, name: {"odd": 1}}
    ruling = engine(PERMIT).ask(SUBJECT, frozenset(), 0, [Question("chat", "m", wrong)])[0]
    assert ruling.failed
    assert not ruling.allowed


def test_an_attribute_nobody_declared_denies():
    ruling = engine(PERMIT).ask(SUBJECT, frozenset(), 0, [Question("chat", "m", {**CONTEXT, "admin": True})])[0]
    assert ruling.failed


def test_a_forbid_on_an_action_group_denies_every_member():
    policies = small(
        '@id("p") @says("x") @owner("x") permit (principal, action, resource);'
        '@id("g") @says("x") @owner("x") forbid (principal, action in Gateway::Action::"use", resource);',
        tests__t_toml=b'[models.m]\n[[test]]\nname="x"\nwho={}\ndoes="use"\non="m"\nexpect="deny"\n',
    )
    context = policies.context(SUBJECT, "m", peer="", stream=False, now_s=WEDNESDAY_NOON_S)
    for action in ("chat", "complete", "embed", "infer", "score"):
        decision = policies.decide(SUBJECT, action, "m", context)
        assert not decision.allowed
        assert decision.policy_ids == ("g",)
    service = policies.context(SUBJECT, "", peer="", stream=False, now_s=WEDNESDAY_NOON_S)
    assert policies.decide(SUBJECT, "moderate", "", service).policy_ids == ("g",)
    assert policies.decide(SUBJECT, "models:list", "", service).allowed


def test_a_policy_that_errors_at_decision_time_denies():
    # Integer overflow passes the validator and fails when evaluated.
    overflow = '@id("f") forbid (principal, action, resource) when { context.hour * 9223372036854775807 * 2 > 1 };'
    ruling = engine(PERMIT, overflow).ask(SUBJECT, frozenset(), 0, [Question("chat", "m", CONTEXT)])[0]
    assert ruling.failed
    assert not ruling.allowed


@pytest.mark.parametrize("kind", ["user ", "", "root"])
def test_an_unknown_kind_of_subject_denies(kind):
    odd = msgspec.structs.replace(SUBJECT, kind=kind)
    assert engine(PERMIT).ask(odd, frozenset(), 0, [Question("chat", "m", CONTEXT)])[0].failed


@pytest.mark.parametrize("name", ["a\nb", 'x", "y', "\x00", "用户", "\ud800", "a|b"])
def test_hostile_identities_are_data(name):
    odd = msgspec.structs.replace(SUBJECT, subject_id=name)
    ruling = engine(PERMIT).ask(odd, frozenset(), 0, [Question("chat", "m", CONTEXT)])[0]
    assert ruling.allowed is (name != "\ud800")  # what cannot be written as UTF-8 has no answer


def test_two_statements_that_share_an_annotation_line_keep_their_own_ids():
    policies = small(SEE.replace('"see"', '"b"') + SEE.replace('"see"', '"a"'))
    assert set(policies.policies) == {"see", "a", "b"}
    context = policies.context(SUBJECT, "m", peer="", stream=False, now_s=WEDNESDAY_NOON_S)
    assert policies.decide(SUBJECT, "model:see", "m", context).policy_ids == ("a", "b", "see")
