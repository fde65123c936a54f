"""May this connection speak, and for how long? The hardened HTTP/1.1 protocol class that uvicorn serves connections with.

Theory of operation. A connection is in one of four phases: IDLE (between requests), HEAD (bytes of a head are held, none is
parsed), BODY (the head was accepted and the application runs), DONE (the request is whole, its answer is not). A head is
held until its empty line has come, checked byte by byte (`gateway/http/head.py`), and only then given to llhttp: a head that is
too long, too slow or ambiguous is never parsed at all. Whatever goes wrong is answered once with our own constant error and
the connection is closed; nothing that follows an error is read as a request. A request that arrives before the previous
answer is complete (pipelining) is not read either: the answer says `connection: close`, as RFC 9112 section 9.3.2 allows.

Time: phases set a read deadline, a full write buffer sets a write deadline (`gateway/http/deadlines.py`).

It must not know paths, credentials or body limits: those belong to the application.
Specifications: RFC 9112; threats: request smuggling, slow clients (CWE-400), chunk-extension floods (CVE-2024-22019,
CVE-2023-39326), trailers that become headers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable
from enum import Enum
from typing import Any

import httptools
import msgspec
from uvicorn._types import ASGI3Application, HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from gateway.http.answers import constant_answer
from gateway.http.cycle import Cycle
from gateway.http.deadlines import Deadlines
from gateway.http.head import KIND_OF_FAULT, BadHead, Fault, Target, check_partial, check_syntax, read_fields, read_line
from gateway.refusals import INTERNAL, MALFORMED, Kind

_LOG = logging.getLogger("gateway.http")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may cost. Every number has its reason."""

    head_bytes: int = 32_768  # held once raw and once parsed: 64 KiB a connection; a 16 KiB token and its headers fit
    field_count: int = 64  # clients send 10 to 25; each costs a callback
    query_bytes: int = 1_024  # api-version and its like
    head_s: float = 5.0  # from the opening of a connection, or from the first byte of a later request
    keep_alive_s: float = 75.0  # above the 60 s at which common load balancers let go, so that we never close first
    body_idle_s: float = 10.0  # without one byte
    body_grace_s: float = 20.0  # before the minimum rate holds: a burst of loss is not an attack
    body_bytes_per_s: int = 1_024  # slower than any modem; bounds how long a slow body holds a task
    body_held_bytes: int = 65_536  # read ahead of the application
    chunk_overhead_bytes: int = 16_384  # extensions and trailers of one body, both discarded
    small_chunks: int = 4_096  # beyond it chunks must average 64 bytes: a byte a chunk costs 100 times its share
    write_s: float = 30.0  # without the client taking anything from a full buffer
    write_held_bytes: int = 65_536  # written ahead of the client
    linger_s: float = 1.0  # half-closed after an early answer, so that it is not lost to a reset
    linger_bytes: int = 262_144  # discarded meanwhile
    connections: int = 2_000  # open at once; the next is told 503


class Phase(Enum):
    IDLE = 0
    HEAD = 1
    BODY = 2
    DONE = 3
    CLOSING = 4  # answered for the last time: whatever comes is discarded


