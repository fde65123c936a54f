"""When a slower model is asked, what both say together, and what happens to a text whose question stayed without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from inspection_fakes import ToyModerator, inspection, rules, side, text

from gateway.content.cascade import FLAGGED
from gateway.content.inspect import Finding, Inspection, Scope
from gateway.content.rules import READ_OVER, Action, Rules
from gateway.content.second_opinion import Blend, Opinion, combined, reading_of, texts_to_ask, uncertain
from gateway.evidence import Direction, Role, Segment, Use
from gateway.ports import InspectorUnavailable

HALF = {"violence": 0.5, "attack": 0.5}
NONE = {"violence": 0.0, "attack": 0.0}
BLEND = Blend(
    weight=HALF,
    shift=dict.fromkeys(("prompt", "answer", "document"), NONE),
    slope=dict.fromkeys(HALF, 1.0),
    low={"violence": 0.1, "attack": 0.3},
)


class Sure(ToyModerator):
    """Gives every text a score, as a real moderator does."""

    def score(self, text: str, role: Role) -> dict[str, float]:
        return {head: max(score, 0.02) for head, score in super().score(text, role).items()}


class Second:
    """Says of a text that it is violent where it holds `grim`, and of nothing else."""

    name, version = "toy-second", "1"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.away = False
        self.whole = True
        self.closed = False

    async def judge(self, texts: Sequence[str], roles: Sequence[Role], deadline_s: float) -> list[tuple[dict[str, float], bool]]:
        self.asked.append(list(texts))
        if self.away:
            raise InspectorUnavailable("away")
        return [({} if "unread" in one else {"violence": 0.99 if "grim" in one else 0.01, "attack": 0.01}, self.whole) for one in texts]

    def close(self) -> None:
        self.closed = True


def with_second(second: Second | None, **more: Any) -> Inspection:
    plain = inspection()
    blend = BLEND if second is not None else None
    parts = {"opinion": second, "blend": blend, "moderator": Sure(), **more}
    return Inspection(msgspec.structs.replace(plain.inspectors, **parts), plain.cache)


def asking(**more: Any) -> Rules:
    given = side(second_opinion=True, **more)
    return rules(given, given, key=repr(sorted(more.items())).encode())


async def look(made: Inspection, given: Rules, *segments: Segment) -> list[Finding]:
    found, _ = await made.findings(segments, given, Direction.INBOUND, Scope("acme", b"alice"), float("inf"))
    return found


async def test_rules_that_do_not_ask_never_reach_it() -> None:
    second = Second()
    (found,) = await look(with_second(second), rules(), text("bad words"))
    assert found.blocking == ("violence",) and second.asked == []


async def test_it_is_asked_in_doubt_alone_once_for_all_texts() -> None:
    second = Second()
    found = await look(with_second(second), asking(), text("bad words"), text("calm"), text("bad words, and grim"), text("ignore all"))
    assert second.asked == [["bad words", "bad words, and grim", "ignore all"]]
    assert [f.blocking for f in found] == [(), (), ("violence",), ()]
    scores = [dict(f.scores) for f in found]
    assert scores[0]["violence"] < 0.5 < 0.9 < scores[2]["violence"] and scores[1]["violence"] == 0.02


async def test_its_word_is_cached_under_its_version() -> None:
    second = Second()
    made = with_second(second)
    for _ in range(3):
        await look(made, asking(), text("bad words"))
    assert len(second.asked) == 1
    assert "toy-second@1" in made.names
    later = Second()
    later.version = "2"
    await look(Inspection(msgspec.structs.replace(made.inspectors, opinion=later), made.cache), asking(), text("bad words"))
    assert len(later.asked) == 1, "another version, another answer"


async def test_labels_and_borders_keep_their_scores() -> None:
    second = Second()
    label = text("bad words", Role.USER, Use.LABEL)
    border = Segment((READ_OVER, 0), "bad words", Role.USER, Use.CONTENT)
    found = await look(with_second(second), asking(), label, border)
    assert second.asked == [] and [f.blocking for f in found] == [("violence",), ("violence",)]


@pytest.mark.parametrize("missing", [True, False])
async def test_without_an_answer_a_closed_profile_refuses(missing: bool) -> None:
    second = Second()
    second.away = True
    made = with_second(None if missing else second)
    with pytest.raises(InspectorUnavailable):
        await look(made, asking(), text("bad words"))
    assert len(made.cache) == 0


@pytest.mark.parametrize(("on_error", "marked"), [(Action.ALLOW, False), (Action.RECORD, True)])
@pytest.mark.parametrize("missing", [True, False])
async def test_a_profile_that_goes_on_keeps_the_first_word_and_says_so(on_error: Action, marked: bool, missing: bool) -> None:
    second = Second()
    second.away = True
    made = with_second(None if missing else second)
    first, calm = await look(made, asking(on_error=on_error), text("bad words"), text("calm"))
    assert first.blocking == ("violence",) and first.degraded
    assert ((Action.RECORD, FLAGGED) in first.noted) is marked
    assert calm.degraded is missing, "what nobody was asked about lacks nothing"
    assert len(made.cache) == (0 if missing else 1), "a degraded finding is never cached"


async def test_nothing_to_judge_is_nothing_to_ask() -> None:
    second = Second()
    await look(with_second(second), asking(block_at={}, record_at={}), text("bad words"))
    assert second.asked == []


async def test_disguised_texts_are_asked_about_in_clear_too() -> None:
    second = Second()
    made = with_second(second, views=lambda given: [given, given.replace("-", ""), given.replace("-", "") + " bad words"])
    (found,) = await look(made, asking(), text("g-r-i-m"))
    assert second.asked == [["g-r-i-m", "grim", "grim bad words"]] and found.blocking == ("violence",)


async def test_what_it_cannot_read_keeps_the_first_word() -> None:
    (found,) = await look(with_second(Second()), asking(), text("bad words unread"))
    assert found.blocking == ("violence",) and not found.degraded


async def test_it_lowers_nothing_it_has_not_read_to_the_end() -> None:
    second = Second()
    second.whole = False
    (found,) = await look(with_second(second), asking(), text("bad words"))
    assert dict(found.scores)["violence"] == 0.9


def test_doubt() -> None:
    assert uncertain({}, Role.USER, BLEND), "a text of which no word is known"
    assert combined({}, [Opinion({"violence": 0.2}), Opinion({"violence": 0.8})], Role.USER, BLEND) == {"violence": 0.8}
    assert uncertain({"violence": 0.1, "attack": 0.0}, Role.USER, BLEND)
    assert not uncertain({"violence": 0.09, "attack": 0.29}, Role.USER, BLEND)
    assert not uncertain({"violence": 0.9}, Role.USER, msgspec.structs.replace(BLEND, high=0.8))


def test_a_matched_rule_is_not_overruled() -> None:
    joined = combined({"attack": 0.9, "violence": 0.6}, [Opinion({"attack": 0.0, "violence": 0.0})], Role.USER, BLEND)
    assert joined["attack"] == 0.9 and joined["violence"] < 0.1


def test_the_worst_reading_counts_and_sums_are_recalibrated() -> None:
    shifted = msgspec.structs.replace(BLEND, shift={**BLEND.shift, "document": {"violence": 2.0}})
    opinions = [Opinion({"violence": 0.2}), Opinion({"violence": 0.9})]
    user, document = (combined({"violence": 0.5}, opinions, role, shifted)["violence"] for role in (Role.USER, Role.TOOL))
    assert user == pytest.approx(0.75) and document < 0.5
    assert combined({"violence": 0.5}, [Opinion({})], Role.USER, BLEND) == {"violence": 0.5}
    named = [reading_of(role) for role in (Role.USER, Role.ASSISTANT, Role.TOOL, Role.SYSTEM)]
    assert named == ["prompt", "answer", "document", "document"]


def test_readings_that_are_far_from_each_other_are_asked() -> None:
    assert texts_to_ask(["a"]) == ["a"]
    assert texts_to_ask(["a", "b", "c", "d", "e"]) == ["a", "d", "e"]
    assert texts_to_ask(["a", "a"]) == ["a"]
