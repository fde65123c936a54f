"""A second opinion on streamed answers: `strict` streams are judged whole by both models, `window` streams by the first alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from poured_streams import Poured, ending, event, in_pieces, pour, starter_rules

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


async def streamed(text: str, second: Second, mode: StreamMode = StreamMode.STRICT) -> Poured:
    rules = starter_rules()
    rules = msgspec.structs.replace(rules, outbound=msgspec.structs.replace(rules.outbound, second_opinion=True))
    chunks = [event("content", piece) for piece in in_pieces(text, range(0, len(text), 7))]
    return await pour([*chunks, ending(), b"data: [DONE]\n\n"], mode=mode, rules=rules, opinion=second, blend=ALWAYS)


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


@pytest.mark.parametrize("mode", [StreamMode.WINDOW, StreamMode.ASYNC])
async def test_a_window_is_judged_by_the_first_alone(mode: StreamMode) -> None:
    second = Second(1.0, away=True)
    poured = await streamed(LINEAR_PASSES.partition(" Mail")[0], second, mode)
    assert second.asked == [] and not poured.blocked and poured.fault is None
