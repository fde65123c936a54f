from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme

from gateway.http.answers import constant_answer
from gateway.http.deadlines import Deadlines
from gateway.http.head import Fault
from gateway.http.protocol import GuardedProtocol, Limits, guarded
from gateway.http.server import GuardedServer, UnsafeServer, make_server, require_httptools
from gateway.refusals import KINDS

GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": scope["scheme"][:2].encode()})


@contextlib.asynccontextmanager
async def serving(server: GuardedServer) -> AsyncIterator[int]:
    task = asyncio.ensure_future(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def ask(port: int, raw: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None)
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(65536), 3)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return answer


async def test_a_server_says_nothing_of_itself() -> None:
    async with serving(make_server(hello, drain_s=1)) as port:
        answer = await ask(port, GET)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"ht")
    assert b"server:" not in answer.lower() and b"uvicorn" not in answer.lower()


async def test_malformed_requests_are_counted_by_rule_and_named_by_id() -> None:
    seen: list[Fault] = []
    server = make_server(hello, on_malformed=seen.append, request_id=lambda: "id-of-ours", drain_s=1)
    async with serving(server) as port:
        answers = [await ask(port, raw) for raw in (GET.replace(b"Host", b"Hos_"), GET.replace(b"GET", b"TRACE"), b"\x16\x03\x01")]
    assert seen == [Fault.FIELD_SYNTAX, Fault.METHOD, Fault.FIELD_SYNTAX]
    assert all(b"x-request-id: id-of-ours\r\n" in answer for answer in answers)
    assert b"allow: GET, POST\r\n" in answers[1]


async def test_a_given_socket_is_used_and_forwarding_headers_are_not_believed() -> None:
    peers: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        peers.append((scope["client"][0], scope["scheme"]))
        await hello(scope, receive, send)

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with serving(make_server(app, sock=sock, drain_s=1)):
            await ask(port, GET[:-2] + b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\r\n")
    assert peers == [("127.0.0.1", "http")]


async def test_tls_is_served_and_a_silent_handshake_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.server.TLS_HANDSHAKE_S", 0.3)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with serving(make_server(hello, tls=context, limits=Limits(linger_s=0.2), drain_s=1)) as port:
        assert (await ask(port, GET, client)).endswith(b"ht")
        assert b"400 Bad Request" in await ask(port, GET.replace(b"/v1", b"//v1"), client)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(10), 2) == b""
        writer.close()


async def test_an_exchange_in_flight_is_finished_at_shutdown() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await go.wait()
        await hello(scope, receive, send)

    server = make_server(slow, drain_s=5)
    async with serving(server) as port:
        asking = asyncio.ensure_future(ask(port, GET))
        await begun.wait()
        server.should_exit = True
        await asyncio.sleep(0.2)
        go.set()
        answer = await asking
    assert answer.startswith(b"HTTP/1.1 200 OK") and b"connection: close" in answer


def test_every_refusal_has_a_constant_answer_in_our_shape() -> None:
    for kind in KINDS:
        head, _, body = constant_answer(kind, "id").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % kind.status)
        assert b"\r\ncontent-length: %d\r\n" % len(body) in head and b"\r\nconnection: close\r\n" in head
        assert json.loads(body)["error"]["code"] == kind.code


def test_limits_belong_to_a_class_of_their_own() -> None:
    tight, loose = guarded(Limits(head_s=1.0)), guarded(Limits(head_s=9.0))
    assert (tight.limits.head_s, loose.limits.head_s, GuardedProtocol.limits.head_s) == (1.0, 9.0, 5.0)


def test_an_old_parser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_httptools()
    monkeypatch.setattr("httptools.__version__", "0.6.4")
    with pytest.raises(UnsafeServer):
        require_httptools()


async def test_two_deadlines_share_a_timer_and_each_is_told_once() -> None:
    loop, told = asyncio.get_running_loop(), []
    deadlines = Deadlines(loop, lambda: told.append("read"), lambda: told.append("write"))
    now = loop.time()
    deadlines.read_until(now + 0.03)
    deadlines.read_until(now + 0.09)  # moved away: the timer fires early and says nothing
    deadlines.write_until(now + 0.06)
    await asyncio.sleep(0.045)
    assert told == []
    await asyncio.sleep(0.03)
    assert told == ["write"]
    await asyncio.sleep(0.04)
    assert told == ["write", "read"]
    deadlines.read_until(loop.time() + 0.01)
    deadlines.stop()
    await asyncio.sleep(0.03)
    assert told == ["write", "read"]
