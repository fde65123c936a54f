"""The data plane as an ASGI application: makes an `Inbound` and a `Sink` of one HTTP exchange and serves it. Nothing else.

The coroutine that serves is the one that sends, so a lease lives exactly as long as the body. When the client leaves, the
served coroutine is cancelled and cleans up behind itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from gateway.house import House
from gateway.http.intake import Inbound, Receive
from gateway.http.ops import network_check
from gateway.http.reply import Headers, render, stream_error
from gateway.pipeline import serve
from gateway.refusals import MALFORMED, Refusal

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiSink:
    """Pushes an answer through ASGI `send`; waits where the client reads slowly."""

    __slots__ = ("_at_once", "_done", "_send", "begun")

    def __init__(self, send: Send, at_once: Callable[[int, Headers, bytes], Awaitable[None]] | None = None) -> None:
        self._send = send
        self._at_once = at_once
        self._done = False
        self.begun = False

    async def begin(self, status: int, headers: Headers) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        self._done = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, headers: Headers, data: bytes) -> None:
        if self._at_once is None:
            await self.begin(status, headers)
            await self.end(data)
            return
        self.begun = self._done = True
        await self._at_once(status, headers, data)

    async def refuse(self, refusal: Refusal, headers: Headers) -> None:
        """Say no: as an answer, or as the last event of a stream that has begun."""
        if self._done:
            return
        if self.begun:
            await self.end(stream_error(refusal))
            return
        status, out, body = render(refusal, headers)
        await self.begin(status, out)
        await self.end(body)


class DataPlane:
    """ASGI application over one `House`."""

    def __init__(self, house: House, peers: Sequence[str] | None = None) -> None:
        self._house = house
        self._trusted = network_check(peers) if peers is not None else None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("the data plane speaks HTTP only")
        inbound = Inbound(scope, receive)
        sink = AsgiSink(send, inbound.extension.get("answer"))
        if self._trusted is not None and not self._trusted(inbound.peer):
            # SECURITY: behind a TLS terminator, plaintext from anyone else is somebody going around it.
            await sink.refuse(Refusal(MALFORMED, detail="not the terminator"), [])
            return
        try:
            await serve(inbound, sink, self._house)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not inbound.left or task is None:
                raise
            task.uncancel()  # the cancellation was ours: the client left
