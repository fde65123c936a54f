"""What `ports.UpstreamResponse` promises, kept by the HTTP client over real sockets, on asyncio and on uvloop alike."""

from __future__ import annotations

import asyncio
import inspect
import ssl

import pytest
import trustme
import uvloop
from faults.scripted_backend import OK, OK_BODY, SSE_HEAD, Exchange, ScriptedBackend, answer, chunk

from gateway.ports import UpstreamError, UpstreamResponse
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.client import BackendClient

HEADERS = [(b"content-type", b"application/json")]


def on_both_loops(test):
    """Run `test(clients, ...)` on asyncio's loop and on uvloop; `clients(url, ...)` makes clients that are closed after it."""
    inner = inspect.signature(test)

    def outer(run, **given):
        async def main():
            made = []

            def clients(url, **options):
                made.append(BackendClient(url, **options))
                return made[-1]

            try:
                await test(clients, **given)
            finally:
                for client in made:
                    await client.aclose()

        run(main())

    outer.__name__, outer.__doc__ = test.__name__, test.__doc__
    outer.pytestmark = getattr(test, "pytestmark", [])
    parameters = [parameter for name, parameter in inner.parameters.items() if name != "clients"]
    outer.__signature__ = inspect.Signature([inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD), *parameters])
    return pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])(outer)


async def whole(client: BackendClient, **options) -> bytes:
    response = await client.post("/v1/x", HEADERS, b"{}", **options)
    try:
        return await response.read(1 << 20)
    finally:
        await response.aclose()


@on_both_loops
async def test_the_request_is_built_from_nothing_and_written_whole(clients):
    async with ScriptedBackend(OK) as backend:
        client = clients(backend.url + "/base/")
        response: UpstreamResponse = await client.post("/v1/chat?api-version=1", [(b"accept", b"application/json")], b'{"a":1}')
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        assert [part async for part in response.body()] == [OK_BODY]
        await response.aclose()
        await response.aclose()
        assert backend.exchanges[0].body == b'{"a":1}'
        assert backend.exchanges[0].head == (
            b"POST /base/v1/chat?api-version=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
            b"accept-encoding: identity\r\naccept: application/json\r\ncontent-length: 7\r\n\r\n" % backend.port
        )


@on_both_loops
async def test_a_connection_is_used_again_after_a_whole_answer(clients):
    async with ScriptedBackend(OK) as backend:
        client = clients(backend.url)
        for _ in range(5):
            assert await whole(client) == OK_BODY
        assert backend.connections == 1
        assert "0 active, 1 idle" in repr(client.pool)


@on_both_loops
async def test_an_unread_answer_that_is_whole_gives_its_connection_back_and_an_unfinished_one_closes_it(clients):
    async def script(exchange: Exchange) -> None:
        if exchange.body == b"whole":
            await exchange.say(OK)
        else:
            await exchange.say(SSE_HEAD + chunk(b"data: 1\n\n"))
            await exchange.gone()
            exchange.reset()

    async with ScriptedBackend(script) as backend:
        client = clients(backend.url)
        response = await client.post("/x", HEADERS, b"whole")
        await response.aclose()
        assert "1 idle" in repr(client.pool)
        response = await client.post("/x", HEADERS, b"half")
        await response.aclose()
        assert "0 active, 0 idle" in repr(client.pool)
        with pytest.raises(UpstreamError):
            await response.read(10)
        await asyncio.sleep(0.05)
        assert backend.open == 0


@on_both_loops
async def test_chunks_that_arrived_together_are_returned_together_and_trailers_are_dropped(clients):
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD + chunk(b"a") + chunk(b"b") + chunk(b"c"))
        await asyncio.sleep(0.05)
        await exchange.say(chunk(b"d") + b"0\r\nauthorization: x\r\n\r\n")

    async with ScriptedBackend(script) as backend:
        client = clients(backend.url)
        response = await client.post("/x", HEADERS, b"")
        assert await response.next_chunk() == b"abc"
        assert await response.next_chunk() == b"d"
        assert await response.next_chunk() == b""
        assert response.complete
        assert "authorization" not in response.headers
        assert "1 idle" in repr(client.pool)


@on_both_loops
async def test_a_repeated_field_keeps_its_first_value(clients):
    async with ScriptedBackend(answer(200, b"{}", b"X-A: 1", b"x-a: 2")) as backend:
        response = await clients(backend.url).post("/x", HEADERS, b"")
        assert response.headers["x-a"] == "1"
        await response.aclose()


