"""A backend that lies about where its answer ends, or sends without end, gets nothing through and keeps no connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

import pytest
import uvloop
from faults.scripted_backend import OK, OK_BODY, Exchange, ScriptedBackend, chunk

from gateway.ports import UpstreamError
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.client import BackendClient

H = b"HTTP/1.1 200 OK\r\n"
CHUNKED = H + b"transfer-encoding: chunked\r\n\r\n"


async def exchange(client: BackendClient) -> bytes:
    response = await client.post("/x", [], b"{}")
    try:
        return await response.read(1 << 20)
    finally:
        await response.aclose()


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        H + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        H + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        H + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        H + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        H + b"transfer-encoding: chunked, gzip\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        H + b"transfer-encoding: identity\r\nconnection: close\r\n\r\nhi",
        H + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\nhi",
        H + b"x:\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nhi",
        H + b"content-type: a\r\ncontent-type: b\r\ncontent-length: 2\r\n\r\nhi",
        H + b"x: a\r\n b\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
        H + b"x : a\r\ncontent-length: 2\r\n\r\nhi",
        H + b"x: a\0b\r\ncontent-length: 2\r\n\r\nhi",
        H + b"content-length: -1\r\n\r\nhi",
        H + b"content-length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 999 X\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhi",
        CHUNKED + b"2\nhi\r\n0\r\n\r\n",
        CHUNKED + b"fffffffffffffffff\r\nhi",
        CHUNKED + b"zz\r\nhi\r\n0\r\n\r\n",
        H + b"content-length: 100\r\n\r\nshort",  # then the end of the stream
    ],
)
async def test_what_is_not_one_plain_answer_is_an_error(raw):
    async def script(exchange: Exchange) -> None:
        await exchange.say(raw)
        exchange.writer.close()

    async with ScriptedBackend(script) as backend:
        client = BackendClient(backend.url)
        with pytest.raises(UpstreamError) as caught:
            await exchange(client)
        assert caught.value.phase in ("protocol", "body", "head")
        assert "0 active, 0 idle" in repr(client.pool)
        await client.aclose()


@pytest.mark.parametrize(
    "raw",
    [
        H + b"x: " + b"a" * 70_000 + b"\r\n\r\n",
        H + b"".join(b"x-%d: a\r\n" % number for number in range(200)) + b"content-length: 0\r\n\r\n",
        H + b"x-a: a\r\n" * 5000 + b"content-length: 0\r\n\r\n",
        H + b"x" * 300_000,
    ],
    ids=["one long field", "many fields", "one field many times", "no end"],
)
async def test_a_head_beyond_bounds_is_refused(raw):
    async with ScriptedBackend(raw) as backend:
        client = BackendClient(backend.url, timeouts=Timeouts(head_s=2))
        with pytest.raises(UpstreamError, match="head is too large"):
            await exchange(client)
        await client.aclose()


async def test_a_head_that_never_ends_is_cut_by_size_not_by_memory():
    async def script(exchange: Exchange) -> None:
        await exchange.say(H)
        while not exchange.writer.is_closing():
            await exchange.say(b"x-a: " + b"b" * 1000)
            await asyncio.sleep(0)

    async with ScriptedBackend(script) as backend:
        client = BackendClient(backend.url)
        with pytest.raises(UpstreamError, match="head is too large"):
            await exchange(client)
        await client.aclose()


@pytest.mark.parametrize(
    "raw",
    [
        H + b"content-length: 50\r\n\r\n" + b"x" * 50,
        CHUNKED + chunk(b"x" * 30) + chunk(b"x" * 30) + b"0\r\n\r\n",
        H + b"connection: close\r\n\r\n" + b"x" * 50,
    ],
)
async def test_a_body_beyond_bounds_is_refused_whatever_its_framing(raw):
    async with ScriptedBackend(raw) as backend:
        client = BackendClient(backend.url, limits=Limits(body_bytes=40))
        with pytest.raises(UpstreamError, match="body is too large"):
            await exchange(client)
        await client.aclose()


async def test_read_refuses_more_than_it_was_asked_for():
    async with ScriptedBackend(OK) as backend:
        client = BackendClient(backend.url)
        response = await client.post("/x", [], b"")
        with pytest.raises(UpstreamError, match="larger than expected"):
            await response.read(len(OK_BODY) - 1)
        await client.aclose()


async def test_framing_without_body_does_not_go_on_for_ever():
    """Chunk extensions and trailers cost wire bytes, no body bytes: neither the body bound nor the idle timeout sees them."""

    async def script(exchange: Exchange) -> None:
        await exchange.say(CHUNKED + chunk(b"x") + b"0\r\n")
        while not exchange.writer.is_closing():
            await exchange.say(b"t: " + b"v" * 1000 + b"\r\n")
            await asyncio.sleep(0)

    async with ScriptedBackend(script) as backend:
        client = BackendClient(backend.url)
        with pytest.raises(UpstreamError, match="framing outweighs"):
            await exchange(client)
        await client.aclose()


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison", b"x", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("when", ["together", "later"])
async def test_bytes_nobody_asked_for_never_become_the_next_answer(surplus, when):
    async def script(exchange: Exchange) -> None:
        if exchange.connection > 1:
            await exchange.say(OK)
        elif when == "together":
            await exchange.say(OK + surplus)
        else:
            await exchange.say(OK)
            await asyncio.sleep(0.02)
            await exchange.say(surplus)

    async with ScriptedBackend(script) as backend:
        client = BackendClient(backend.url)
        assert await exchange(client) == OK_BODY
        await asyncio.sleep(0.05 if when == "later" else 0)
        assert await exchange(client) == OK_BODY
        assert backend.connections == 2
        await client.aclose()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_bytes_still_unread_in_the_kernel_are_seen_before_a_connection_is_used_again(run):
    """The event loop has not run since they came, so only a look at the socket can tell (response queue poisoning)."""
    run(_poison_in_the_kernel())


async def _poison_in_the_kernel() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    first_done, poisoned = threading.Event(), threading.Event()

    accepted: list[socket.socket] = []

    def serve() -> None:
        for number in range(2):
            sock, _ = listener.accept()
            accepted.append(sock)
            sock.recv(65536)
            sock.sendall(OK)
            if number == 0:
                first_done.wait(5)
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
                poisoned.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    client = BackendClient(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert await exchange(client) == OK_BODY
    first_done.set()
    poisoned.wait(5)  # blocks the loop on purpose
    assert await exchange(client) == OK_BODY
    await client.aclose()
    thread.join(5)
    for sock in (*accepted, listener):
        sock.close()


async def test_an_early_answer_to_a_half_sent_request_does_not_leave_the_rest_for_the_next_one():
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 2\r\n\r\n{}")
        await asyncio.sleep(0.1)
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    client = BackendClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    response = await client.post("/x", [], b"x" * 20_000_000)
    assert response.status == 413
    assert "0 idle" in repr(client.pool)
    await client.aclose()
    await ended.wait()
    await asyncio.sleep(0)
    server.close()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/",
        "http://user:pw@127.0.0.1/",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#x",
        "http://127.0.0.1/a b",
        "//127.0.0.1",
        "http://models.example.com/v1",
        "http://10.0.0.1/v1",
    ],
)
def test_a_backend_url_is_plain_and_plaintext_stays_on_loopback(url):
    with pytest.raises(ValueError):
        BackendClient(url)


def test_plaintext_elsewhere_has_to_be_called_unsafe():
    assert BackendClient("http://10.0.0.1/v1", unsafe_plaintext=True).base_url == "http://10.0.0.1/v1"


def test_a_tls_context_that_does_not_verify_is_refused():
    context = ssl.create_default_context()
    context.check_hostname = False
    with pytest.raises(ValueError, match="verify"):
        BackendClient("https://models.example.com", tls=context)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("x", []),
        ("/a b", []),
        ("/a\r\nx: y", []),
        ("/é", []),
        ("/x", [(b"a", b"b\r\nc: d")]),
        ("/x", [(b"a", b"b\nc")]),
        ("/x", [(b"a", b"b\rc")]),
        ("/x", [(b"a", b"b\0c")]),
        ("/x", [(b"a b", b"c")]),
        ("/x", [(b"", b"c")]),
        ("/x", [(b"a:b", b"c")]),
        ("/x", [(b"Content-Length", b"0")]),
        ("/x", [(b"transfer-encoding", b"chunked")]),
        ("/x", [(b"host", b"evil")]),
    ],
)
async def test_nothing_can_be_slipped_into_the_request(path, headers):
    client = BackendClient("http://127.0.0.1:1")
    with pytest.raises(ValueError):
        await client.post(path, headers, b"")
    assert "0 active, 0 idle, 0 opening" in repr(client.pool)
