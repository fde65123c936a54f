"""Deciding: keys of the cache, merging of obligations, zones and time, roles."""

from __future__ import annotations

import msgspec
import pytest
from policy_sets import SEE, WEDNESDAY_NOON_S, asked, small

from gateway.evidence import Operation, StreamMode, SubjectKind
from gateway.policy.facts import RouteFacts, Zones
from gateway.policy.recent import Recent
from gateway.policy.testing import example_subject
from gateway.refusals import DEPLOYMENT_NOT_FOUND, POLICY_DENIED, Refusal

NOW = WEDNESDAY_NOON_S
READER = example_subject(app_roles=frozenset({"reader"}), token_digest=b"r", issued_at_s=int(NOW) - 60)
BOTH = example_subject(app_roles=frozenset({"reader", "writer"}), token_digest=b"b", issued_at_s=int(NOW) - 60)


def permit(notes: str, role: str = "reader", name: str = "p", when: str = "") -> str:
    head = f'(principal in Gateway::Role::"{role}", action == Gateway::Action::"chat", resource)'
    return f'@id("{name}") @says("x") @owner("x") {notes} permit {head} {when};\n'


def refusal(policies, subject, what, now_s=NOW) -> Refusal:
    with pytest.raises(Refusal) as found:
        policies.permit(subject, what, now_s)
    return found.value


def test_a_silent_permit_demands_the_defaults():
    obligations = small(permit("")).permit(READER, asked("m"), NOW).obligations
    assert (obligations.profile, obligations.tier) == ("strict", "small")
    assert (obligations.output_tokens_cap, obligations.output_tokens_default) == (1024, 256)
    assert obligations.grants == frozenset()
    assert obligations.regions is None


def test_the_strictest_of_several_permits_wins():
    text = permit(
        '@profile("lenient") @tier("large") @output_tokens_cap("4096") @output_tokens_default("512") @grant("seed,n") @regions("eu,us")'
    )
    text += permit(
        '@profile("lenient") @tier("large") @output_tokens_cap("2048") @output_tokens_default("900") @grant("store") @withhold("n") '
        '@regions("us,asia") @stream_mode("strict")',
        "writer",
        "q",
    )
    policies = small(text)
    merged = policies.permit(BOTH, asked("m"), NOW)
    assert merged.policy_ids == ("p", "q")
    assert merged.obligations.profile == "lenient"
    assert merged.obligations.tier == "large"
    assert (merged.obligations.output_tokens_cap, merged.obligations.output_tokens_default) == (2048, 512)
    assert merged.obligations.grants == {"seed", "store"}
    assert merged.obligations.regions == {"us"}
    assert merged.obligations.stream_mode is StreamMode.STRICT
    alone = policies.permit(READER, asked("m"), NOW).obligations
    assert alone.grants == {"seed", "n"}
    assert alone.stream_mode is StreamMode.WINDOW


def test_regions_that_exclude_one_another_deny():
    policies = small(permit('@regions("eu")') + permit('@regions("us")', "writer", "q"))
    assert policies.permit(READER, asked("m"), NOW).obligations.regions == {"eu"}
    found = refusal(policies, BOTH, asked("m"))
    assert (found.kind, found.detail) == (POLICY_DENIED, "the permitted regions exclude one another")


def test_logprobs_and_logit_bias_never_meet():
    policies = small(permit('@grant("logprobs")') + permit('@grant("logit_bias")', "writer", "q"))
    assert policies.permit(BOTH, asked("m"), NOW).obligations.grants == {"logprobs"}


def test_a_token_that_grows_old_is_decided_anew():
    policies = small(permit("", when="when { context.token_age_minutes < 5 }"))
    for minute in range(4):
        assert policies.permit(READER, asked("m"), NOW + 60 * minute)
    assert refusal(policies, READER, asked("m"), NOW + 60 * 4).kind is POLICY_DENIED
    assert policies.permit(READER, asked("m"), NOW)


