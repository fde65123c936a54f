"""The starter set: what every role may do with every model, in full; each broken set refused with its message."""

from __future__ import annotations

import itertools

import pytest
from policy_sets import INVARIANTS, STARTER, WEDNESDAY_NOON_S, asked, starter

from gateway.evidence import Operation
from gateway.policy.content_profiles import EntityAction
from gateway.policy.facts import RouteFacts, Zones
from gateway.policy.files import read_files
from gateway.policy.load import bad_set_faults, bad_set_names, load_policies
from gateway.policy.testing import example_subject
from gateway.refusals import DEPLOYMENT_NOT_FOUND, INVALID_REQUEST, POLICY_DENIED, Refusal

FILES = read_files(STARTER)
POLICIES = starter(corporate=["10.0.0.0/8"])

MODELS = ("assistant", "echo", "echo-restore", "echo-open", "leaky", "hostile", "slow", "restricted", "embed", "score")
TALK = (Operation.CHAT, Operation.COMPLETIONS)
USE = (*TALK, Operation.EMBEDDINGS, Operation.SCORE, Operation.INFER)

# The quickstart's table: role -> model -> operations.
_COMMON = {"assistant": TALK, "echo": TALK, "echo-restore": TALK}
_DEMONSTRATION = {"leaky": TALK, "hostile": TALK, "slow": TALK}
_BUILD = {"embed": (Operation.EMBEDDINGS,), "score": (Operation.SCORE, Operation.INFER)}
TABLE = {
    "analyst": {**_COMMON, **_DEMONSTRATION},
    "developer": {**_COMMON, **_DEMONSTRATION, **_BUILD},
    "operator": {**_COMMON, "restricted": TALK},
    "loadtest": {**_COMMON, **_DEMONSTRATION, **_BUILD, "echo-open": TALK},
    "auditor": {},
}
TIERS = {"analyst": "small", "developer": "normal", "operator": "normal", "loadtest": "unlimited"}
PROFILES = {"echo": "echo", "echo-restore": "echo-restore", "echo-open": "open"}


def subject(*roles: str, **facts):
    return example_subject(app_roles=frozenset(roles), issued_at_s=int(WEDNESDAY_NOON_S) - 60, **facts)


def refused(who, what, now_s=WEDNESDAY_NOON_S) -> Refusal:
    with pytest.raises(Refusal) as found:
        POLICIES.permit(who, what, now_s)
    return found.value


@pytest.mark.parametrize(("role", "model"), list(itertools.product(TABLE, MODELS)))
def test_the_matrix(role, model):
    for operation in USE:
        if operation in TABLE[role].get(model, ()):
            permit = POLICIES.permit(subject(role), asked(model, operation), WEDNESDAY_NOON_S)
            assert permit.obligations.tier == TIERS[role]
            assert permit.obligations.profile == PROFILES.get(model, "default")
            assert permit.roles == {role}
            assert permit.policy_digest == POLICIES.digest
            assert permit.generation is POLICIES
            assert permit.obligations.output_tokens_cap == 1024
            assert permit.obligations.output_tokens_default == 256
        else:
            assert refused(subject(role), asked(model, operation)).kind is POLICY_DENIED


@pytest.mark.parametrize("model", [*MODELS, "no-such-model", "", "ASSISTANT", "assistant "])
def test_an_outsider_cannot_tell_what_exists(model):
    for operation in (*USE, Operation.MODELS_GET):
        refusal = refused(subject(), asked(model, operation))
        assert refusal.kind is DEPLOYMENT_NOT_FOUND
        assert (refusal.message, refusal.param, refusal.inner) == (DEPLOYMENT_NOT_FOUND.message, None, None)
    assert POLICIES.visible_models(subject(), WEDNESDAY_NOON_S) == ()
    assert POLICIES.usable_models(subject(), WEDNESDAY_NOON_S) == ()


@pytest.mark.parametrize("role", TABLE)
def test_any_role_sees_all_ten_and_lists_what_it_may_use(role):
    assert POLICIES.visible_models(subject(role), WEDNESDAY_NOON_S) == MODELS
    assert POLICIES.usable_models(subject(role), WEDNESDAY_NOON_S) == tuple(m for m in MODELS if m in TABLE[role])
    for model in MODELS:
        assert POLICIES.permit(subject(role), asked(model, Operation.MODELS_GET), WEDNESDAY_NOON_S).route == model
    assert POLICIES.permit(subject(role), asked("", Operation.MODELS_LIST), WEDNESDAY_NOON_S).route == "models.list"


@pytest.mark.parametrize(
    ("role", "may", "scores"),
    [("analyst", False, False), ("developer", True, True), ("operator", True, False), ("loadtest", True, True), ("auditor", False, False)],
)
def test_moderations_and_scores_are_two_permissions(role, may, scores):
    for model in ("", "omni-moderation-latest", "no-such-model"):
        if may:
            permit = POLICIES.permit(subject(role), asked(model, Operation.MODERATIONS), WEDNESDAY_NOON_S)
            assert ("moderation_scores" in permit.obligations.grants) is scores
        else:
            assert refused(subject(role), asked(model, Operation.MODERATIONS)).kind is POLICY_DENIED
    assert refused(subject(), asked("", Operation.MODERATIONS)).kind is POLICY_DENIED


