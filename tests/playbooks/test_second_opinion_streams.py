"""A second opinion on streamed answers: `strict` streams are judged whole by both models, others in stretches."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from poured_streams import Poured, ending, event, in_pieces, pour, starter_rules

from gateway.content.rules import Action
from gateway.content.second_opinion import Blend
from gateway.evidence import Role, StreamMode
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
        self.asked: list[str] = []

    async def judge(self, texts: Sequence[str], roles: Sequence[Role], deadline_s: float) -> list[tuple[dict[str, float], bool]]:
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