@on_both_loops
async def test_informational_heads_are_passed_over_but_not_without_end(clients):
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    async with ScriptedBackend(early * 3 + OK) as backend:
        assert await whole(clients(backend.url)) == OK_BODY
    async with ScriptedBackend(early * 50 + OK) as backend:
        with pytest.raises(UpstreamError) as caught:
            await whole(clients(backend.url))
        assert caught.value.phase == "protocol"


@on_both_loops
async def test_a_body_that_ends_with_the_connection_needs_connection_close(clients):
    async def script(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello")
        exchange.writer.close()

    async with ScriptedBackend(script) as backend:
        client = clients(backend.url)
        assert await whole(client) == b"hello"
        assert "0 active, 0 idle" in repr(client.pool)
    async with ScriptedBackend(b"HTTP/1.1 200 OK\r\n\r\nhello") as backend:
        with pytest.raises(UpstreamError, match="no end"):
            await whole(clients(backend.url))


@pytest.mark.parametrize(
    ("bounds", "script", "detail"),
    [
        (Timeouts(head_s=0.1), "silent", "head"),
        (Timeouts(first_byte_s=0.1), "head only", "first byte"),
        (Timeouts(idle_s=0.1), "one chunk", "idle"),
        (Timeouts(total_s=0.15, idle_s=5), "trickle", "total"),
    ],
)
@on_both_loops
async def test_each_phase_has_its_own_deadline(clients, bounds, script, detail):
    async def play(exchange: Exchange) -> None:
        if script != "silent":
            await exchange.say(SSE_HEAD)
        if script == "one chunk":
            await exchange.say(chunk(b"x"))
        while script == "trickle":
            await exchange.say(chunk(b"x"))
            await asyncio.sleep(0.02)
        await exchange.gone()
        exchange.reset()

    async with ScriptedBackend(play) as backend:
        client = clients(backend.url, timeouts=bounds)
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamError) as caught:
            await whole(client)
        assert (caught.value.phase, caught.value.detail) == ("timeout", detail)
        assert asyncio.get_running_loop().time() - began < 0.5
        assert "0 active, 0 idle" in repr(client.pool)


@on_both_loops
async def test_the_send_phase_has_a_deadline(clients):
    held = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.transport.abort()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1024)
    client = clients(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeouts=Timeouts(send_s=0.1))
    with pytest.raises(UpstreamError) as caught:
        await client.post("/x", HEADERS, b"x" * 30_000_000)
    assert (caught.value.phase, caught.value.detail) == ("timeout", "send")
    held.set()
    server.close()


@on_both_loops
async def test_a_deadline_of_the_caller_only_shortens(clients):
    async with ScriptedBackend(lambda exchange: exchange.gone()) as backend:
        client = clients(backend.url)
        loop = asyncio.get_running_loop()
        with pytest.raises(UpstreamError) as caught:
            await whole(client, deadline_s=loop.time() + 0.1)
        assert caught.value.detail == "total"
        with pytest.raises(UpstreamError) as caught:
            await whole(client, deadline_s=loop.time() - 1)
        assert caught.value.detail == "total"


@on_both_loops
async def test_the_bulkhead_refuses_at_once_when_full_and_serves_waiters_in_turn(clients):
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await exchange.say(OK)

    async with ScriptedBackend(script) as backend:
        client = clients(backend.url, limits=Limits(max_connections=2, max_waiting=2))
        tasks = [asyncio.create_task(whole(client)) for _ in range(4)]
        await asyncio.sleep(0.05)
        assert "2 active, 0 idle, 0 opening, 2 waiting" in repr(client.pool)
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamError) as caught:
            await whole(client)
        assert caught.value.phase == "pool"
        assert asyncio.get_running_loop().time() - began < 0.01
        release.set()
        assert await asyncio.gather(*tasks) == [OK_BODY] * 4
        assert backend.connections == 2


@on_both_loops
async def test_waiting_for_a_connection_ends(clients):
    async with ScriptedBackend(lambda exchange: exchange.gone()) as backend:
        client = clients(backend.url, limits=Limits(max_connections=1), timeouts=Timeouts(pool_s=0.05))
        holder = asyncio.create_task(whole(client))
        await asyncio.sleep(0.02)
        with pytest.raises(UpstreamError) as caught:
            await whole(client)
        assert caught.value.phase == "pool"
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)


