"""Words of `content.toml` as rules that inspection runs on."""

from __future__ import annotations

import msgspec
import pytest
from policy_sets import STARTER

from gateway.content.rules import Action
from gateway.evidence import Span
from gateway.policy.content_profiles import EntityAction
from gateway.policy.facts import RouteFacts
from gateway.policy.holder import PolicyHolder
from gateway.profiles import _ACTIONS, compile_rules, rules_source
from gateway.quickstart.state import CLASSES, MODELS

CURRENT = PolicyHolder(
    STARTER, routes={n: RouteFacts(name=n, operations=frozenset(o), data_class=CLASSES.get(n, "internal")) for n, o in MODELS.items()}
).current


def test_every_word_has_an_action() -> None:
    assert set(_ACTIONS) == set(EntityAction)
    assert {word.value: action.name.lower() for word, action in _ACTIONS.items()} == {word.value: word.value for word in EntityAction}


@pytest.mark.parametrize("name", ["default", "echo", "echo-restore", "open"])
def test_nothing_is_lost_in_translation(name: str) -> None:
    profile = CURRENT.profile(name)
    made = compile_rules(profile, CURRENT.digest, ner_enabled=True)
    for policy, rules in ((profile.inbound, made.inbound), (profile.outbound, made.outbound)):
        assert dict(policy.block_at) == rules.block_at and dict(policy.record_at) == rules.record_at
        assert rules.ner is policy.ner and rules.languages == policy.languages and rules.deadline_s == policy.deadline_s
        assert (rules.blocklist is not None) is bool(policy.blocklist)
        assert rules.on_error is Action.BLOCK
    assert made.restore is profile.restore is (name == "echo-restore")


def test_a_second_opinion_is_asked_where_settings_allow_it() -> None:
    profile = CURRENT.profile("echo")
    inbound = msgspec.structs.replace(profile.inbound, second_opinion=True)
    profile = msgspec.structs.replace(profile, inbound=inbound)
    on, off = (compile_rules(profile, CURRENT.digest, ner_enabled=False, second_opinion=allowed) for allowed in (True, False))
    assert on.inbound.second_opinion and not on.outbound.second_opinion and not off.inbound.second_opinion
    assert on.key != off.key


def test_the_default_profile_blocks_its_code_words_and_redacts_the_rest() -> None:
    rules = compile_rules(CURRENT.profile("default"), CURRENT.digest, ner_enabled=False)
    assert rules.inbound.blocklist is not None and rules.inbound.blocklist.scan("Operation Quiet Harbour")
    assert rules.inbound.action_for(Span(0, 1, "IBAN_CODE")) is Action.REDACT
    assert rules.inbound.ner is False


def test_rules_are_kept_by_generation_and_profile() -> None:
    source = rules_source(ner_enabled=True)
    assert source(CURRENT, "default") is source(CURRENT, "default")
    keys = {source(CURRENT, name).key for name in ("default", "echo", "open")}
    assert len(keys) == 3 and rules_source(ner_enabled=False)(CURRENT, "default").key not in keys