@pytest.mark.parametrize("role", ["analyst", "operator", "loadtest", "developer"])
@pytest.mark.parametrize("hour", range(24))
def test_the_demonstration_works_at_any_hour_from_loopback(role, hour):
    for day in range(7):
        now_s = WEDNESDAY_NOON_S + day * 86_400 + hour * 3600
        who = example_subject(app_roles=frozenset({role}), issued_at_s=int(now_s) - 719 * 60)
        for model, operations in TABLE[role].items():
            assert POLICIES.permit(who, asked(model, operations[0]), now_s).route == model


def test_a_denied_caller_is_told_only_what_policies_tell():
    told = refused(subject("analyst"), asked("restricted"))
    assert told.inner == {"code": "PolicyDenied", "reasons": ["no-read-up", "restricted-is-for-operators"]}
    assert "restricted" not in told.message
    assert refused(subject("analyst"), asked("echo-open")).inner == {"code": "PolicyDenied", "reasons": []}


def test_where_and_when_count():
    operator = subject("operator")
    assert POLICIES.permit(operator, asked("restricted", peer="10.1.2.3"), WEDNESDAY_NOON_S)
    assert POLICIES.permit(operator, asked("restricted", peer="::ffff:10.1.2.3"), WEDNESDAY_NOON_S)
    for peer in ("203.0.113.9", "2001:db8::1", "not-an-address", "10.1.2.3.4"):
        assert "restricted-data-stays-inside" in refused(operator, asked("restricted", peer=peer)).detail
    late = WEDNESDAY_NOON_S + 10 * 3600
    fresh = example_subject(app_roles=frozenset({"operator"}), issued_at_s=int(late) - 60)
    assert "restricted-embargo-hours" in refused(fresh, asked("restricted", peer="10.1.2.3"), late).detail
    assert POLICIES.permit(operator, asked("assistant", peer="203.0.113.9"), WEDNESDAY_NOON_S + 59 * 60)
    assert "operators-sign-in-again" in refused(operator, asked("assistant", peer="203.0.113.9"), WEDNESDAY_NOON_S + 60 * 60).detail


def test_the_control_port_has_its_own_permissions():
    may = {
        "auditor": {"audit:read", "policy:explain", "status:read", "content:reveal"},
        "operator": {"policy:explain", "status:read"},
    }
    for role in (*TABLE, ""):
        who = subject(role)
        context = POLICIES.context(who, "", peer="127.0.0.1", stream=False, now_s=WEDNESDAY_NOON_S)
        for action in ("audit:read", "policy:explain", "status:read", "content:reveal"):
            assert POLICIES.decide(who, action, "", context).allowed is (action in may.get(role, set())), (role, action)


def test_an_operation_the_model_does_not_offer():
    routes = {name: RouteFacts(name=name, operations=frozenset({"chat.completions"})) for name in MODELS}
    policies = load_policies(STARTER, invariants=INVARIANTS, routes=routes)
    with pytest.raises(Refusal) as found:
        policies.permit(subject("analyst"), asked("assistant", Operation.COMPLETIONS), WEDNESDAY_NOON_S)
    assert (found.value.kind, found.value.param) == (INVALID_REQUEST, "model")
    with pytest.raises(Refusal) as found:
        policies.permit(subject("auditor"), asked("assistant", Operation.COMPLETIONS), WEDNESDAY_NOON_S)
    assert found.value.kind is POLICY_DENIED


def test_what_the_profiles_promise():
    profiles = POLICIES.content.profiles
    for name in ("echo", "echo-restore", "open"):
        for rules in (profiles[name].inbound, profiles[name].outbound):
            assert not rules.block_at
            assert rules.document_attack_block_at is None
            named = [action for kind, action in rules.entities.items() if kind != "CANARY"]  # which the caller's own prompt asks for
            assert EntityAction.BLOCK not in (*named, rules.entity_default, rules.secrets, rules.smuggling)
            assert rules.unsupported_language is EntityAction.RECORD
    default = profiles["default"]
    assert default.inbound.block_at.keys() == default.inbound.record_at.keys()
    assert default.inbound.unsupported_language is EntityAction.BLOCK
    assert {p.inbound.secrets for n, p in profiles.items() if n != "open"} == {EntityAction.REDACT}
    assert profiles["echo-restore"].restore
    assert profiles["echo-restore"].inbound.entity_default is EntityAction.PSEUDONYMISE
    assert profiles["open"].inbound.entity_default is EntityAction.RECORD


def test_what_the_tiers_promise():
    small, large = POLICIES.tier("small"), POLICIES.tier("unlimited")
    assert (small.requests_per_minute, small.burst, small.tokens_per_minute, small.concurrent) == (20, 20, 20_000, 2)
    assert large.requests_per_minute >= 1_000_000
    assert large.daily_tokens is None


@pytest.mark.parametrize("name", bad_set_names(FILES))
def test_each_bad_set_is_refused_with_its_message(name):
    message, faults, case_faults = bad_set_faults(FILES, name, Zones())
    assert not case_faults
    assert message
    assert any(message in str(fault) for fault in faults), [str(fault) for fault in faults]


def test_the_whole_set_passes_with_its_invariants():
    assert load_policies(STARTER, invariants=INVARIANTS, routes=None, bad_sets=True).digest == POLICIES.digest


def test_every_policy_says_what_it_does_in_one_sentence():
    for policy in POLICIES.policies.values():
        assert policy.says.endswith("."), policy.id
        assert policy.says[0].isupper()
        assert policy.owner


def test_the_vocabulary_names_every_grant():
    from gateway.policy.obligations import GRANTS

    text = FILES["gateway.cedarschema"].decode()
    for grant in GRANTS:
        assert grant in text
