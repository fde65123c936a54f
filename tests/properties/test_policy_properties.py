"""What holds for every set of policies: adding a forbid never grants, adding a permit never loosens, errors never allow."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_sets import WEDNESDAY_NOON_S, small

from gateway.evidence import Obligations, StreamMode
from gateway.policy.cedar_text import split
from gateway.policy.decide import PolicySet
from gateway.policy.facts import DATA_CLASSES, EXTERNAL, UNKNOWN, Context, Zones
from gateway.policy.faults import line_of
from gateway.policy.obligations import GRANTS, Standards, Stated, merge
from gateway.policy.testing import example_subject

PRINCIPALS = ("principal", 'principal in Gateway::Role::"reader"', 'principal in Gateway::Role::"writer"', "principal is Gateway::Key")
ACTIONS = (
    "action",
    'action in Gateway::Action::"use"',
    'action == Gateway::Action::"chat"',
    'action in [Gateway::Action::"chat", Gateway::Action::"model:see"]',
)
RESOURCES = ("resource", "resource is Gateway::Model", 'resource == Gateway::Model::"m"')
CONDITIONS = (
    "",
    "when { context.hour < 12 }",
    'unless { context.zone == "loopback" }',
    "when { context.data_level > principal.clearance }",
    "when { context.token_age_minutes > 60 && !context.stream }",
    "when { context.hour * 9223372036854775807 > 0 }",  # overflows from one o'clock on: an error at decision time
    'when { context.auth_context.contains("c1") }',
)

heads = st.tuples(st.sampled_from(PRINCIPALS), st.sampled_from(ACTIONS), st.sampled_from(RESOURCES), st.sampled_from(CONDITIONS))
statements = st.tuples(st.sampled_from(("permit", "forbid")), heads)

contexts = st.builds(
    Context,
    zone=st.sampled_from(("loopback", EXTERNAL, UNKNOWN)),
    data_class=st.sampled_from(DATA_CLASSES),
    minute_of_day=st.integers(0, 1439),
    weekday=st.sampled_from(("monday", "sunday")),
    token_age_minutes=st.integers(0, 200),
    stream=st.booleans(),
    kind=st.just("user"),
    region=st.just(""),
    auth_context=st.sampled_from((frozenset(), frozenset({"c1"}))),
)
subjects = st.builds(example_subject, app_roles=st.frozensets(st.sampled_from(("reader", "writer"))))


@cache
def loaded(chosen: tuple[tuple[str, tuple[str, ...]], ...]) -> PolicySet:
    text = "".join(
        f'@id("p{number}") @says("x") @owner("x") {effect} ({head[0]}, {head[1]}, {head[2]}) {head[3]};\n'
        for number, (effect, head) in enumerate(chosen)
    )
    return small(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(statements, max_size=4), heads, subjects, contexts, st.sampled_from(("chat", "model:see")))
def test_adding_a_forbid_never_grants(before, forbid, subject, context, action):
    without = loaded(tuple(before)).decide(subject, action, "m", context)
    with_it = loaded((*before, ("forbid", forbid))).decide(subject, action, "m", context)
    assert without.allowed or not with_it.allowed


@settings(max_examples=150, deadline=None)
@given(st.lists(statements, min_size=1, max_size=5), subjects, contexts)
def test_what_is_allowed_was_permitted_and_nothing_erred(chosen, subject, context):
    policies = loaded(tuple(chosen))
    decision = policies.decide(subject, "chat", "m", context)
    assert (decision.obligations is not None) is decision.allowed
    if decision.allowed:
        assert decision.policy_ids
        assert all(policies.policies[name].permits for name in decision.policy_ids)
        overflows = [effect for effect, head in chosen if "9223372036854775807" in head[3] and "use" not in head[1]]
        applies = context.minute_of_day >= 120 and any(
            head[0] == "principal" and head[2] != "resource" and "9223372036854775807" in head[3] for _, head in chosen
        )
        assert not (overflows and applies)
    else:
        assert all(not policies.policies[name].permits for name in decision.policy_ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(statements, min_size=1, max_size=5), subjects, contexts)
def test_the_cache_changes_nothing(chosen, subject, context):
    policies = loaded(tuple(chosen))
    first = policies.decide(subject, "chat", "m", context)
    assert policies.decide(subject, "chat", "m", context) == first
    assert policies.judge(subject, policies.roles.of(subject), [("chat", "m", context)])[0] == first


STANDARDS = Standards(profile="b", tier="y", profiles=("a", "b", "c"), tiers=("x", "y", "z"), strict_profiles=frozenset({"c"}))

stated = st.builds(
    Stated,
    profile=st.sampled_from((None, "a", "b", "c")),
    tier=st.sampled_from((None, "x", "y", "z")),
    output_tokens_cap=st.none() | st.integers(1, 5000),
    output_tokens_default=st.none() | st.integers(1, 5000),
    grants=st.frozensets(st.sampled_from(sorted(GRANTS)), max_size=3),
    withheld=st.frozensets(st.sampled_from(sorted(GRANTS)), max_size=2),
    stream_mode=st.sampled_from((None, *StreamMode)),
    regions=st.none() | st.frozensets(st.sampled_from(("eu", "us", "local")), min_size=1),
)


MODES = [StreamMode.ASYNC, StreamMode.WINDOW, StreamMode.STRICT]


def no_looser(one: Obligations, other: Obligations) -> bool:
    return (
        STANDARDS.profiles.index(one.profile) >= STANDARDS.profiles.index(other.profile)
        and STANDARDS.tiers.index(one.tier) >= STANDARDS.tiers.index(other.tier)
        and one.output_tokens_cap <= other.output_tokens_cap
        and one.output_tokens_default <= other.output_tokens_default
        and (other.regions is None or (one.regions is not None and one.regions <= other.regions))
        and MODES.index(one.stream_mode) >= MODES.index(other.stream_mode)
    )


@given(st.lists(stated, min_size=1, max_size=4), stated)
def test_one_more_permit_never_loosens_an_obligation(permits, another):
    before, after = merge(permits, STANDARDS), merge([*permits, another], STANDARDS)
    assert after is None or (before is not None and no_looser(after, before))


@given(st.lists(stated, min_size=1, max_size=4).flatmap(lambda p: st.tuples(st.just(p), st.permutations(p))))
def test_the_order_of_permits_does_not_matter(both):
    assert merge(both[0], STANDARDS) == merge(both[1], STANDARDS)


@given(st.lists(stated, min_size=1, max_size=4))
def test_grants_are_given_by_one_and_withheld_by_none(permits):
    merged = merge(permits, STANDARDS)
    if merged is not None:
        assert all(any(grant in p.grants for p in permits) for grant in merged.grants)
        assert not any(grant in p.withheld for p in permits for grant in merged.grants)
        assert not {"logprobs", "logit_bias"} <= merged.grants


@given(st.text(max_size=200))
def test_splitting_loses_nothing_but_space_and_comments(text):
    # Whatever the text, every character that is not space or comment comes back in some statement, in order.
    joined = "".join(statement for _, statement in split(text))
    kept = "".join(joined.split())
    rest = iter("".join(text.split()))
    assert all(letter in rest for letter in kept)


@given(st.text(max_size=300), st.lists(st.text(max_size=8) | st.integers(0, 3), max_size=4))
def test_finding_a_line_never_raises(text, path):
    assert 0 <= line_of(text, tuple(path)) <= len(text.splitlines())


@given(st.text(max_size=60))
def test_any_peer_text_has_a_zone(peer):
    assert Zones().of(peer) in {"loopback", EXTERNAL, UNKNOWN}


def test_the_noon_of_these_tests_is_a_wednesday():
    policies = loaded(())
    context = policies.context(example_subject(), "m", peer="", stream=False, now_s=WEDNESDAY_NOON_S)
    assert (context.weekday, context.minute_of_day) == ("wednesday", 720)
