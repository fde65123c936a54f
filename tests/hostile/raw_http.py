"""A client that sends bytes, not requests: for what no HTTP library would let us say.

Aims at any (host, port), so the same attacks run against the edge alone and against the whole gateway. `target_from_env`
reads `GATEWAY_EDGE_TARGET=host:port` and `GATEWAY_EDGE_AUTHORIZATION`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    host: str
    port: int
    authorization: str = ""
    path: str = "/v1/chat/completions"
    body: bytes = b"{}"

    @property
    def host_field(self) -> bytes:
        return b"Host: %b:%d\r\n" % (self.host.encode(), self.port)

    @property
    def credential_field(self) -> bytes:
        return b"Authorization: %b\r\n" % self.authorization.encode() if self.authorization else b""

    def head(self, method: str = "POST", path: str | None = None, *fields: bytes) -> bytes:
        """Return a good request line, Host and credential, then `fields`, without the empty line."""
        line = f"{method} {path or self.path} HTTP/1.1\r\n".encode()
        return line + self.host_field + self.credential_field + b"".join(f + b"\r\n" for f in fields)

    def get(self, path: str = "/v1/models") -> bytes:
        return self.head("GET", path) + b"\r\n"

    def post(self, body: bytes | None = None, *fields: bytes) -> bytes:
        body = self.body if body is None else body
        return self.head("POST", None, b"Content-Type: application/json", b"Content-Length: %d" % len(body), *fields) + b"\r\n" + body


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Conversation:
    """Everything that came back on one connection, and how it ended."""

    raw: bytes = b""
    closed: bool = False  # the server ended the connection, cleanly or not
    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    @property
    def status(self) -> int:
        return self.answers[0].status if self.answers else 0

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


def parse_answers(raw: bytes) -> list[Answer]:
    """Split a byte stream into the answers in it. Informational answers are skipped."""
    answers: list[Answer] = []
    while raw:
        head, found, rest = raw.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        parts = lines[0].split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
            answers.append(Answer(-1, [], raw, False))  # bytes that are no answer: the framing broke
            return answers
        status = int(parts[1])
        pairs = (line.decode("latin-1").partition(":") for line in lines[1:])
        headers = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
        if 100 <= status < 200:
            raw = rest
            continue
        fields = dict(headers)
        if not found:
            answers.append(Answer(status, headers, b"", False))
            return answers
        if fields.get("transfer-encoding") == "chunked":
            body, raw, whole = _chunks(rest)
        elif "content-length" in fields:
            size = int(fields["content-length"])
            body, raw, whole = rest[:size], rest[size:], len(rest) >= size
        else:
            body, raw, whole = rest, b"", True
        answers.append(Answer(status, headers, body, whole))
    return answers


def _chunks(raw: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while True:
        line, found, rest = raw.partition(b"\r\n")
        if not found:
            return body, b"", False
        size = int(line.split(b";")[0], 16)
        if size == 0:
            return body, rest[2:], rest[:2] == b"\r\n"
        body += rest[:size]
        raw = rest[size + 2 :]


async def converse(
    target: Target,
    pieces: bytes | Sequence[bytes],
    *,
    quiet_s: float = 0.25,
    total_s: float = 15.0,
    gap_s: float = 0.01,
    until_closed: bool = False,
) -> Conversation:
    """Send bytes (in pieces, `gap_s` apart) and collect what comes until the server closes or is quiet after an answer."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    talk = Conversation()
    reader, writer = await asyncio.open_connection(target.host, target.port)
    sending = asyncio.ensure_future(_send(writer, [pieces] if isinstance(pieces, bytes) else pieces, gap_s))
    try:
        while (left := started + total_s - loop.time()) > 0:
            wait = left if until_closed or not talk.raw else min(left, quiet_s)
            try:
                data = await asyncio.wait_for(reader.read(65536), wait)
            except TimeoutError:
                break
            except OSError:
                talk.closed = True
                break
            if not data:
                talk.closed = True
                break
            talk.raw += data
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()
    talk.seconds = loop.time() - started
    talk.answers = parse_answers(talk.raw)
    return talk


async def _send(writer: asyncio.StreamWriter, pieces: Iterable[bytes], gap_s: float) -> None:
    try:
        for number, piece in enumerate(pieces):
            if number and gap_s:
                await asyncio.sleep(gap_s)
            writer.write(piece)
            await writer.drain()
    except OSError:
        return


async def converse_all(target: Target, payloads: Sequence[bytes], *, parallel: int = 128, **how: float | bool) -> list[Conversation]:
    """Hold one conversation for each payload, `parallel` at a time, in order of the payloads."""
    gate = asyncio.Semaphore(parallel)

    async def one(payload: bytes) -> Conversation:
        async with gate:
            return await converse(target, payload, **how)  # type: ignore[arg-type]

    return list(await asyncio.gather(*(one(p) for p in payloads)))


def target_from_env() -> Target | None:
    """Return the server that the environment names, if it names one."""
    where = os.environ.get("GATEWAY_EDGE_TARGET", "")
    if not where:
        return None
    host, _, port = where.rpartition(":")
    return Target(host, int(port), os.environ.get("GATEWAY_EDGE_AUTHORIZATION", ""))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
