"""What has come of one answer so far? The body as its reader sees it, fed by a connection that may already be gone.

Back-pressure, completeness and failure are all read from here; nothing in here touches a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from gateway.ports import UpstreamError

_ENOUGH_BYTES = 16_384  # beyond this nothing is gained by letting more gather


class Source(Protocol):
    """Where the body comes from while it is still coming."""

    paused: bool

    def resume(self) -> None:
        """Read on: the reader has caught up."""
        ...

    def abandon(self) -> None:
        """Close at once."""
        ...


class Response:
    """One answer. Implements `ports.UpstreamResponse`, plus `read` and `next_chunk`.

    `complete`: the body arrived whole (it may still be unread). `error`: why it did not.
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_connection",
        "_head",
        "_headers",
        "_resting",
        "_waiter",
        "closed",
        "complete",
        "error",
        "received",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self.closed = False
        self.error: UpstreamError | None = None
        self.received = 0  # body bytes so far
        self._buffered = 0
        self._chunks: list[bytes] = []
        self._head: dict[bytes, bytes] = {}
        self._headers: dict[str, str] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._resting = False
        self._connection: Source | None = None

    @property
    def headers(self) -> dict[str, str]:
        if self._headers is None:
            self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._head.items()}
        return self._headers

    def header(self, name: bytes) -> bytes:
        """Return one field by its lower-case name, empty when absent."""
        return self._head.get(name, b"")

    async def head(self) -> None:
        """Wait for the final response head. Raises `UpstreamError`."""
        while not self.status:
            if self.error is not None:
                raise self.error
            await self._wait()

    async def next_chunk(self) -> bytes:
        """Return all body bytes that have arrived and were not read yet, b"" at the end.

        Bytes that came before a failure are returned first; then `UpstreamError` is raised. Cancelling loses nothing.
        """
        while True:
            if self.closed:
                raise UpstreamError("closed", "by its owner")
            if self._chunks:
                return self._take()
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait()

    async def rest(self, seconds: float) -> None:
        """Let bytes gather for `seconds`; return early when the body ends, breaks or much of it is waiting."""
        if self.complete or self.closed or self.error is not None or self._buffered >= _ENOUGH_BYTES:
            return
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(seconds, _resolve, waiter)
        self._resting = True
        try:
            await waiter
        finally:
            self._resting = False
            self._waiter = None
            timer.cancel()

    async def read(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises `UpstreamError` (phase `protocol`) beyond `max_bytes`."""
        if not self.complete or self.closed:
            parts: list[bytes] = []
            size = 0
            while chunk := await self.next_chunk():
                size += len(chunk)
                if size > max_bytes:
                    break
                parts.append(chunk)
            else:
                return b"".join(parts)
        elif self._buffered <= max_bytes:
            return self._take() if self._chunks else b""
        self.close()
        raise UpstreamError("protocol", "body is larger than expected")

    async def body(self) -> AsyncIterator[bytes]:
        while chunk := await self.next_chunk():
            yield chunk

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the exchange up: the connection is closed at once unless the body had arrived whole. Idempotent."""
        self.closed = True
        connection = self._connection
        if connection is not None:
            connection.abandon()
        self._chunks.clear()
        self._buffered = 0

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if self._resting and not self.complete and self.error is None and self._buffered < _ENOUGH_BYTES:
            return
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _take(self) -> bytes:
        chunks = self._chunks
        data = chunks.pop() if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        connection = self._connection
        if connection is not None and connection.paused:
            connection.resume()
        return data


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