@on_both_loops
async def test_back_pressure_reaches_the_backend(clients):
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.say(SSE_HEAD)
        for _ in range(640):
            await exchange.say(chunk(b"x" * 65536))
            sent += 65536
        await exchange.say(b"0\r\n\r\n")

    async with ScriptedBackend(script) as backend:
        client = clients(backend.url, limits=Limits(body_bytes=1 << 30), timeouts=Timeouts(idle_s=0.3))
        response = await client.post("/x", HEADERS, b"")
        await asyncio.sleep(0.5)  # longer than the idle timeout: a slow reader is not the backend's fault
        assert sent < 12_000_000
        assert response._buffered < 400_000
        total = 0
        while data := await response.next_chunk():
            total += len(data)
        assert total == 640 * 65536
        assert "1 idle" in repr(client.pool)


@pytest.mark.parametrize("moment", ["connecting", "waiting for the head", "waiting for the body", "queueing"])
@on_both_loops
async def test_cancelling_at_any_moment_closes_the_socket_at_once_and_loses_no_place(clients, moment):
    async def script(exchange: Exchange) -> None:
        if exchange.body == b"go":
            await exchange.say(OK)
            return
        if moment == "waiting for the body":
            await exchange.say(SSE_HEAD + chunk(b"x"))
        await exchange.gone()
        exchange.reset()

    async def use(client: BackendClient) -> None:
        response = await client.post("/x", HEADERS, b"")
        try:
            while await response.next_chunk():
                pass
        finally:
            await response.aclose()

    async with ScriptedBackend(script) as backend:
        client = clients(backend.url, limits=Limits(max_connections=1))
        tasks = [asyncio.create_task(use(client))]
        if moment == "queueing":
            tasks.append(asyncio.create_task(use(client)))
        await asyncio.sleep(0 if moment == "connecting" else 0.05)
        for task in reversed(tasks):
            task.cancel()
        assert all(isinstance(result, asyncio.CancelledError) for result in await asyncio.gather(*tasks, return_exceptions=True))
        await asyncio.sleep(0.02)
        assert backend.open == 0
        assert "0 active, 0 idle, 0 opening, 0 waiting" in repr(client.pool)
        response = await client.post("/x", HEADERS, b"go")
        assert await response.read(100) == OK_BODY


@on_both_loops
async def test_cancelling_a_wait_for_the_next_chunk_loses_nothing(clients):
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD + chunk(b"a"))
        await asyncio.sleep(0.1)
        await exchange.say(chunk(b"b") + b"0\r\n\r\n")

    async with ScriptedBackend(script) as backend:
        response = await clients(backend.url).post("/x", HEADERS, b"")
        assert await response.next_chunk() == b"a"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(response.next_chunk(), 0.02)
        assert await response.next_chunk() == b"b"
        assert await response.next_chunk() == b""


@on_both_loops
async def test_random_cancels_never_wedge_the_pool(clients):
    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(0.002)
        await exchange.say(OK)

    async with ScriptedBackend(script) as backend:
        client = clients(backend.url, limits=Limits(max_connections=5, max_waiting=400), timeouts=Timeouts(pool_s=5))
        tasks = [asyncio.create_task(whole(client)) for _ in range(300)]
        for index, task in enumerate(tasks):
            if index % 3:
                asyncio.get_running_loop().call_later((index * 7919 % 97) / 1000, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [await whole(client) for _ in range(40)] == [OK_BODY] * 40
        assert "0 active" in repr(client.pool)
        assert "0 opening, 0 waiting" in repr(client.pool)


@on_both_loops
async def test_an_idle_connection_grows_old_and_closes(clients):
    async with ScriptedBackend(OK) as backend:
        client = clients(backend.url, timeouts=Timeouts(keep_alive_s=0.05))
        await whole(client)
        await asyncio.sleep(0.2)
        assert "0 active, 0 idle" in repr(client.pool)
        assert backend.open == 0


@on_both_loops
async def test_a_connection_closed_meanwhile_is_not_used(clients):
    async def script(exchange: Exchange) -> None:
        await exchange.say(OK)
        if exchange.connection == 1:
            exchange.writer.close()

    async with ScriptedBackend(script) as backend:
        client = clients(backend.url)
        assert await whole(client) == OK_BODY
        await asyncio.sleep(0.01)
        assert await whole(client) == OK_BODY
        assert backend.connections == 2


@on_both_loops
async def test_tls_verifies_the_name_and_the_authority(clients):
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    assert await whole(clients(f"https://localhost:{port}", tls=trusting)) == OK_BODY
    with pytest.raises(UpstreamError) as caught:
        await whole(clients(f"https://localhost:{port}"))
    assert caught.value.phase == "connect"
    assert "CERTIFICATE_VERIFY_FAILED" in caught.value.detail
    with pytest.raises(UpstreamError) as caught:
        await whole(clients(f"https://127.0.0.1:{port}", tls=trusting))
    assert "CERTIFICATE_VERIFY_FAILED" in caught.value.detail
    server.close()
