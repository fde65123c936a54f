"""When a remote moderator is asked, and what both sides say together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content.cascade import (
    CATEGORIES,
    FLAGGED,
    HEADS,
    MAX_CHARS,
    Acts,
    CloudRules,
    Mode,
    folded,
    question,
    score_of,
    settle,
    strictest,
    too_dear,
    unanswered,
)
from gateway.content.rules import HEADS as RULE_HEADS
from gateway.content.verdicts import severity
from gateway.evidence import Role, Segment, Use
from gateway.ports import Aspect, Judgement, Question

FOURS = {"hate": 4, "sexual": 4, "violence": 4, "self_harm": 4}
TWOS = dict.fromkeys(FOURS, 2)


def rules(mode: Mode = Mode.AZURE, **more: Any) -> CloudRules:
    return CloudRules(**({"mode": mode, "block_at": FOURS, "record_at": TWOS, "uncertain": (0.2, 0.9), "shield": Acts.BLOCK} | more))


def segment(text: str = "hello there", use: Use = Use.CONTENT, role: Role = Role.USER) -> Segment:
    return Segment(("x",), text, role, use)


def asked(made: CloudRules, scores: dict[str, float] | None = None, **more: Any) -> Question | None:
    return question(segment(**more), "hello there", "en", scores or {}, made)


def judged(**severities: int) -> Judgement:
    return Judgement(severities=dict.fromkeys(CATEGORIES, 0) | severities)


def test_the_heads_are_the_rules_own() -> None:
    assert HEADS == RULE_HEADS


@pytest.mark.parametrize("mode", [Mode.AZURE, Mode.BOTH])
def test_azure_and_both_ask_about_every_text(mode: Mode) -> None:
    found = asked(rules(mode))
    assert found is not None and found.aspects == {Aspect.CATEGORIES, Aspect.ATTACK}
    assert set(found.heads) == set(CATEGORIES) and found.language == "en" and found.text == "hello there"


@pytest.mark.parametrize(
    ("scores", "aspects"),
    [
        ({}, set()),
        ({"hate": 0.19, "attack": 0.1}, set()),
        ({"hate": 0.2}, {Aspect.CATEGORIES}),
        ({"violence": 0.89}, {Aspect.CATEGORIES}),
        ({"violence": 0.9}, set()),
        ({"attack": 0.5}, {Aspect.ATTACK}),
        ({"attack": 0.5, "sexual": 0.5}, {Aspect.CATEGORIES, Aspect.ATTACK}),
        ({"harassment": 0.5, "illicit": 0.5, "harmful": 0.5}, set()),
    ],
)
def test_a_cascade_asks_inside_the_band_alone(scores: dict[str, float], aspects: set[Aspect]) -> None:
    found = asked(rules(Mode.CASCADE), scores)
    assert (set() if found is None else set(found.aspects)) == aspects


def test_what_has_no_local_counterpart_is_always_asked() -> None:
    made = rules(Mode.CASCADE, blocklists=("codewords",), protected=Acts.BLOCK, shield=Acts.OFF)
    found = asked(made, {"hate": 0.0})
    assert found is not None and found.aspects == {Aspect.CATEGORIES, Aspect.PROTECTED} and found.blocklists == ("codewords",)


def test_labels_and_blanks_are_not_asked_about() -> None:
    assert asked(rules(), use=Use.LABEL) is None
    assert question(segment("  "), "  ", "und", {}, rules()) is None


def test_nothing_configured_asks_nothing() -> None:
    assert asked(CloudRules(mode=Mode.AZURE, block_at={}, record_at={})) is None


@pytest.mark.parametrize(
    ("mode", "blocks"), [(Mode.AZURE, ["harassment"]), (Mode.CASCADE, ["harassment"]), (Mode.BOTH, ["hate", "harassment"])]
)
def test_who_has_the_last_word_when_the_remote_clears_what_was_found_here(mode: Mode, blocks: list[str]) -> None:
    scores = {"hate": 0.8, "harassment": 0.9}
    made = rules(mode)
    question_ = asked(made, scores)
    assert question_ is not None
    found = settle(question_, judged(), made, scores, ["hate", "harassment"], ["hate", "harassment"])
    assert list(found.blocking) == blocks, "what the remote does not judge is never cleared"
    assert "hate" in found.recorded, "what was overruled stays on the record"
    assert found.scores["harassment"] == 0.9 and found.scores["hate"] == (0.8 if mode is Mode.BOTH else 0.0)


def test_outside_the_band_the_local_word_stands_though_another_head_was_asked_about() -> None:
    scores = {"hate": 0.95, "violence": 0.5}
    made = rules(Mode.CASCADE)
    question_ = asked(made, scores)
    assert question_ is not None
    found = settle(question_, judged(), made, scores, [], ["hate", "violence"])
    assert found.blocking == ("hate",) and found.scores["hate"] == 0.95 and found.scores["violence"] == 0.0


@pytest.mark.parametrize("mode", list(Mode))
def test_what_the_remote_finds_blocks_in_every_mode(mode: Mode) -> None:
    scores = {"violence": 0.3, "attack": 0.3}
    made = rules(mode, blocklists=("codewords",), protected=Acts.RECORD)
    question_ = asked(made, scores)
    assert question_ is not None
    levels = {"hate": 6, "violence": 2, "sexual": 0, "self_harm": 0}
    hits = Judgement(severities=levels, attack=True, protected=True, blocklists=("codewords",))
    found = settle(question_, hits, made, scores, [], [])
    assert set(found.blocking) == {"hate", "attack", "custom_blocklists"}
    assert set(found.recorded) == {"violence", "protected_material_text"}
    assert (found.scores["hate"], found.scores["violence"], found.scores["attack"]) == (0.9, 0.4, 0.9)


@pytest.mark.parametrize("level", range(8))
def test_eight_levels_are_reported_on_four(level: int) -> None:
    assert folded(level) == level // 2 * 2 and severity(score_of(level)) == ("safe", "low", "medium", "high")[level // 2]


def test_thresholds_are_met_by_the_severity_itself_and_not_by_its_fold() -> None:
    made = rules(block_at={"hate": 5}, record_at={}, eight_levels=True, shield=Acts.OFF)
    question_ = asked(made)
    assert question_ is not None and question_.eight_levels
    assert [bool(settle(question_, Judgement(severities={"hate": n}), made, {}, [], []).blocking) for n in (4, 5, 6)] == [False, True, True]


def test_of_several_readings_the_strictest_counts() -> None:
    several = [judged(hate=2), Judgement(severities=judged(violence=6).severities, attack=True), Judgement(blocklists=("a",)), judged()]
    found = strictest(several)
    assert found.severities == dict.fromkeys(CATEGORIES, 0) | {"hate": 2, "violence": 6} and found.attack and found.blocklists == ("a",)


@pytest.mark.parametrize(
    ("mode", "local", "recorded", "blocking"),
    [
        (Mode.AZURE, True, ["sexual"], ["hate", "harassment"]),
        (Mode.AZURE, False, [FLAGGED], ["harassment"]),
        (Mode.CASCADE, True, ["sexual"], ["hate", "harassment"]),
        (Mode.CASCADE, False, ["sexual", FLAGGED], ["hate", "harassment"]),
        (Mode.BOTH, False, ["sexual", FLAGGED], ["hate", "harassment"]),
    ],
)
def test_without_an_answer_the_profile_falls_back_as_it_says(mode: Mode, local: bool, recorded: list[str], blocking: list[str]) -> None:
    made = rules(mode)
    question_ = asked(made, {"hate": 0.8})
    assert question_ is not None
    found = unanswered(question_, made, ["sexual"], ["hate", "harassment"], local=local)
    assert (list(found[0]), list(found[1])) == (recorded, blocking)


def test_more_than_an_honest_exchange_holds_is_too_dear_and_labels_are_not_counted() -> None:
    assert not too_dear([segment("x" * MAX_CHARS), segment("x" * 100, Use.LABEL)])
    assert too_dear([segment("x" * MAX_CHARS), segment("x")])


SCORES = st.dictionaries(st.sampled_from(HEADS), st.floats(0, 1))
LEVELS = st.fixed_dictionaries({head: st.integers(0, 7) for head in CATEGORIES})


@given(scores=SCORES, levels=LEVELS, attack=st.booleans(), block=st.sets(st.sampled_from(HEADS)))
def test_both_is_at_least_as_strict_as_either(scores: dict[str, float], levels: dict[str, int], attack: bool, block: set[str]) -> None:
    made = rules(Mode.BOTH)
    question_ = asked(made, scores)
    assert question_ is not None
    found = settle(question_, Judgement(severities=levels, attack=attack), made, scores, [], sorted(block))
    assert set(found.blocking) >= block | {h for h, n in levels.items() if n >= 4} | ({"attack"} if attack else set())


@given(scores=SCORES, levels=LEVELS, block=st.sets(st.sampled_from(HEADS)), mode=st.sampled_from(list(Mode)))
def test_what_was_not_asked_keeps_its_local_verdict(
    scores: dict[str, float], levels: dict[str, int], block: set[str], mode: Mode
) -> None:
    made = rules(mode, block_at={"hate": 4}, record_at={}, shield=Acts.OFF)
    question_ = asked(made, scores)
    if question_ is None:
        return
    found = settle(question_, Judgement(severities={"hate": levels["hate"]}), made, scores, [], sorted(block))
    assert set(found.blocking) >= block - {"hate"} and (levels["hate"] < 4 or "hate" in found.blocking)
