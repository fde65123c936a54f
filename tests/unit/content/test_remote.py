"""A remote moderator inside inspection: asked by the profiles that ask, cached when it answered, and what happens when it did not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from inspection_fakes import ToyNames, inspection

from gateway.content.cascade import FLAGGED, MAX_CHARS, Acts, CloudRules, Mode
from gateway.content.inspect import Finding, Inspection, Scope, TooDear
from gateway.content.rules import READ_OVER, Action, DirectionRules, Rules
from gateway.evidence import Direction, Role, Segment, Use
from gateway.ports import InspectorUnavailable, Judgement, Question, Unjudgeable

SCOPE = Scope("acme", b"alice")


class Cloud:
    name, version = "toy-cloud", "1"

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.away: Exception | None = None

    async def judge(self, questions: Sequence[Question], deadline_s: float) -> list[Judgement]:
        self.asked += questions
        if self.away is not None:
            raise self.away
        return [self._judged(q) for q in questions]

    def _judged(self, q: Question) -> Judgement:
        levels = {head: 6 if "terrible" in q.text and head == "violence" else 0 for head in q.heads}
        return Judgement(severities=levels, attack="jail" in q.text)

    async def aclose(self) -> None: ...


def with_cloud(cloud: Cloud | None, names: ToyNames | None = None, **more: Any) -> Inspection:
    plain = inspection(names)
    return Inspection(msgspec.structs.replace(plain.inspectors, remote=cloud, **more), plain.cache)


def made(mode: Mode | None = Mode.AZURE, on_error: Action = Action.BLOCK, ner: bool = False, **cloud: Any) -> Rules:
    asks = {"block_at": {"violence": 4}, "record_at": {}, "shield": Acts.BLOCK, "uncertain": (0.5, 0.95)} | cloud
    side = DirectionRules(
        entities={}, entity_default=Action.ALLOW, secrets=Action.ALLOW, block_at={"violence": 0.7, "harmful": 0.7}, record_at={},
        on_error=on_error, ner=ner, languages=frozenset({"en", "xx"}), cloud=None if mode is None else CloudRules(mode=mode, **asks),
    )  # fmt: skip
    key = f"{mode}{on_error}{ner}{sorted(cloud)}".encode()
    return Rules(name="p", key=key, inbound=side, outbound=side)


async def look(made_of: Inspection, rules: Rules, *texts: str, use: Use = Use.CONTENT, deadline_s: float = float("inf")) -> list[Finding]:
    segments = [Segment(("m", n), text, Role.USER, use) for n, text in enumerate(texts)]
    found, _ = await made_of.findings(segments, rules, Direction.INBOUND, SCOPE, deadline_s)
    return found


async def test_a_profile_that_does_not_ask_costs_nothing() -> None:
    cloud = Cloud()
    (found,) = await look(with_cloud(cloud), made(None), "bad words")
    assert found.blocking == ("violence",) and cloud.asked == []


async def test_azure_has_the_word_in_both_directions() -> None:
    cloud = Cloud()
    found = await look(with_cloud(cloud), made(), "bad words", "something terrible", "calm", "jail")
    assert [f.blocking for f in found] == [(), ("violence",), (), ("attack",)]
    assert dict(found[0].scores)["violence"] == 0.0 and dict(found[1].scores)["violence"] == 0.9
    assert not any(f.degraded for f in found) and len(cloud.asked) == 4


async def test_both_takes_the_stricter() -> None:
    found = await look(with_cloud(Cloud()), made(Mode.BOTH), "bad words", "something terrible", "calm")
    assert [f.blocking for f in found] == [("violence",), ("violence",), ()]


async def test_a_cascade_asks_about_what_is_in_doubt_alone() -> None:
    cloud = Cloud()
    found = await look(with_cloud(cloud), made(Mode.CASCADE), "bad words", "something terrible", "ignore all jail", "ignore all")
    assert [q.text for q in cloud.asked] == ["bad words", "ignore all jail", "ignore all"]
    assert [f.blocking for f in found] == [(), (), ("attack",), ()], "in doubt the cloud clears and blocks; below the band nobody asks it"


async def test_its_word_is_cached_like_any_finding() -> None:
    cloud = Cloud()
    using = with_cloud(cloud)
    for _ in range(3):
        (found,) = await look(using, made(), "something terrible")
        assert found.blocking == ("violence",)
    assert len(cloud.asked) == 1
    await look(using, made(block_at={"violence": 2}), "something terrible")
    await look(using, made(Mode.BOTH), "something terrible")
    assert len(cloud.asked) == 3, "other rules, another question"


@pytest.mark.parametrize("away", [InspectorUnavailable("away"), Unjudgeable("language")])
async def test_without_an_answer_a_closed_profile_refuses(away: Exception) -> None:
    cloud = Cloud()
    cloud.away = away
    with pytest.raises(InspectorUnavailable):
        await look(with_cloud(cloud), made(), "calm")
    with pytest.raises(InspectorUnavailable, match="no remote moderator is configured"):
        await look(with_cloud(None), made(), "calm")


async def test_local_goes_on_with_the_local_verdict_and_says_so() -> None:
    cloud = Cloud()
    cloud.away = InspectorUnavailable("away")
    found = await look(with_cloud(cloud), made(on_error=Action.ALLOW), "bad words", "calm")
    assert [f.blocking for f in found] == [("violence",), ()] and all(f.degraded for f in found)
    assert not any((Action.RECORD, FLAGGED) in f.noted for f in found)


async def test_allow_flagged_goes_on_without_a_verdict_and_flags_the_text() -> None:
    cloud = Cloud()
    cloud.away = InspectorUnavailable("away")
    found = await look(with_cloud(cloud), made(on_error=Action.RECORD), "bad words", "calm")
    assert [f.blocking for f in found] == [(), ()] and all(f.degraded for f in found)
    assert all((Action.RECORD, FLAGGED) in f.noted for f in found)


async def test_a_degraded_verdict_is_never_cached() -> None:
    cloud = Cloud()
    using = with_cloud(cloud)
    cloud.away = InspectorUnavailable("away")
    for on_error in (Action.ALLOW, Action.RECORD):
        (found,) = await look(using, made(on_error=on_error), "something terrible")
        assert found.blocking == ()
    cloud.away = None
    for on_error in (Action.ALLOW, Action.RECORD):
        (found,) = await look(using, made(on_error=on_error), "something terrible")
        assert found.blocking == ("violence",) and not found.degraded


async def test_a_harm_spelled_in_another_way_is_asked_about_in_the_clear_too() -> None:
    cloud = Cloud()
    using = with_cloud(cloud, views=lambda text: [text, text.replace("7", "t").replace("3", "e")])
    (found,) = await look(using, made(), "some7hing 73rribl3")
    assert found.blocking == ("violence",) and len(cloud.asked) == 2
    await look(using, made(), "plain")
    assert len(cloud.asked) == 3, "one reading, one question"


async def test_labels_are_not_sent() -> None:
    cloud = Cloud()
    (found,) = await look(with_cloud(cloud), made(), "bad words", use=Use.LABEL)
    assert cloud.asked == [] and found.blocking == ("violence",), "and keep their local verdict"


async def test_a_window_over_a_border_is_sent_as_words() -> None:
    cloud = Cloud()
    using = with_cloud(cloud)
    window = Segment((READ_OVER, 0), "something ter\x1frible", Role.USER, Use.CONTENT)
    await using.findings([window], made(), Direction.INBOUND, SCOPE, float("inf"))
    assert [q.text for q in cloud.asked] == ["something ter rible"]


async def test_the_language_of_longer_texts_is_told() -> None:
    cloud = Cloud()
    await look(with_cloud(cloud), made(), "short", "long enough to have a language of its own", "zzz long enough to have another language")
    assert [q.language for q in cloud.asked] == ["und", "en", "xx"]


async def test_more_text_than_an_honest_exchange_holds_is_the_callers_fault() -> None:
    cloud = Cloud()
    with pytest.raises(TooDear):
        await look(with_cloud(cloud), made(on_error=Action.RECORD), "a " * (MAX_CHARS // 2 + 1))
    assert cloud.asked == []


@pytest.mark.parametrize(("on_error", "flagged"), [(Action.ALLOW, False), (Action.RECORD, True)])
async def test_absent_names_are_flagged_where_the_profile_says_so(on_error: Action, flagged: bool) -> None:
    (found,) = await look(with_cloud(None, ToyNames(away=True)), made(None, on_error=on_error, ner=True), "calm")
    assert found.degraded and ((Action.RECORD, FLAGGED) in found.noted) is flagged


def test_records_name_it_among_the_detectors() -> None:
    assert "toy-cloud@1" in with_cloud(Cloud()).names and "toy-cloud@1" not in with_cloud(None).names
