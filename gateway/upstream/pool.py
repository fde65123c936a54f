"""Which connection carries the next request to one backend? A bulkhead: so many connections, so many callers waiting, no more.

Idle connections are used last in, first out, so that surplus ones grow old and close. A caller that finds everything taken
is refused at once rather than queued without bound. It must not know what is sent.

INVARIANT: `len(_open) + _opening <= max_connections`; a freed place goes to the longest waiting caller before anyone else;
whichever way a caller leaves (answer, error, cancellation), its place is given back exactly once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections import deque

from gateway.ports import UpstreamError
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.connection import Connection

_TICK_S = 0.05  # how exact deadlines are; one pass costs under 0.1 us a connection


class Pool:
    """Connections to one (host, port). Belongs to the event loop that first uses it."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None, limits: Limits, loopback_only: bool) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._limits = limits
        self._loopback_only = loopback_only
        self._keep_alive_s = Timeouts().keep_alive_s
        self._open: set[Connection] = set()
        self._opening = 0
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        busy = sum(connection.busy for connection in self._open)
        counts = f"{busy} active, {len(self._idle)} idle, {self._opening} opening, {len(self._waiting)} waiting"
        return f"<Pool {self._host}:{self._port}: {counts}>"

    def take(self) -> Connection | None:
        """Return an idle connection that is fit for use, if there is one. Never waits."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable():
                return connection
            connection.abandon()
        return None

    async def acquire(self, timeouts: Timeouts, total_s: float) -> Connection:
        """Return a connection of the caller's own. Raises `UpstreamError` with phase `pool`, `connect` or `timeout`."""
        self._keep_alive_s = timeouts.keep_alive_s
        give_up_s = min(time.monotonic() + timeouts.pool_s, total_s)
        while True:
            if self._closed:
                raise UpstreamError("pool", "closed")
            connection = self.take()
            if connection is not None:
                return connection
            if len(self._open) + self._opening < self._limits.max_connections:
                self._opening += 1
                return await self._connect(timeouts, total_s)
            if len(self._waiting) >= self._limits.max_waiting:
                raise UpstreamError("pool", "full")
            connection = await self._queue(give_up_s)
            if connection is None:
                return await self._connect(timeouts, total_s)
            if connection.usable():
                return connection
            connection.abandon()

    async def _queue(self, give_up_s: float) -> Connection | None:
        """Wait for a turn: a connection, or None for leave to open one (the place is already counted)."""
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(give_up_s - time.monotonic()):
                return await turn
        except (TimeoutError, asyncio.CancelledError) as left:
            if turn.done() and not turn.cancelled():
                # The turn came in the same moment as the end of patience: hand it on.
                connection = turn.result()
                if connection is None:
                    self._opening -= 1
                    self._next_opens()
                else:
                    self.freed(connection)
            else:
                self._waiting.remove(turn)
            if isinstance(left, TimeoutError):
                raise UpstreamError("pool", "no connection came free") from None
            raise

    async def _connect(self, timeouts: Timeouts, total_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        connection: Connection | None = None
        try:
            async with asyncio.timeout(min(timeouts.connect_s, total_s - time.monotonic())):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, self._limits),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls is not None else None,
                )
        except TimeoutError:
            raise UpstreamError("timeout", "connect") from None
        except ssl.SSLError as refused:
            raise UpstreamError("connect", f"tls {refused.reason or 'failed'}") from None
        except OSError as refused:
            raise UpstreamError("connect", refused.strerror or type(refused).__name__) from None
        finally:
            self._opening -= 1
            if connection is None:
                self._next_opens()
        stray = self._loopback_only and not _at_loopback(connection)
        if stray or self._closed or connection.closed:
            connection.abandon()
            self._next_opens()
            raise UpstreamError("connect", "peer is not on loopback" if stray else "closed")
        self._open.add(connection)
        if self._ticker is None:
            self._ticker = loop.call_later(_TICK_S, self._tick)
        return connection

    def freed(self, connection: Connection) -> None:
        if self._closed:
            connection.abandon()
            return
        connection.park(self._keep_alive_s)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        self._idle.append(connection)

    def gone(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        if connection in self._open:
            self._open.discard(connection)
            self._next_opens()

    def _next_opens(self) -> None:
        while self._waiting and not self._closed and len(self._open) + self._opening < self._limits.max_connections:
            turn = self._waiting.popleft()
            if not turn.done():
                self._opening += 1
                turn.set_result(None)

    def _tick(self) -> None:
        now_s = time.monotonic()
        late = [connection for connection in self._open if connection.deadline_s <= now_s]
        for connection in late:
            connection.expire()
        self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick) if self._open else None

    async def aclose(self) -> None:
        """Close every connection at once, those in use included."""
        self._closed = True
        for connection in list(self._open):
            connection.abandon()
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(UpstreamError("pool", "closed"))
        self._waiting.clear()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        await asyncio.sleep(0)


def _at_loopback(connection: Connection) -> bool:
    peer = connection.transport.get_extra_info("peername") if connection.transport is not None else None
    return isinstance(peer, tuple) and ipaddress.ip_address(peer[0]).is_loopback
