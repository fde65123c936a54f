"""A backend that says exactly the bytes a test wants, when it wants. Written by hand, on loopback, one script an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

OK_BODY = b'{"ok":true}'
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(OK_BODY) + OK_BODY
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(status: int, body: bytes = b"{}", *fields: bytes, kind: bytes = b"application/json") -> bytes:
    head = [b"HTTP/1.1 %d X" % status, b"content-type: " + kind, b"content-length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


class Exchange:
    """One request as it arrived and the means to answer it."""

    def __init__(self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        self.head = head
        self.body = body
        self.reader = reader
        self.writer = writer
        self.connection = connection

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the other side has closed."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Exchange], Awaitable[None]]


class ScriptedBackend:
    """`async with ScriptedBackend(script) as backend:` serves on an ephemeral port. `exchanges` holds what arrived."""

    def __init__(self, script: Script | bytes) -> None:
        self._script = script
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> ScriptedBackend:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
                exchange = Exchange(head, await reader.readexactly(length), reader, writer, number)
                self.exchanges.append(exchange)
                if isinstance(self._script, bytes):
                    await exchange.say(self._script)
                else:
                    await self._script(exchange)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self.open -= 1
            writer.transport.abort()
            self._tasks.discard(asyncio.current_task())  # type: ignore[arg-type]
