"""What a stream delivers is what the whole text would have become, however it was cut: through the real `Stream`, for each channel."""

from __future__ import annotations

import json
import random

import pytest
from poured_streams import DONE, FIELDS, Poured, ending, event, in_pieces, inspectors, pour, starter_rules

from gateway.content.inspect import FindingCache, Inspection, Scope, TooDear
from gateway.content.review import review
from gateway.content.stream import Findings
from gateway.evidence import Direction, Operation, Role, Segment, StreamMode, Use

VALUES = [
    "jane.roe@example.com", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "203.0.113.57", "AKIA" + "Q3EXAMPLE7XK2MPL",
    "+1 212 555 0143", "pass" + "word: Tr0ub4dor3x", "536-90-4399",
]  # fmt: skip
WORDS = (
    "the committee met in the morning and spoke about roads then about schools and after lunch about the price of bread , . : ( ) 12 "
    "2024 x@ <b> é 日本 \\u0041 %41 &amp; -- \n \t a.b 10.0 “quoted” naïve"
).split(" ")
NAMES = ["look_up", "get-weather.now", "203.0.113.57", "AKIA" + "Q3EXAMPLE7XK2MPL", "a1", "fetch_2024"]
CHANNELS = [*FIELDS, "arguments", "name", "completion"]


def make_text(draw: random.Random, channel: str) -> str:
    if channel == "name":
        return draw.choice(NAMES)

    def prose(most: int) -> str:
        words = [draw.choice(VALUES) if draw.random() < 0.15 else draw.choice(WORDS) for _ in range(draw.randrange(1, most))]
        return "".join(word + draw.choice([" ", " ", " ", "", ", ", "\n"]) for word in words)

    if channel != "arguments":
        return prose(30)
    made = {
        draw.choice(["to", "note", "jane.roe@example.com", "n"]): draw.choice([prose(8), 4111111111111111, [prose(3), 7], {"a": prose(4)}])
        for _ in range(3)
    }
    return json.dumps(made, ensure_ascii=draw.random() < 0.5)


async def batch(channel: str, text: str, inspection: Inspection) -> tuple[str, bool]:
    use = {"arguments": Use.ARGUMENTS, "name": Use.LABEL}.get(channel, Use.CONTENT)
    segment = Segment((channel,), text, Role.ASSISTANT, use)
    for attempt in range(3):
        try:
            scope = Scope("t", b"s")
            result = await review(inspection, [segment], starter_rules(), Direction.OUTBOUND, scope, float("inf"), None, Findings())
            break
        except TooDear:  # the machine was busy with something else
            assert attempt < 2
    return result.texts.get(0, text), bool(result.blocked)


async def streamed(channel: str, pieces: list[str], mode: StreamMode) -> Poured:
    operation = Operation.COMPLETIONS if channel == "completion" else Operation.CHAT
    events = [event(channel, piece, operation=operation) for piece in pieces if piece]
    return await pour([*events, ending(operation=operation), DONE], mode=mode, operation=operation)


async def compare(channel: str, seed: int, cuts: int) -> None:
    """Compare the batch with `cuts` random chunkings of one random text."""
    draw = random.Random(seed * 1_000 + CHANNELS.index(channel))
    text = make_text(draw, channel)
    expected, blocked = await batch(channel, text, Inspection(inspectors(), FindingCache(b"k" * 32)))
    for _ in range(cuts):
        pieces = in_pieces(text, [draw.randrange(1, len(text) + 1) for _ in range(draw.choice([1, 3, 9, 40, 200]))])
        poured = await streamed(channel, pieces, draw.choice([StreamMode.WINDOW, StreamMode.STRICT]))
        assert poured.fault is None
        assert poured.blocked == blocked, (text, pieces)
        if not blocked:
            assert poured.text("content" if channel == "completion" else channel) == expected, pieces


@pytest.mark.parametrize("channel", CHANNELS)
async def test_any_chunking_delivers_the_batch(channel: str) -> None:
    for seed in range(60):
        await compare(channel, seed, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("channel", CHANNELS)
async def test_ten_thousand_chunkings_deliver_the_batch(channel: str) -> None:
    for seed in range(1_000, 2_000):
        await compare(channel, seed, 10)


async def turns(seed: int) -> None:
    """Channels that take turns: each delivers at least what its whole text would have lost, and together they complete no value."""
    draw = random.Random(seed)
    texts = {name: make_text(draw, "content") for name in FIELDS}
    left = dict(texts)
    events: list[bytes] = []
    while left:
        name = draw.choice(list(left))
        size = draw.randrange(1, 12)
        piece, left[name] = left[name][:size], left[name][size:]
        events.append(event(name, piece))
        if not left[name]:
            del left[name]
    poured = await pour([*events, ending(), DONE])
    assert poured.fault is None
    for name, text in texts.items():
        expected, _ = await batch(name, text, Inspection(inspectors(), FindingCache(b"k" * 32)))
        for value in VALUES:
            assert poured.text(name).count(value) <= expected.count(value), (seed, name, value)
    for value in VALUES:
        assert poured.shown.count(value) <= sum(poured.text(name).count(value) for name in FIELDS), (seed, value)


async def test_channels_that_take_turns_deliver_no_value() -> None:
    for seed in range(120):
        await turns(seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_two_thousand_streams_whose_channels_take_turns() -> None:
    for seed in range(10_000, 12_000):
        await turns(seed)
