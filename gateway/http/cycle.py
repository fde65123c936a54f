"""One request and its answer on a connection: what the application reads and writes through ASGI.

Must not parse, time or count: the protocol does. It holds what was read and not yet taken (bounded by flow control), frames
the answer, and tells the protocol when the answer is complete. ASGI HTTP 2.3; RFC 9112 sections 4, 6, 7.1.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from typing import Any, Protocol

from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, HTTPScope

from gateway.ports import ClientGone

_BODILESS = frozenset({204, 304})


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


_STATUS_LINES = {status: _status_line(status) for status in range(200, 600)}


class BadAnswer(Exception):
    """The application broke the ASGI contract."""


class Connection(Protocol):
    """What a cycle asks of the connection it belongs to."""

    @property
    def crowded(self) -> bool:
        """True while more was written than the client has taken."""
        ...

    def cycle_reads(self) -> None:
        """Let the connection read on: the application took what there was."""
        ...

    def cycle_writes(self, data: bytes) -> None: ...
    async def cycle_drained(self) -> None:
        """Return when the client has taken enough of what was written, or is gone."""
        ...

    def cycle_failed(self) -> None:
        """Answer 500 if nothing was written yet, else break the connection off."""
        ...

    def cycle_answered(self) -> None:
        """Take note that the last byte of the answer was written."""
        ...


# The ASGI extension by which an application learns at once that its client has left (`watch`), and sends a whole answer (`answer`).
LEAVING = "gateway.leaving"
_FRAMING = frozenset({b"content-length", b"connection", b"transfer-encoding"})


class Cycle:
    """The ASGI side of one exchange."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_default_headers",
        "_expects_continue",
        "_head",
        "_leaving",
        "_left",
        "body",
        "body_bytes",
        "complete",
        "disconnected",
        "keep_alive",
        "more_body",
        "news",
        "scope",
        "started",
    )

    def __init__(
        self,
        connection: Connection,
        scope: HTTPScope,
        default_headers: list[tuple[bytes, bytes]],
        *,
        expects_continue: bool,
        keep_alive: bool,
    ) -> None:
        self._connection = connection
        self.scope = scope
        self._default_headers = default_headers
        self._expects_continue = expects_continue
        self.keep_alive = keep_alive
        self.body: list[bytes] = []
        self.body_bytes = 0  # held and not yet taken
        self.more_body = True
        self.news = asyncio.Event()
        self.disconnected = False
        self.started = False
        self.complete = False
        self._head: bytes | None = None
        self._chunked = False
        self._left = 0
        self._leaving: Callable[[], object] | None = None
        scope["extensions"] = {LEAVING: {"watch": self.watch, "answer": self.answer}}

    def disconnect(self) -> None:
        """Note that nothing more can be read or written."""
        self.disconnected = True
        self.news.set()
        if self._leaving is not None and not self.complete:
            self._leaving()

    def watch(self, callback: Callable[[], object] | None) -> None:
        """Call `callback` once when the client leaves before the answer is complete; None ends the watch. Costs no task."""
        self._leaving = callback
        if callback is not None and self.disconnected:
            callback()

    async def run(self, app: ASGI3Application) -> None:
        """Run the application; an answer it left unfinished becomes a 500 or a broken connection, never a hanging one."""
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            if not self.complete and not self.disconnected:
                self._connection.cycle_failed()
            # The scope holds methods of this object: without the ring all of the exchange is freed here, not at some collection.
            self.scope["extensions"] = {}

    async def receive(self) -> ASGIReceiveEvent:
        if self._expects_continue and not self.disconnected and not self.started:
            self._expects_continue = False
            self._connection.cycle_writes(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.complete:
            self._connection.cycle_reads()
            if not self.news.is_set():
                await self.news.wait()
            self.news.clear()
        if self.disconnected or self.complete:
            return {"type": "http.disconnect"}
        held = self.body
        body = held[0] if len(held) == 1 else b"".join(held)
        self.body = []
        self.body_bytes = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: ASGISendEvent) -> None:
        if self.disconnected:
            return
        kind = message["type"]
        if not self.started:
            if kind != "http.response.start":
                raise BadAnswer("the answer must begin with http.response.start")
            self._begin(message["status"], message.get("headers", ()))  # type: ignore[typeddict-item]
            return
        if self.complete or kind != "http.response.body":
            raise BadAnswer("only body messages may follow the start, and none the end")
        if self._connection.crowded:
            await self._connection.cycle_drained()
        if not self.disconnected:
            self._body(message.get("body", b""), message.get("more_body", False))  # type: ignore[arg-type]

    async def answer(self, status: int, headers: Any, body: bytes) -> None:
        """Do at once what `http.response.start` and a last body message do; the head and the body leave in one write.

        Raises `ClientGone`: whoever records what was answered must know that nothing was.
        """
        if self.started:
            raise BadAnswer("a whole answer is the only one")
        if self._connection.crowded and not self.disconnected:
            await self._connection.cycle_drained()
        if self.disconnected:
            raise ClientGone
        self._begin(status, headers)
        self._body(body, False)

    def _begin(self, status: int, headers: Any) -> None:
        # A body that was not read whole cannot be told from a next request once the answer is out.
        close = not self.keep_alive or self.more_body
        length: bytes | None = None
        parts = [_STATUS_LINES[status]]
        for name, value in (*self._default_headers, *headers):
            if name in _FRAMING:
                if name == b"content-length":
                    length = value
                elif name == b"connection":
                    close = close or value.lower() == b"close"
                    continue
                else:
                    continue
            parts += (name, b": ", value, b"\r\n")
        self.keep_alive = not close
        if close:
            parts.append(b"connection: close\r\n")
        if self.scope["method"] == "HEAD" or status in _BODILESS:
            self._left = -1
        elif length is not None:
            self._left = int(length)
        elif self.scope["http_version"] == "1.0":
            self._left = -2  # delimited by the end of the connection, which `keep_alive` already demands
        else:
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        lines = (len(parts) - close - self._chunked - 2) // 4 + 2 + close + self._chunked
        # SECURITY: response splitting (RFC 9110 section 5.5). Line ends are ours alone.
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise BadAnswer("control character in an answer's header")
        self.started = True
        if self._left > 0:
            self._head = head  # leaves with the first of the body: one segment for a short answer
        else:
            self._connection.cycle_writes(head)

    def _body(self, body: bytes, more: bool) -> None:
        if self._chunked:
            self._write_chunk(body, more)
        elif self._left >= 0:
            self._left -= len(body)
            if self._left < 0 or (not more and self._left):
                raise BadAnswer("the body does not have the length the header announced")
            head, self._head = self._head, None
            if head is not None:
                self._connection.cycle_writes(head + body)
            elif body:
                self._connection.cycle_writes(body)
        elif self._left == -2 and body:
            self._connection.cycle_writes(body)
        if not more:
            self.complete = True
            self.news.set()
            self._connection.cycle_answered()

    def _write_chunk(self, body: bytes, more: bool) -> None:
        end = b"" if more else b"0\r\n\r\n"
        if body:
            self._connection.cycle_writes(b"%x\r\n%b\r\n%b" % (len(body), body, end))
        elif end:
            self._connection.cycle_writes(end)
