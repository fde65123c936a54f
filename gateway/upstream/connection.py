"""How are bytes exchanged with a backend? One HTTP/1.1 connection, one exchange at a time (RFC 9112).

It trusts nothing the backend sends: heads are bounded, framing must be unambiguous, encodings are refused, and a connection
on which anything unexpected happened is never used again. It must not decide what an answer means or whether to try again.

Ownership: an exchange's `Response` is made before its request is written. The connection feeds it and lets go when the
message is whole or broken; from then on the response lives alone and the connection may serve another exchange.
"""

from __future__ import annotations

import asyncio
import select
import time
from typing import Protocol

import httptools

from gateway.ports import UpstreamError
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.response import Response

NEVER = float("inf")

# A repeated field of these kinds would mean two framings or two types for one body (RFC 9112 section 6.3).
_SINGLE = frozenset({b"content-length", b"transfer-encoding", b"content-encoding", b"content-type"})

# SECURITY: chunk extensions, trailers and one-byte chunks cost wire bytes without giving body bytes. The smallest honest
# chunk spends six bytes for one; anything beyond eight for one plus this allowance is padding.
_PADDING_BYTES = 131_072


class Owner(Protocol):
    """Who keeps the connection between exchanges."""

    def freed(self, connection: Connection) -> None:
        """Take the connection back: its exchange ended cleanly."""
        ...

    def gone(self, connection: Connection) -> None:
        """Forget the connection: it is closed. May be called more than once."""
        ...


