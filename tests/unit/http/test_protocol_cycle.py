from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.http.cycle import BadAnswer, Cycle
from gateway.ports import ClientGone


class Wire:
    """A connection that remembers."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.events: list[str] = []
        self.crowded = False

    def cycle_reads(self) -> None:
        self.events.append("reads")

    def cycle_writes(self, data: bytes) -> None:
        self.written.append(data)

    async def cycle_drained(self) -> None:
        self.events.append("drained")

    def cycle_failed(self) -> None:
        self.events.append("failed")

    def cycle_answered(self) -> None:
        self.events.append("answered")


def a_cycle(method: str = "POST", version: str = "1.1", *, whole: bool = True, expects: bool = False) -> tuple[Wire, Cycle]:
    wire = Wire()
    scope: Any = {"type": "http", "method": method, "http_version": version}
    cycle = Cycle(wire, scope, [(b"date", b"now")], expects_continue=expects, keep_alive=version == "1.1")
    if whole:
        cycle.more_body = False
        cycle.news.set()
    return wire, cycle


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Any:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", more: bool = False) -> Any:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_a_sized_answer_leaves_in_one_piece() -> None:
    wire, cycle = a_cycle()
    await cycle.send(start(200, (b"content-length", b"2")))
    assert wire.written == []
    await cycle.send(body(b"{}"))
    assert wire.written == [b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\n{}"]
    assert cycle.complete and cycle.keep_alive and wire.events == ["answered"]


async def test_a_stream_is_chunked_and_its_head_leaves_at_once() -> None:
    wire, cycle = a_cycle()
    await cycle.send(start(200, (b"content-type", b"text/event-stream")))
    assert wire.written[0].endswith(b"transfer-encoding: chunked\r\n\r\n")
    await cycle.send(body(b"data: a\n\n", True))
    await cycle.send(body(b"", True))
    await cycle.send(body(b"x"))
    assert wire.written[1:] == [b"9\r\ndata: a\n\n\r\n", b"1\r\nx\r\n0\r\n\r\n"]


async def test_a_half_read_request_or_an_old_version_closes_the_connection() -> None:
    for version, whole in (("1.1", False), ("1.0", True)):
        wire, cycle = a_cycle(version=version, whole=whole)
        await cycle.send(start(200, (b"content-length", b"0")))
        assert b"connection: close\r\n" in wire.written[0] and not cycle.keep_alive
    _, cycle = a_cycle()
    await cycle.send(start(200, (b"content-length", b"0"), (b"connection", b"Close")))
    assert not cycle.keep_alive


async def test_head_and_204_have_no_body() -> None:
    for method, status in (("HEAD", 200), ("GET", 204)):
        wire, cycle = a_cycle(method)
        await cycle.send(start(status, (b"content-length", b"5")) if method == "HEAD" else start(status))
        await cycle.send(body(b"12345"))
        assert len(wire.written) == 1 and cycle.complete
        assert b"chunked" not in wire.written[0]


@pytest.mark.parametrize(
    "header", [(b"x", b"a\r\nset-cookie: b"), (b"x", b"\r\n"), (b"x", b"a\n"), (b"x", b"\r"), (b"x\r\ny", b"a"), (b"x", b"\0")]
)
async def test_answers_cannot_be_split(header: tuple[bytes, bytes]) -> None:
    wire, cycle = a_cycle()
    with pytest.raises(BadAnswer):
        await cycle.send(start(200, header))
    assert wire.written == [] and not cycle.started


async def test_lengths_must_hold() -> None:
    _, cycle = a_cycle()
    await cycle.send(start(200, (b"content-length", b"2")))
    with pytest.raises(BadAnswer):
        await cycle.send(body(b"123"))
    _, cycle = a_cycle()
    await cycle.send(start(200, (b"content-length", b"2")))
    with pytest.raises(BadAnswer):
        await cycle.send(body(b"1"))


async def test_messages_come_in_order() -> None:
    _, cycle = a_cycle()
    with pytest.raises(BadAnswer):
        await cycle.send(body(b"a"))
    await cycle.send(start(200, (b"content-length", b"0")))
    with pytest.raises(BadAnswer):
        await cycle.send(start(200))
    await cycle.send(body())
    with pytest.raises(BadAnswer):
        await cycle.send(body())


async def test_body_parts_are_joined_once_and_then_the_end_is_awaited() -> None:
    _, cycle = a_cycle(whole=False)
    cycle.body += [b"a", b"b"]
    cycle.news.set()
    assert await cycle.receive() == {"type": "http.request", "body": b"ab", "more_body": True}
    waiting = asyncio.ensure_future(cycle.receive())
    await asyncio.sleep(0)
    assert not waiting.done()
    cycle.body.append(b"c")
    cycle.more_body = False
    cycle.news.set()
    assert await waiting == {"type": "http.request", "body": b"c", "more_body": False}
    waiting = asyncio.ensure_future(cycle.receive())
    await asyncio.sleep(0)
    cycle.disconnect()
    assert await waiting == {"type": "http.disconnect"}
    assert await cycle.receive() == {"type": "http.disconnect"}


async def test_continue_is_sent_when_the_body_is_wanted_and_never_after_the_answer() -> None:
    wire, cycle = a_cycle(expects=True)
    await cycle.receive()
    assert wire.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    wire, cycle = a_cycle(expects=True, whole=False)
    await cycle.send(start(401, (b"content-length", b"0")))
    await cycle.send(body())
    await cycle.receive()
    assert b"100 Continue" not in b"".join(wire.written)


async def test_writes_wait_for_a_crowded_wire_and_stop_after_a_disconnect() -> None:
    wire, cycle = a_cycle()
    await cycle.send(start(200))
    wire.crowded = True
    await cycle.send(body(b"a", True))
    assert wire.events == ["drained"]
    cycle.disconnect()
    await cycle.send(body(b"b", True))
    assert b"b\r\n" not in wire.written[-1] and len(wire.written) == 2


async def test_an_application_that_ends_early_fails_the_cycle() -> None:
    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        return

    async def raising(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError

    wire, cycle = a_cycle()
    await cycle.run(nothing)
    assert wire.events == ["failed"]
    wire, cycle = a_cycle()
    with pytest.raises(ValueError):
        await cycle.run(raising)
    assert wire.events == ["failed"]
    wire, cycle = a_cycle()
    cycle.disconnect()
    await cycle.run(nothing)
    assert wire.events == []


@pytest.mark.parametrize("crowded", [False, True])
async def test_a_whole_answer_to_nobody_is_told_to_whoever_sends_it(crowded: bool) -> None:
    """SECURITY: the record would say `finished`, with the HMAC of an answer that never left."""
    wire, cycle = a_cycle()
    if crowded:
        wire.crowded = True

        async def leaves() -> None:
            cycle.disconnect()

        wire.cycle_drained = leaves  # type: ignore[method-assign]
    else:
        cycle.disconnect()
    with pytest.raises(ClientGone):
        await cycle.answer(200, [], b"{}")
    assert wire.written == [] and not cycle.started


@pytest.mark.parametrize(
    "header", [(b"x", b"a\r\nb: c"), (b"x", b"a\nb"), (b"x\r\n", b"a"), (b"x", b"a\0"), (b"content-length", b"2\r\nb: c")]
)
async def test_whole_answers_cannot_be_split(header: tuple[bytes, bytes]) -> None:
    wire, cycle = a_cycle()
    with pytest.raises((BadAnswer, ValueError)):
        await cycle.answer(200, [header], b"{}")
    assert wire.written == []
