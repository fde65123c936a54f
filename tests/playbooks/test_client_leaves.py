"""The client leaves at each step: capacity is given back, the record is closed where it was opened, nothing is released after."""

from __future__ import annotations

import pytest
from play import Played, chat, nothing_is_held, play, streamed, whole

WHOLE = ["authenticate", "body", "reserve", "names", "opened durable", "forward", "chunk", "chunk 2", "names 2", "begin", "end"]
STREAM = ["authenticate", "body", "reserve", "names", "opened durable", "forward", "begin", "chunk", "chunk 2", "names 2", "write", "end"]
BLOCKED = ["authenticate", "body", "reserve", "names", "refused durable", "begin", "end"]



async def one(stream: bool, leave_at: str | None = None) -> Played:
    answer = streamed("All is well.") if stream else whole("All is well.")
    return await play(chat("Please say hello.", stream=stream), answer, leave_at=leave_at)


async def refused(leave_at: str | None = None) -> Played:
    return await play(chat("Hello.", top_k=1), leave_at=leave_at)


@pytest.mark.parametrize(("stream", "steps"), [(False, WHOLE), (True, STREAM)])
async def test_these_are_the_steps(stream: bool, steps: list[str]) -> None:
    """If the pipeline comes to wait somewhere else, the list of places to leave at must grow with it."""
    waits = (await one(stream)).script.steps
    assert set(steps) <= set(waits)
    unplayed = {step.split()[0] for step in waits} - {step.split()[0] for step in steps} - {"settle"}
    assert not unplayed


@pytest.mark.parametrize(
    ("stream", "step"),
    [(False, s) for s in WHOLE] + [(True, s) for s in STREAM],
)
async def test_leaving(stream: bool, step: str) -> None:
    played = await one(stream, step)
    assert played.script.left and played.cancelled
    nothing_is_held(played)
    opened = "opened" in played.types
    assert opened is (step not in ("authenticate", "body", "reserve", "names"))
    assert ("closed" in played.types) is opened
    if opened:
        wholly_sent = step == "end"  # the last byte was handed over: both words would be true
        assert wholly_sent or played.record("closed")["outcome"] == "client_gone"
    at = played.effects.index(step)
    assert not set(played.effects[at + 1 :]) & {"forward", "begin", "write", "end", "chunk", "opened"}, "it went on for nobody"
    assert played.effects[-1] == ("closed" if opened else played.effects[-1])
    if step not in ("begin", "end") or stream and step == "begin":
        assert 'outcome="client_gone"' in played.house.metrics.render().decode()


@pytest.mark.parametrize("step", ["authenticate", "body", "refused durable", "begin", "end"])
async def test_leaving_while_being_refused(step: str) -> None:
    played = await refused(step)
    assert played.cancelled
    nothing_is_held(played)
    assert played.types.count("refused") <= 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", ["chunk", "chunk 2", "end"])
async def test_leaving_early_does_not_make_it_free(stream: bool, step: str) -> None:
    """The backend worked: what it reported, or our own count, is charged."""
    played = await one(stream, step)
    assert played.counters.settled[0] > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_while_the_backend_thinks_is_charged(stream: bool) -> None:
    """SECURITY: a prompt that was sent was read; leaving before the first byte must not be a way to prompt for nothing."""
    played = await one(stream, "forward")
    assert played.counters.settled[0] > 0


async def test_a_shutdown_while_settling_still_closes_the_record() -> None:
    played = await one(False, "settle")
    assert played.types == ["opened", "closed"]
