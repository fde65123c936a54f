"""The document fetcher against servers that misbehave: it returns a whole small 200 or raises `OSError`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from gateway.providers.local.documents import HttpsDocuments

SOURCE = HttpsDocuments()


@asynccontextmanager
async def server(answer: bytes, *, hold: bool = False, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            if hold:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if hold else writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with listening:
        yield listening.sockets[0].getsockname()[1], seen


def ok(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *(headers or (b"content-length: %d" % len(body),)), b"", body])


async def fetch(port: int, path: str = "/keys?a=b", **more: float) -> bytes:
    return await SOURCE.fetch(f"http://127.0.0.1:{port}{path}", max_bytes=1000, timeout_s=more.get("timeout_s", 5.0))


@pytest.mark.parametrize(
    "answer",
    [
        ok(b'{"a":1}'),
        ok(b'7\r\n{"a":1}\r\n0\r\n\r\n', b"transfer-encoding: chunked"),
        ok(b'{"a":1}', b"content-length: 7", b"content-encoding: identity"),
    ],
)
async def test_whole_200(answer: bytes) -> None:
    async with server(answer) as (port, seen):
        assert await fetch(port) == b'{"a":1}'
    head = seen[0].decode().split("\r\n")
    assert head[0] == "GET /keys?a=b HTTP/1.1"
    assert sorted(line.partition(":")[0] for line in head[1:] if line) == ["accept", "accept-encoding", "connection", "host"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\x01\x02",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\n\r\nno length",
        b"HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: https://attacker.example/\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 206 Partial\r\ncontent-length: 2\r\n\r\n{}",
        ok(b"x" * 1001),
        ok(b"", b"content-length: 99999999999999999999"),
        ok(b"", b"content-length: -1"),
        ok(b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n", b"transfer-encoding: chunked"),
        ok(b"{}", b"content-length: 2", b"content-encoding: gzip"),
        ok(b"{}", b"content-length: 2", b"transfer-encoding: chunked"),
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000 + b"content-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
    ],
    ids=lambda a: repr(a)[:40],
)
async def test_anything_else_is_an_oserror(answer: bytes) -> None:
    async with server(answer) as (port, _):
        with pytest.raises(OSError):
            await fetch(port)


async def test_silence_is_a_timeout() -> None:
    async with server(b"HTTP/1.1 200 OK\r\n", hold=True) as (port, _):
        with pytest.raises(TimeoutError):
            await fetch(port, timeout_s=0.1)


async def test_nobody_there() -> None:
    async with server(b"") as (port, _):
        pass
    with pytest.raises(OSError):
        await fetch(port)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/keys",
        "http://169.254.169.254/metadata/identity/oauth2/token",
        "http://127.0.0.1.evil.example/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/keys",
        "https://user@issuer.example/",
        "https://a\r\nhost: b/",
        "//127.0.0.1/",
        "",
    ],
)
async def test_cve_2026_48522_where_it_never_goes(url: str) -> None:
    with pytest.raises(OSError):
        await SOURCE.fetch(url, max_bytes=10, timeout_s=1.0)


async def test_https_with_the_given_trust_and_with_no_other() -> None:
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with server(ok(b"{}"), tls=serving) as (port, _):
        assert await HttpsDocuments(trusting).fetch(f"https://localhost:{port}/", max_bytes=10, timeout_s=5.0) == b"{}"
        with pytest.raises(OSError):
            await SOURCE.fetch(f"https://localhost:{port}/", max_bytes=10, timeout_s=5.0)
        with pytest.raises(OSError):
            await HttpsDocuments(trusting).fetch(f"https://127.0.0.1:{port}/", max_bytes=10, timeout_s=5.0)