@pytest.mark.parametrize(
    ("when", "yes", "no"),
    [
        ("when { context.stream }", {"stream": True}, {"stream": False}),
        ('when { context.zone == "corporate" }', {"peer": "10.0.0.1"}, {"peer": "192.0.2.1"}),
        ('when { resource == Gateway::Model::"m" }', {"model": "m"}, {"model": "other"}),
    ],
)
def test_the_cache_tells_requests_apart(when, yes, no):
    policies = small(permit("", when=when))
    for _ in range(2):  # from the engine, then from the cache
        assert policies.permit(READER, asked(**{"model": "m", **yes}), NOW)
        assert refusal(policies, READER, asked(**{"model": "m", **no})).kind is POLICY_DENIED


@pytest.mark.parametrize(
    ("condition", "change"),
    [
        ('principal.tenant == Gateway::Tenant::"other"', {"tenant": "other"}),
        ("principal.guest", {"guest": True}),
        ('principal.scopes.contains("s")', {"scopes": frozenset({"s"})}),
        ('principal.application == "app"', {"application": "app"}),
        ('principal.issuer == "https://other.example"', {"issuer": "https://other.example"}),
        ('context.auth_context.contains("c1")', {"auth_context": frozenset({"c1"})}),
        ('principal in Gateway::Group::"g"', {"groups": frozenset({"g"})}),
        ("principal is Gateway::Key", {"kind": SubjectKind.KEY}),
        ('principal == Gateway::User::"example|https://issuer.example|somebody"', {"subject_id": "somebody"}),
    ],
)
def test_the_cache_tells_subjects_apart_even_with_one_token_digest(condition, change):
    policies = small(permit("", when=f"when {{ {condition} }}"))
    other = msgspec.structs.replace(READER, **change)
    for _ in range(2):
        assert refusal(policies, READER, asked("m")).kind is POLICY_DENIED
        assert policies.permit(other, asked("m"), NOW)


def test_unknown_names_take_no_place_in_the_cache():
    policies = small(permit(""))
    for number in range(100):
        assert refusal(policies, READER, asked(f"x{number}")).kind is DEPLOYMENT_NOT_FOUND
        context = policies.context(READER, f"x{number}", peer="", stream=False, now_s=NOW)
        assert not policies.decide(READER, "chat", f"x{number}", context).allowed
    assert len(policies._outcomes) == len(policies._decisions) == 0


def test_an_unknown_model_is_denied_even_by_a_permit_on_everything():
    policies = small('@id("p") @says("x") @owner("x") permit (principal, action, resource);')
    assert refusal(policies, READER, asked("x")).kind is DEPLOYMENT_NOT_FOUND
    context = policies.context(READER, "x", peer="", stream=False, now_s=NOW)
    assert not policies.decide(READER, "chat", "x", context).allowed
    assert not policies.decide(READER, "chat", "", context).allowed
    assert not policies.decide(READER, "moderate", "m", context).allowed
    assert not policies.decide(READER, "no-such-action", "m", context).allowed


def test_what_may_not_be_seen_and_what_does_not_exist_are_one_answer():
    policies = small(permit("", role="writer"))
    stranger = example_subject(app_roles=frozenset({"writer"}))  # may chat, may not see
    answers = [refusal(policies, stranger, asked(name)) for name in ("m", "no-such-model")]
    assert {(a.kind, a.message, a.param, str(a.inner), a.headers) for a in answers} == {
        (DEPLOYMENT_NOT_FOUND, DEPLOYMENT_NOT_FOUND.message, None, "None", ())
    }


def test_the_reason_holds_no_identity():
    forbid = '@id("f") @says("x") @owner("x") @tell("true") forbid (principal, action == Gateway::Action::"chat", resource);\n'
    policies = small(forbid + permit(""))
    who = msgspec.structs.replace(READER, subject_id="alice@example.com")
    found = refusal(policies, who, asked("m"))
    assert found.detail == "forbidden by f"
    assert found.inner == {"code": "PolicyDenied", "reasons": ["f"]}


def test_every_operation_has_an_action_that_policies_decide():
    policies = small(SEE.replace('"see"', '"see2"'))
    for operation in Operation:
        nobody = example_subject()
        assert refusal(policies, nobody, asked("m", operation)).kind in (POLICY_DENIED, DEPLOYMENT_NOT_FOUND)


