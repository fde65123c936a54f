"""Which action a finding has."""

from __future__ import annotations

import pytest
from inspection_fakes import side

from gateway.content.rules import Action
from gateway.evidence import Role, Span


@pytest.mark.parametrize("given", list(Action))
def test_secrets_are_never_restorable(given: Action) -> None:
    expected = Action.REDACT if given is Action.PSEUDONYMISE else given
    assert side(Action.ALLOW, secrets=given).action_for(Span(0, 1, "SECRET")) is expected


def test_listed_phrases_block_unless_named() -> None:
    span = Span(0, 1, "BLOCKLIST")
    assert side(Action.ALLOW).action_for(span) is Action.BLOCK
    assert side(entities={"BLOCKLIST": Action.RECORD}).action_for(span) is Action.RECORD


def test_a_type_nobody_named_has_the_default() -> None:
    given = side(Action.REDACT, entities={"URL": Action.ALLOW})
    assert given.action_for(Span(0, 1, "URL")) is Action.ALLOW
    assert given.action_for(Span(0, 1, "NEW_KIND")) is Action.REDACT


@pytest.mark.parametrize(("role", "hit"), [(Role.USER, []), (Role.ASSISTANT, []), (Role.TOOL, ["attack"]), (Role.DOCUMENT, ["attack"])])
def test_attacks_in_documents_have_their_own_threshold(role: Role, hit: list[str]) -> None:
    assert side().blocked_heads({"attack": 0.5}, role) == hit


def test_thresholds_are_inclusive_and_an_absent_head_never_blocks() -> None:
    assert side().blocked_heads({"violence": 0.7, "hate": 1.0}, Role.USER) == ["violence"]
    assert side().recorded_heads({"attack": 0.4, "hate": 1.0}) == ["attack"]


def test_actions_are_ordered_by_strictness() -> None:
    assert sorted(Action) == [Action.ALLOW, Action.RECORD, Action.PSEUDONYMISE, Action.REDACT, Action.BLOCK]
