"""A second opinion on streamed answers: `strict` streams are judged whole by both models, others in stretches."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

import msgspec
import pytest
from poured_streams import DONE, Poured, ending, event, in_pieces, pour, starter_rules

from gateway.content.cascade import FLAGGED
from gateway.content.rules import Action
from gateway.content.second_opinion import Blend
from gateway.content.stretches import ASKED
from gateway.evidence import Role, Span, StreamMode
from gateway.ports import InspectorUnavailable
from gateway.providers.local.moderation import HEADS

NOTHING = dict.fromkeys(HEADS, 0.0)
ALWAYS = Blend(weight=dict.fromkeys(HEADS, 0.5), shift=dict.fromkeys(("prompt", "answer", "document"), NOTHING), slope={}, low=NOTHING)
LINEAR_BLOCKS = "I will kill you all, slit your throats and burn your house with your children in it, you filthy animals."
LINEAR_PASSES = "The recipe needs two eggs, some flour and a little patience. Mail the result to jane.roe@example.com, please."


class Second:
    name, version = "toy-second", "1"

    def __init__(self, said: float, *, away: bool = False) -> None:
        self._said, self._away = dict.fromkeys(HEADS, said), away
        self.tries = 0
        self.asked: list[str] = []

    async def judge(self, texts: Sequence[str], roles: Sequence[Role], deadline_s: float) -> list[tuple[dict[str, float], bool]]:
        self.tries += 1
        if self._away:
            raise InspectorUnavailable("away")
        self.asked += texts
        return [(self._said, True) for _ in texts]

    def close(self) -> None: ...


async def streamed(
    text: str,
    second: Second | None,
    mode: StreamMode = StreamMode.STRICT,
    *,
    cuts: Sequence[int] | None = None,
    on_error: Action = Action.BLOCK,
) -> Poured:
    rules = starter_rules()
    rules = msgspec.structs.replace(rules, outbound=msgspec.structs.replace(rules.outbound, second_opinion=True, on_error=on_error))
    chunks = [event("content", piece) for piece in in_pieces(text, cuts or range(0, len(text), 7))]
    blend = ALWAYS if second is not None else None
    return await pour([*chunks, ending(), b"data: [DONE]\n\n"], mode=mode, rules=rules, opinion=second, blend=blend)


async def test_strict_asks_about_the_whole_answer_once() -> None:
    second = Second(0.0)
    poured = await streamed(LINEAR_PASSES, second)
    assert second.asked == [LINEAR_PASSES] and not poured.blocked
    assert poured.text() == LINEAR_PASSES.replace("jane.roe@example.com", "<EMAIL_ADDRESS>")


async def test_strict_blocks_what_the_second_alone_condemns() -> None:
    poured = await streamed(LINEAR_PASSES, Second(1.0))
    assert poured.blocked and poured.text() == "" and poured.finishes == {0: "content_filter"}


async def test_strict_releases_what_the_second_clears() -> None:
    alone = await pour([event("content", LINEAR_BLOCKS), ending()], mode=StreamMode.STRICT)
    assert alone.blocked
    poured = await streamed(LINEAR_BLOCKS, Second(0.0))
    assert not poured.blocked and poured.text() == LINEAR_BLOCKS


async def test_strict_releases_nothing_without_an_answer() -> None:
    poured = await streamed(LINEAR_PASSES, Second(0.0, away=True))
    assert isinstance(poured.fault, InspectorUnavailable) and poured.text() == ""


MODES = pytest.mark.parametrize("mode", [StreamMode.WINDOW, StreamMode.ASYNC])


@MODES
async def test_both_models_judge_what_is_not_held_to_the_end(mode: StreamMode) -> None:
    clears = Second(0.0)
    poured = await streamed(LINEAR_BLOCKS, clears, mode)
    assert not poured.blocked and poured.text() == LINEAR_BLOCKS and clears.asked
    condemned = await streamed(LINEAR_PASSES, Second(1.0), mode)
    assert condemned.blocked and condemned.finishes == {0: "content_filter"}


async def test_nothing_of_a_doubtful_stretch_leaves_before_its_answer() -> None:
    for cut in range(1, len(LINEAR_PASSES), 5):
        poured = await streamed(LINEAR_PASSES, Second(1.0), StreamMode.WINDOW, cuts=[cut])
        assert poured.blocked and poured.text() == ""


@MODES
async def test_other_modes_release_nothing_in_doubt_without_an_answer(mode: StreamMode) -> None:
    poured = await streamed(LINEAR_PASSES, Second(0.0, away=True), mode)
    assert isinstance(poured.fault, InspectorUnavailable)
    assert poured.text() == "" or mode is StreamMode.ASYNC


@MODES
async def test_where_policy_lets_it_be_away_the_first_model_decides_and_the_record_says_so(mode: StreamMode) -> None:
    passed = await streamed(LINEAR_PASSES.partition(" Mail")[0], Second(0.0, away=True), mode, on_error=Action.RECORD)
    assert not passed.blocked and passed.fault is None and passed.outcome.verdict is not None and passed.outcome.verdict.degraded
    stopped = await streamed(LINEAR_BLOCKS, Second(0.0, away=True), mode, on_error=Action.RECORD)
    assert stopped.blocked


@MODES
async def test_rules_that_ask_where_nobody_can_answer_end_the_stream(mode: StreamMode) -> None:
    poured = await streamed(LINEAR_PASSES, None, mode)
    assert isinstance(poured.fault, InspectorUnavailable) and poured.text() == ""


class Names:
    """Finds no name, and counts how often it was asked."""

    name, version = "toy-names", "1"

    def __init__(self) -> None:
        self.asked = 0

    async def detect(self, texts: Sequence[str], deadline_s: float) -> list[list[Span]]:
        self.asked += 1
        assert self.asked < 100, "asked about the same text again and again"
        await asyncio.sleep(0)
        return [[] for _ in texts]


ENDINGS = ["Hi.", "All is well. Good bye.", "All is well. Good bye.\n", "the river and the stone " * 30, "no end to it and"]


@pytest.mark.parametrize("text", ENDINGS)
@MODES
async def test_names_are_looked_for_to_the_end_and_no_further(text: str, mode: StreamMode) -> None:
    names = Names()
    rules = msgspec.structs.replace(starter_rules(ner=True), outbound=msgspec.structs.replace(starter_rules().outbound, ner=True))
    poured = await pour([event("content", text), ending(), DONE], mode=mode, rules=rules, ner=names)
    assert poured.text() == text and poured.fault is None and names.asked >= 1


@MODES
async def test_one_large_event_is_no_text_that_cannot_be_released(mode: StreamMode) -> None:
    text = (LINEAR_PASSES.partition(" Mail")[0] + " ") * 600
    for step in (len(text), 350):
        second = Second(0.0)
        poured = await streamed(text, second, mode, cuts=list(range(0, len(text), step)) or [len(text)])
        assert not poured.blocked and poured.fault is None and poured.text() == text and len(second.asked) <= ASKED


@MODES
async def test_the_record_says_that_a_stream_was_not_heard_and_nobody_is_asked_twice(mode: StreamMode) -> None:
    second = Second(0.0, away=True)
    poured = await streamed((LINEAR_PASSES.partition(" Mail")[0] + " ") * 40, second, mode, on_error=Action.RECORD)
    assert poured.outcome.verdict is not None and poured.outcome.verdict.flagged == (FLAGGED,) and second.tries == 1


@MODES
async def test_a_change_of_channel_takes_nothing_from_the_second_opinion(mode: StreamMode) -> None:
    """What one channel holds unjudged is read together with the next one's by its last words alone."""
    rules = starter_rules()
    rules = msgspec.structs.replace(rules, outbound=msgspec.structs.replace(rules.outbound, second_opinion=True))
    plain = "The recipe needs two eggs and some flour. " * 6
    harm = plain + LINEAR_BLOCKS[:-1] + ", and " + "so on and on with stones and rivers and bridges " * 14
    for text in (harm, plain + LINEAR_BLOCKS + " " + plain):
        pieces = [event("reasoning", piece) for piece in in_pieces(text, range(0, len(text), 7))]
        after = event("content", plain)
        poured = await pour([*pieces, after, ending(), DONE], mode=mode, rules=rules, opinion=Second(0.0), blend=ALWAYS)
        whole = await pour(
            [*pieces, after, ending(), DONE], mode=StreamMode.STRICT, rules=rules, opinion=Second(0.0), blend=ALWAYS
        )
        assert not whole.blocked and not poured.blocked and poured.text("reasoning") == text