class Connection(asyncio.Protocol):
    """One keep-alive connection. `deadline_s` (monotonic) is when its present `phase` has lasted too long."""

    __slots__ = (
        "_done",
        "_extra",
        "_fault",
        "_fields",
        "_head",
        "_head_bytes",
        "_head_done",
        "_informational",
        "_limits",
        "_owner",
        "_parser",
        "_poll",
        "_response",
        "_reusable",
        "_timeouts",
        "_total_s",
        "_until_close",
        "_wire",
        "_writing",
        "closed",
        "deadline_s",
        "paused",
        "phase",
        "served",
        "transport",
    )

    def __init__(self, owner: Owner, limits: Limits) -> None:
        self._owner = owner
        self._limits = limits
        self._timeouts = Timeouts()
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._poll: select.poll | None = None
        self._response: Response | None = None
        self._writing = False
        self._total_s = NEVER
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.paused = False
        self.served = 0
        self.deadline_s = NEVER
        self.phase = "idle connection"
        self._reset()

    def _reset(self) -> None:
        self._head: dict[bytes, bytes] = {}
        self._fields = 0
        self._head_bytes = 0
        self._head_done = False
        self._informational = 0
        self._until_close = False
        self._wire = 0
        self._done = False
        self._reusable = False
        self._extra = False
        self._fault = ""

    # -- the pool's and the client's side

    @property
    def busy(self) -> bool:
        return self._response is not None

    def usable(self) -> bool:
        """Whether a request may be sent: open, and nothing unread, an end of stream included, waits in the kernel.

        SECURITY: bytes that came unasked would be read as the answer to the next request (response queue poisoning).
        """
        if self.closed or self.transport is None or self.transport.is_closing():
            return False
        return self._poll is None or not self._poll.poll(0)

    def send(self, request: bytes, response: Response, timeouts: Timeouts, total_s: float, now_s: float) -> None:
        """Begin an exchange: write the whole request, let `response` follow its answer. `total_s` is a monotonic time."""
        if self.transport is None or self._response is not None:
            raise UpstreamError("send", "connection is not free")
        self._reset()
        self._response = response
        response._connection = self
        self._timeouts = timeouts
        self._total_s = total_s
        self._enter("head", timeouts.head_s, now_s)
        self.transport.write(request)
        if self._writing:
            self._enter("send", timeouts.send_s, now_s)

    def expire(self) -> None:
        """End what has lasted too long."""
        if self._response is None:
            self._shut()
        else:
            self._break("timeout", self.phase if time.monotonic() < self._total_s else "total")

    def park(self, keep_alive_s: float) -> None:
        """Wait for the next exchange for at most `keep_alive_s`."""
        self.phase = "idle connection"
        self.deadline_s = time.monotonic() + keep_alive_s

    def abandon(self) -> None:
        """Close at once, whatever is in flight. Nobody's fault."""
        self._break("closed", "by its owner")

    def resume(self) -> None:
        """Read on: the consumer has caught up."""
        self.paused = False
        if self.transport is not None and not self.closed:
            self.transport.resume_reading()
            self._enter("idle", self._timeouts.idle_s, time.monotonic())

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport) and not hasattr(transport, "pause_reading"):
            transport.close()
            return
        self.transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)

    def connection_lost(self, exc: Exception | None) -> None:
        response = self._response
        if response is not None:
            if exc is None and self._head_done and self._until_close:
                self._done = True
                self._finish(response)
            else:
                self._break("body" if self._head_done else "head", self._loss())
        self._shut()

    def eof_received(self) -> None:
        response = self._response
        if response is None:
            self._shut()
        elif self._head_done and self._until_close:
            self._done = True
            self._finish(response)
        else:
            self._break("body" if self._head_done else "head", self._loss())

    def pause_writing(self) -> None:
        self._writing = True

    def resume_writing(self) -> None:
        self._writing = False
        if self._response is not None and self.phase == "send":
            self._enter("head", self._timeouts.head_s, time.monotonic())

    def data_received(self, data: bytes) -> None:
        response, parser = self._response, self._parser
        if response is None or parser is None:
            # SECURITY: nobody asked: whatever it is, it must not become the next answer.
            self._shut()
            return
        self._wire += len(data)
        had_head = self._head_done
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._done:
                self._break("protocol", self._fault or "malformed response")
                return
            self._extra = True
        if self._done:
            self._finish(response)
            return
        if not self._head_done:
            if self._wire > self._limits.head_bytes:
                self._break("protocol", "response head is too large")
            return
        if response.received > self._limits.body_bytes:
            self._break("protocol", "body is too large")
            return
        if self._wire - response.received > _PADDING_BYTES + 8 * response.received:
            self._break("protocol", "framing outweighs the body")
            return
        if response._buffered > self._limits.buffer_bytes and not self.paused and self.transport is not None:
            # The clock of the backend stops while it is our reader who is slow; the total deadline goes on.
            self.paused = True
            self.transport.pause_reading()
            self.phase, self.deadline_s = "total", self._total_s
        elif response._chunks:
            self._enter("idle", self._timeouts.idle_s, time.monotonic())
        elif not had_head:
            self._enter("first byte", self._timeouts.first_byte_s, time.monotonic())
        response._wake()

    # -- the parser's side; raising stops the parser, `_fault` says why

    def on_message_begin(self) -> None:
        if self._done:
            self._extra = True
            raise ValueError("bytes after the message")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # trailers are dropped: RFC 9110 section 6.5.1 forbids merging what was not expected
        self._fields += 1
        self._head_bytes += len(name) + len(value)
        if self._fields > self._limits.head_fields or self._head_bytes > self._limits.head_bytes:
            self._refuse("response head is too large")
        name = name.lower()
        if name not in self._head:
            self._head[name] = value
        elif name in _SINGLE:
            self._refuse("a framing field is repeated")

    def on_headers_complete(self) -> None:
        parser, response = self._parser, self._response
        if parser is None or response is None:
            return
        status = parser.get_status_code()
        if parser.get_http_version() != "1.1":
            self._refuse("not HTTP/1.1")
        if status < 200:
            self._informational += 1
            if status == 101 or status < 100 or self._informational > self._limits.informational:
                self._refuse("unexpected informational response")
            self._head = {}
            return
        if status > 599:
            self._refuse("status out of range")
        self._check_framing(status, self._head)
        self._head_done = True
        response._head = self._head
        response.status = status

    def _check_framing(self, status: int, head: dict[bytes, bytes]) -> None:
        """Refuse every body whose end or coding is open to two readings (RFC 9112 section 6.3)."""
        coding = head.get(b"transfer-encoding")
        length = head.get(b"content-length")
        if coding is not None:
            if coding.lower() != b"chunked":
                self._refuse("transfer-encoding is not chunked alone")
        elif length is not None:
            if int(length) > self._limits.body_bytes:
                self._refuse("body is too large")
        elif status not in (204, 304):
            tokens = [token.strip() for token in head.get(b"connection", b"").lower().split(b",")]
            if b"close" not in tokens:
                self._refuse("body has no end")
            self._until_close = True
        encoding = head.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            # SECURITY: what cannot be inspected is not accepted; a gigabyte deflates to one megabyte.
            self._refuse("content-encoding was not asked for")

    def on_body(self, data: bytes) -> None:
        response = self._response
        if response is not None:
            response._chunks.append(data)
            response._buffered += len(data)
            response.received += len(data)

    def on_message_complete(self) -> None:
        if self._head_done and self._parser is not None:
            self._done = True
            self._reusable = self._parser.should_keep_alive()

    # -- endings

    def _refuse(self, detail: str) -> None:
        self._fault = detail
        raise ValueError(detail)

    def _loss(self) -> str:
        # A reused connection that died before any byte of the answer: most likely closed while we were writing.
        return "stale connection" if self.served and not self._wire else "connection closed"

    def _enter(self, phase: str, seconds: float, now_s: float) -> None:
        deadline = now_s + seconds
        self.phase, self.deadline_s = phase, deadline if deadline < self._total_s else self._total_s

    def _finish(self, response: Response) -> None:
        """The message is whole: let go of the response, keep the connection only if nothing odd was seen."""
        if response.received > self._limits.body_bytes:
            self._break("protocol", "body is too large")
            return
        self._response = None
        response._connection = None
        response.complete = True
        if self._reusable and not self._extra and not self._writing and self.transport is not None and not self.transport.is_closing():
            self.served += 1
            if self.paused:
                self.paused = False
                self.transport.resume_reading()
            self._owner.freed(self)
        else:
            self._shut()
        response._wake()

    def _break(self, phase: str, detail: str) -> None:
        response, self._response = self._response, None
        if response is not None:
            response._connection = None
            response.error = UpstreamError(phase, detail)
            response._wake()
        self._shut()

    def _shut(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.deadline_s = NEVER
        self._poll = None
        self._parser = None  # the parser holds bound methods of this object
        if self.transport is not None:
            self.transport.abort()
        self._owner.gone(self)