def test_roles_come_from_exact_claims():
    roles = b"""
[roles.reader]
says = "x"
clearance = "internal"
app_roles = ["reader"]
groups = ["1111"]
applications = ["example/app-1"]
service_accounts = ["example/ns/name"]
keys = ["example/key-1"]
tenants = ["example"]
"""
    of = small("", roles_toml=roles).roles.of
    kinds = SubjectKind
    yes = [
        {"app_roles": frozenset({"reader", "x"})},
        {"groups": frozenset({"1111"})},
        {"kind": kinds.APPLICATION, "application": "app-1"},
        {"kind": kinds.SERVICE_ACCOUNT, "subject_id": "ns/name"},
        {"kind": kinds.KEY, "subject_id": "key-1"},
    ]
    no = [
        {"app_roles": frozenset({"Reader", "reader "})},
        {"groups": frozenset({"reader"})},
        {"application": "app-1"},  # a user's token that came through the application
        {"kind": kinds.APPLICATION, "application": "app-2"},
        {"kind": kinds.APPLICATION, "subject_id": "ns/name"},
        {"kind": kinds.KEY, "subject_id": "ns/name"},
        {"kind": kinds.SERVICE_ACCOUNT, "subject_id": "key-1"},
        {"scopes": frozenset({"reader"})},
    ]
    assert all(of(example_subject(**facts)) == {"reader"} for facts in yes)
    assert all(of(example_subject(**facts)) == frozenset() for facts in no)
    assert all(of(example_subject(**facts, tenant="elsewhere")) == frozenset() for facts in yes)


def test_zones():
    zones = Zones({"corporate": ["10.0.0.0/8", "2001:db8::/32"], "lab": ["10.9.0.0/16"]})
    expected = {
        "10.1.1.1": "corporate",
        "10.9.1.1": "lab",
        "::ffff:10.9.1.1": "lab",
        "2001:db8::5": "corporate",
        "127.0.0.1": "loopback",
        "::1": "loopback",
        "": "loopback",
        "192.0.2.1": "external",
        "fe80::1%eth0": "external",
        "localhost": "unknown",
        "10.1": "unknown",
    }
    assert {peer: zones.of(peer) for peer in expected} == expected
    for broken in ({"loopback": ["0.0.0.0/0"]}, {"x": ["10.0.0.1/8"]}, {"x": ["nonsense"]}):
        with pytest.raises(ValueError):  # noqa: PT011
            Zones(broken)


def test_a_flood_of_peers_is_forgotten():
    zones = Zones()
    for number in range(10_000):
        zones.of(f"10.0.{number // 256}.{number % 256}")
    assert len(zones._known) <= 4096


def test_recent_forgets_the_least_used():
    recent: Recent[int, str] = Recent(2)
    recent.put(1, "a")
    recent.put(2, "b")
    assert recent.get(1) == "a"
    recent.put(3, "c")
    assert (recent.get(1), recent.get(2), recent.get(3), len(recent)) == ("a", None, "c", 2)


def test_an_unknown_data_class_counts_as_the_most_sensitive():
    assert RouteFacts(name="m", data_class="cosmic").data_level == 3
    cleared = permit("", when="when { context.data_level <= principal.clearance }")
    policies = small(cleared, routes={"m": RouteFacts(name="m", data_class="cosmic")})
    assert refusal(policies, READER, asked("m")).kind is POLICY_DENIED


def test_names_that_callers_invent_take_no_place_in_the_cache():
    """SECURITY: a model's name in a request to the gateway itself is anybody's text, of any length; none of it is kept."""
    text = '@id("p") @says("x") @owner("x") permit (principal, action == Gateway::Action::"moderate", resource);\n'
    policies = small(text)
    for number in range(5):
        name = f"{number}" * 1_000
        granted = policies.permit(READER, asked(name, Operation.MODERATIONS), NOW)
        assert granted.asked.model == name
    assert len(policies._outcomes) == 1