@pytest.mark.parametrize("mode", list(StreamMode), ids=str)
async def test_what_both_cleared_in_a_code_is_not_blocked_at_a_change_of_channel(mode: StreamMode) -> None:
    rules = starter_rules()
    rules = msgspec.structs.replace(rules, outbound=msgspec.structs.replace(rules.outbound, second_opinion=True))
    plain = "The recipe needs two eggs and some flour. " * 6
    code = base64.b64encode(LINEAR_BLOCKS.encode()).decode()

    async def blocked(first: str, second: str, mode: StreamMode) -> bool:
        pieces = [event("reasoning", piece) for piece in in_pieces(first, range(0, len(first), 7))]
        events = [*pieces, event("content", second), ending(), DONE]
        return (await pour(events, mode=mode, rules=rules, opinion=Second(0.0), blend=ALWAYS)).blocked

    for times in range(1, 8):
        first = plain + "see " + code + " and " + "so on and on with stones and rivers and bridges and " * times
        assert not await blocked(first, plain, mode), times
    for cut in (8, 40, 80, 120, len(code) - 8):
        assert await blocked(plain + code[:cut], code[cut:] + " " + plain, mode), "nobody else read it whole"


@pytest.mark.parametrize("mode", list(StreamMode), ids=str)
@pytest.mark.parametrize("ner", [None, "away"])
async def test_where_policy_lets_names_go_unread_the_stream_goes_on_and_the_record_says_so(mode: StreamMode, ner: str | None) -> None:
    class Away(Names):
        async def detect(self, texts: Sequence[str], deadline_s: float) -> list[list[Span]]:
            raise InspectorUnavailable("ner queue is full")

    text = "All is well. Good bye."
    for on_error, flagged in ((Action.RECORD, (FLAGGED,)), (Action.ALLOW, ()), (Action.BLOCK, None)):
        rules = starter_rules(ner=True)
        rules = msgspec.structs.replace(rules, outbound=msgspec.structs.replace(rules.outbound, ner=True, on_error=on_error))
        poured = await pour([event("content", text), ending(), DONE], mode=mode, rules=rules, ner=Away() if ner else None)
        if flagged is None:
            assert isinstance(poured.fault, InspectorUnavailable)
        else:
            assert poured.fault is None and poured.text() == text
            assert poured.outcome.verdict is not None and poured.outcome.verdict.degraded and poured.outcome.verdict.flagged == flagged


async def test_a_code_late_in_a_long_strict_stream_is_read() -> None:
    """As in a whole answer, and in steps: what is decoded of one text at once is bounded."""
    filler = "The museum opens at nine and closes at five on most days of the week. The school by the bridge was repaired in 1987. " * 180
    text = filler + "See " + base64.b64encode(LINEAR_BLOCKS.encode()).decode() + " for more of it. " + filler
    assert len(filler) > 20_000
    for mode in (StreamMode.STRICT, StreamMode.WINDOW):
        poured = await pour([event("content", text), ending(), DONE], mode=mode)
        assert poured.blocked, mode
    assert (await pour([event("content", filler * 2), ending(), DONE], mode=StreamMode.STRICT)).text() == filler * 2
