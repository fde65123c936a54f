"""The sink over ASGI: one answer, a no inside a stream, and nobody beside the terminator."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.http.endpoint import AsgiSink, DataPlane
from gateway.refusals import BACKEND_UNAVAILABLE, Refusal


def sink() -> tuple[AsgiSink, list[dict[str, Any]]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    return AsgiSink(send), sent


NO = Refusal(BACKEND_UNAVAILABLE)


async def test_a_refusal_before_the_first_byte_is_an_answer() -> None:
    made, sent = sink()
    await made.refuse(NO, [(b"x-request-id", b"1")])
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 502 and (b"x-request-id", b"1") in sent[0]["headers"] and sent[1]["more_body"] is False


async def test_a_refusal_in_a_stream_is_its_last_event() -> None:
    made, sent = sink()
    await made.begin(200, [])
    await made.write(b"data: 1\n\n")
    await made.refuse(NO, [])
    assert sent[-1]["body"].startswith(b'data: {"error"') and sent[-1]["more_body"] is False
    assert [m["type"] for m in sent].count("http.response.start") == 1


async def test_a_refusal_after_the_end_says_nothing() -> None:
    made, sent = sink()
    await made.begin(200, [])
    await made.end(b"x")
    await made.refuse(NO, [])
    assert len(sent) == 2


@pytest.mark.parametrize("peer", ["192.0.2.1", ""])
async def test_plaintext_from_anyone_but_the_terminator_is_refused(peer: str) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError("not a byte of it is read")

    plane = DataPlane(None, ["10.0.0.0/8"])  # type: ignore[arg-type]
    await plane({"type": "http", "method": "POST", "path": "/", "headers": [], "client": (peer, 1) if peer else None}, receive, send)
    assert sent[0]["status"] == 400


async def test_only_http() -> None:
    with pytest.raises(RuntimeError, match="HTTP only"):
        await DataPlane(None)({"type": "websocket"}, None, None)  # type: ignore[arg-type]
