"""A TCP proxy that makes the way to a backend bad, with toxiproxy's toxics by name.

    async with ChaosProxy(port) as proxy:
        proxy.toxics = [latency(0.2), limit_data(100)]

Toxics act on what flows back from the backend, in the order given; they may be changed while connections live. `down` makes
new connections be refused, as when nothing listens.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Link:
    """One proxied connection."""

    client: asyncio.StreamWriter
    backend: asyncio.StreamWriter
    passed: int = 0
    notes: dict[str, float] = field(default_factory=dict)

    def reset(self) -> None:
        """Send RST to the client, not FIN: linger for no time."""
        sock = self.client.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.transport.abort()


class Cut(Exception):
    """Close both sides now."""


Toxic = Callable[[Link, bytes], Awaitable[list[bytes]]]


def latency(seconds: float) -> Toxic:
    """Delay every read by `seconds`."""

    async def act(link: Link, data: bytes) -> list[bytes]:
        await asyncio.sleep(seconds)
        return [data]

    return act


def bandwidth(bytes_per_s: float) -> Toxic:
    """Let so many bytes through a second."""

    async def act(link: Link, data: bytes) -> list[bytes]:
        await asyncio.sleep(len(data) / bytes_per_s)
        return [data]

    return act


def slow_close(seconds: float) -> Toxic:
    """Keep the connection open for a while after the backend has closed it."""

    async def act(link: Link, data: bytes) -> list[bytes]:
        link.notes["slow_close"] = seconds
        return [data]

    return act


def timeout(seconds: float) -> Toxic:
    """Let nothing through; close after `seconds` (0: never)."""

    async def act(link: Link, data: bytes) -> list[bytes]:
        if seconds:
            await asyncio.sleep(seconds)
            raise Cut
        await asyncio.Event().wait()
        return []

    return act


def reset_peer(after_bytes: int = 0) -> Toxic:
    """Send RST once so many bytes have passed."""

    async def act(link: Link, data: bytes) -> list[bytes]:
        keep = data[: max(0, after_bytes - link.passed)]
        if len(keep) < len(data):
            if keep:
                link.client.write(keep)
                await link.client.drain()
                await asyncio.sleep(0.02)  # let it be read: a reset discards what is still in flight
            link.reset()
            raise Cut
        return [data]

    return act


def slicer(size: int, pause_s: float = 0.0) -> Toxic:
    """Cut what passes into pieces of `size` bytes, `pause_s` apart."""

    async def act(link: Link, data: bytes) -> list[bytes]:
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        for piece in pieces[:-1]:
            link.client.write(piece)
            await link.client.drain()
            await asyncio.sleep(pause_s)
        return pieces[-1:]

    return act


def limit_data(total: int) -> Toxic:
    """Close once so many bytes have passed."""

    async def act(link: Link, data: bytes) -> list[bytes]:
        room = total - link.passed
        if len(data) >= room:
            if room > 0:
                link.client.write(data[:room])
                await link.client.drain()
            raise Cut
        return [data]

    return act


class ChaosProxy:
    def __init__(self, backend_port: int, *toxics: Toxic) -> None:
        self._backend_port = backend_port
        self.toxics: list[Toxic] = list(toxics)
        self.connections = 0
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> ChaosProxy:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        up: asyncio.Task[None] | None = None
        backend: asyncio.StreamWriter | None = None
        try:
            back_reader, backend = await asyncio.open_connection("127.0.0.1", self._backend_port)
            link = Link(writer, backend)
            up = asyncio.create_task(_copy(reader, backend))
            await self._back(back_reader, link)
        except (Cut, ConnectionError, OSError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            if up is not None:
                up.cancel()
            writer.transport.abort()
            if backend is not None:
                backend.transport.abort()
            self._tasks.discard(task)

    async def _back(self, reader: asyncio.StreamReader, link: Link) -> None:
        while data := await reader.read(65536):
            pieces = [data]
            for toxic in self.toxics:
                pieces = [out for piece in pieces for out in await toxic(link, piece)]
            for piece in pieces:
                link.client.write(piece)
                link.passed += len(piece)
            await link.client.drain()
        await asyncio.sleep(link.notes.get("slow_close", 0.0))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry the request on; when the client leaves, the backend sees it too."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, OSError):
        pass
    writer.transport.abort()