# Bound once: to look a member up on its class is slow in Python 3.11.
_IDLE, _HEAD, _BODY, _DONE, _CLOSING = Phase


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with every default that an edge cannot have replaced. Make one with `guarded`."""

    limits: Limits = Limits()
    on_malformed: Callable[[Fault], None] = staticmethod(lambda fault: None)
    request_id: Callable[[], str] = staticmethod(lambda: secrets.token_hex(16))

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # SECURITY: uvicorn asks llhttp to accept data after `connection: close`; we never read any.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._application: ASGI3Application = config.loaded_app
        self._awaits_continue = False
        self._phase = _IDLE
        self._served = 0
        self._held = bytearray()
        self._target: Target | None = None
        self._guarded: Cycle | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._fault: Fault | None = None
        self._chunked = False
        self._body_raw = self._body_bytes = self._chunks = 0
        self._body_from_s = self._paused_s = 0.0
        self._discarded = 0
        self._deadlines = Deadlines(self.loop, self._waited_long_enough, self._abort)

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server = get_local_addr(transport)
        self.client = get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        transport.set_write_buffer_limits(high=self.limits.write_held_bytes)
        crowded = len(self.connections) >= self.limits.connections
        self.connections.add(self)
        if crowded:
            self._refuse(Fault.CAPACITY)
        else:
            self._deadlines.read_until(self.loop.time() + self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self._phase = _CLOSING
        self._deadlines.stop()
        if self._guarded is not None and not self._guarded.complete:
            self._guarded.disconnect()
        self.flow.resume_writing()
        self._held = bytearray()
        self.parser = None  # type: ignore[assignment]

    def eof_received(self) -> None:
        return None  # the transport closes itself: a client that stops sending has left

    def shutdown(self) -> None:
        """Close an idle connection now, one with an exchange in it after its answer."""
        cycle = self._guarded
        if cycle is None or cycle.complete:
            self._close()
        else:
            cycle.keep_alive = False

    # Reading

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is _CLOSING:
            self._discard(len(data))
            return
        try:
            if phase is _BODY:
                self._read_body(data)
            elif phase is _DONE:
                raise BadHead(Fault.PIPELINED)
            else:
                self._read_head(data)
        except BadHead as bad:
            self._refuse(bad.fault)
        except httptools.HttpParserUpgrade:
            self._refuse(Fault.PARSER)
        except httptools.HttpParserError:
            self._refuse(self._fault or (Fault.CHUNKING if self._phase is _BODY else Fault.PARSER))

    def _read_head(self, data: bytes) -> None:
        """Hold bytes until a whole head has come, then check it and give it to the parser with what follows."""
        if self._phase is _IDLE:
            # An empty line before a request line is a mistake that RFC 9112 section 2.2 asks to forgive, once.
            if data[:2] == b"\r\n":
                data = data[2:]
                if not data:
                    return
            self._phase = _HEAD
        held, seen = self._held, 0
        raw: bytes | bytearray = data
        if held:
            seen = max(0, len(held) - 3)
            held += data
            raw = held
        limit = self.limits.head_bytes
        at = raw.find(b"\r\n\r\n", seen, limit)
        if at >= 0:
            self._held = bytearray()
            self._accept(bytes(raw), at + 4)
            return
        if len(raw) >= limit:
            raise BadHead(Fault.HEAD_BYTES)
        check_partial(raw, seen, self.limits.query_bytes)
        if not held:
            held += data
            if self._served:
                self._deadlines.read_until(self.loop.time() + self.limits.head_s)

    def _accept(self, raw: bytes, end: int) -> None:
        """Check a whole head, then let the parser read it and what stands behind it."""
        target = read_line(raw, self.limits.query_bytes)
        if raw.count(b"\r\n", target.fields_at, end) > self.limits.field_count + 1:
            raise BadHead(Fault.FIELD_COUNT)
        check_syntax(raw, target.fields_at, end)
        self._target = target
        self._headers = []
        self._fault = None
        self._body_raw = len(raw) - end
        self._body_bytes = self._chunks = 0
        self._deadlines.read_until(math.inf)
        self.parser.feed_data(raw)
        if self._phase is _BODY:
            self._body_from_s = self.loop.time()
            self._body_goes_on()
        elif self._phase is _HEAD:
            # SECURITY: the parser did not see the end of the head where we did. One of the two is wrong.
            raise BadHead(Fault.PARSER)

    def _read_body(self, data: bytes) -> None:
        self._body_raw += len(data)
        self.parser.feed_data(data)
        if self._phase is _BODY:
            self._body_goes_on()

    def _body_goes_on(self) -> None:
        """Bound what a body may cost beside its bytes, and set when more of it must have come."""
        limits = self.limits
        if self._chunked:
            allowed = limits.chunk_overhead_bytes + 16 * self._chunks  # 8 digits and two line ends, at most, for a chunk
            if self._body_raw - self._body_bytes > allowed or self._chunks > limits.small_chunks + self._body_bytes // 64:
                raise BadHead(Fault.CHUNKING)
        if self.flow.read_paused or self._awaits_continue:
            self._deadlines.read_until(math.inf)
            return
        paced = self._body_from_s + limits.body_grace_s + self._body_bytes / limits.body_bytes_per_s
        self._deadlines.read_until(min(self.loop.time() + limits.body_idle_s, paced))

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self.limits.linger_bytes:
            self.flow.pause_reading()

    # Parser callbacks; an exception here stops the parser for good

    def on_message_begin(self) -> None:
        if self._phase is not _HEAD:
            self._fault = Fault.PIPELINED
            raise BadHead(Fault.PIPELINED)

    def on_url(self, url: bytes) -> None:
        """Ignore the parser's idea of the target: ours was checked."""

    def on_header(self, name: bytes, value: bytes) -> None:
        # SECURITY: in a later phase these are trailers; merged, they would overrule what was authorised.
        if self._phase is _HEAD:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        target, headers = self._target, self._headers
        if target is None:
            raise BadHead(Fault.PARSER)
        try:
            framing = read_fields(headers, target)
        except BadHead as bad:
            self._fault = bad.fault
            raise
        path = target.path.decode("ascii")
        scope: HTTPScope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": target.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "root_path": self.root_path,
            "method": target.method,
            "path": path,
            "raw_path": target.path,
            "query_string": target.query,
            "headers": tuple(headers),
            "state": self.app_state.copy(),
        }
        keep_alive = target.version == "1.1" and self.parser.should_keep_alive()
        self._awaits_continue = framing.expects_continue
        self._chunked = framing.chunked
        cycle = Cycle(
            self, scope, self.server_state.default_headers, expects_continue=framing.expects_continue, keep_alive=keep_alive
        )
        self._guarded = cycle
        self._phase = _BODY
        task = self.loop.create_task(cycle.run(self._application))
        self.tasks.add(task)
        task.add_done_callback(self._finished)

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        cycle = self._guarded
        self._body_bytes += len(body)
        if cycle is None or cycle.complete or cycle.disconnected:
            return
        cycle.body.append(body)
        cycle.body_bytes += len(body)
        cycle.news.set()
        if cycle.body_bytes > self.limits.body_held_bytes and not self.flow.read_paused:
            self.flow.pause_reading()
            self._paused_s = self.loop.time()

    def on_message_complete(self) -> None:
        self._phase = _DONE
        self._deadlines.read_until(math.inf)
        cycle = self._guarded
        if cycle is not None:
            cycle.more_body = False
            cycle.news.set()

    # The exchange, as `Cycle` sees its connection

    def cycle_reads(self) -> None:
        resumed = self.flow.read_paused or self._awaits_continue
        if not resumed:
            return
        now = self.loop.time()
        # Time in which we did not read, or the client waited for our `100 Continue`, is not held against the client.
        self._body_from_s = now if self._awaits_continue else self._body_from_s + now - self._paused_s
        self._awaits_continue = False
        if self._phase is not _CLOSING:
            self.flow.resume_reading()
        if self._phase is _BODY:
            self._body_goes_on()

    def cycle_writes(self, data: bytes) -> None:
        self.transport.write(data)

    @property
    def crowded(self) -> bool:
        return self.flow.write_paused

    async def cycle_drained(self) -> None:
        await self.flow.drain()

    def cycle_failed(self) -> None:
        cycle = self._guarded
        if cycle is None:
            return
        cycle.disconnect()
        if cycle.started:
            self._close(unread=self._phase is not _DONE)
        else:
            self._answer(INTERNAL)

    def cycle_answered(self) -> None:
        self.server_state.total_requests += 1
        self._served += 1
        cycle = self._guarded
        if cycle is None or self.transport.is_closing():
            return
        if self._phase is not _DONE or not cycle.keep_alive:
            self._close(unread=self._phase is not _DONE)
            return
        self._phase = _IDLE
        self.flow.resume_reading()
        self._deadlines.read_until(self.loop.time() + self.limits.keep_alive_s)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                # SECURITY: the class alone; a message or a traceback may quote a prompt.
                _LOG.error("the application failed: %s", type(error).__name__)

    # Ending

    def _refuse(self, fault: Fault) -> None:
        """Answer once with our own error and read nothing more."""
        self.on_malformed(fault)
        cycle = self._guarded
        if cycle is not None and not cycle.complete:
            if self._phase is _DONE:
                # The request was whole before this came: it is served, and nothing behind it is.
                cycle.keep_alive = False
                self._phase = _CLOSING
                return
            cycle.disconnect()
            if cycle.started:
                self.transport.abort()
                return
        self._answer(KIND_OF_FAULT.get(fault, MALFORMED))

    def _answer(self, kind: Kind) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(constant_answer(kind, self.request_id()))
        self._close(unread=True)

    def _close(self, *, unread: bool = False) -> None:
        """Close after what was written has left. `unread`: the client may still be sending, so that a plain close would reset
        the connection and could take the answer with it."""
        if self.transport.is_closing():
            return
        self._phase = _CLOSING
        self._held = bytearray()
        now = self.loop.time()
        self._deadlines.write_until(now + self.limits.write_s)
        if unread and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self._deadlines.read_until(now + self.limits.linger_s)
        else:
            self.transport.close()

    def _abort(self) -> None:
        self.transport.abort()

    # Time

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._deadlines.write_until(self.loop.time() + self.limits.write_s)

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if self._phase is not _CLOSING:
            self._deadlines.write_until(math.inf)

    def _waited_long_enough(self) -> None:
        if self._phase is _CLOSING:
            self.transport.close()
        elif self._phase is _BODY:
            self._refuse(Fault.BODY_TIMEOUT)
        elif self._phase is _IDLE and self._served:
            self._close()
        else:
            self._refuse(Fault.HEAD_TIMEOUT)


def guarded(
    limits: Limits,
    *,
    on_malformed: Callable[[Fault], None] | None = None,
    request_id: Callable[[], str] | None = None,
) -> type[GuardedProtocol]:
    """Return the protocol class under `limits`. `on_malformed` is called once for each connection or request refused here."""
    members: dict[str, Any] = {"limits": limits}
    if on_malformed is not None:
        members["on_malformed"] = staticmethod(on_malformed)
    if request_id is not None:
        members["request_id"] = staticmethod(request_id)
    return type("GuardedProtocol", (GuardedProtocol,), members)
