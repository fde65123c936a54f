"""What is promised when backends, or the way to them, fail. Numbers are those of the fault matrix in the threat model."""

from __future__ import annotations

import asyncio
import time

import pytest
from faults.chaos_proxy import ChaosProxy, bandwidth, latency, limit_data, reset_peer, slicer, slow_close, timeout
from faults.scripted_backend import OK, OK_BODY, SSE_HEAD, Exchange, ScriptedBackend, answer, chunk
from faults.sent_request import forwarder, screened, soon

from gateway import refusals
from gateway.ports import UpstreamError
from gateway.refusals import Refusal
from gateway.upstream.answer import Answer
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.breaker import BreakerRules
from gateway.upstream.route import Backend
from gateway.upstream.sse import SseError, SseParser

EVENT = b'data: {"choices":[]}\n\n'


async def ask(to, **options) -> bytes:
    got = await to.forward(screened(**options), deadline_s=soon())
    assert isinstance(got, Answer)
    try:
        return await got.response.read(1 << 20)
    finally:
        await got.aclose()


async def closed_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def streaming(exchange: Exchange) -> None:
    await exchange.say(SSE_HEAD)
    while not exchange.writer.is_closing():
        await exchange.say(chunk(EVENT))
        await asyncio.sleep(0.005)


async def test_14_connect_refused_goes_to_the_next_backend_at_once():
    async with ScriptedBackend(OK) as good:
        dead = Backend(name="dead", base_url=f"http://127.0.0.1:{await closed_port()}")
        to = forwarder([dead, Backend(name="good", base_url=good.url)])
        for _ in range(50):  # attempts that reached nobody cost no budget: not one caller sees the outage
            began = time.monotonic()
            got = await to.forward(screened(), deadline_s=soon())
            assert time.monotonic() - began < 0.1
            assert got.backend == "good"
            await got.aclose()
        assert to.states() == {"dead": "open", "good": "closed"}
        assert len(good.exchanges) == 50
        await to.aclose()


async def test_14_connect_refused_everywhere_is_502():
    port = await closed_port()
    to = forwarder([Backend(name="a", base_url=f"http://127.0.0.1:{port}"), Backend(name="b", base_url=f"http://127.0.0.1:{port}")])
    with pytest.raises(Refusal) as caught:
        await ask(to)
    assert caught.value.kind is refusals.BACKEND_UNAVAILABLE
    assert "2 attempts" in caught.value.detail
    await to.aclose()


async def test_14_a_backend_that_comes_up_again_is_used_again():
    async with ScriptedBackend(OK) as backend, ChaosProxy(backend.port) as proxy:
        to = forwarder([Backend(name="b", base_url=proxy.url)], rules=BreakerRules(open_s=0.1))
        assert await ask(to) == OK_BODY
        await proxy.down()
        for _ in range(5):
            with pytest.raises(Refusal):
                await ask(to)
        assert to.states() == {"b": "open"}
        await proxy.up()
        await asyncio.sleep(0.11)
        assert await ask(to) == OK_BODY
        assert to.states() == {"b": "closed"}
        await to.aclose()


async def test_15_429_diverts_and_the_limited_backend_is_left_alone_as_long_as_it_asked():
    limited = answer(429, b"{}", b"retry-after-ms: 300", b"retry-after: 1")
    async with ScriptedBackend(limited) as first, ScriptedBackend(OK) as second:
        to = forwarder([Backend(name="ptu", base_url=first.url), Backend(name="standard", base_url=second.url)])
        assert [await ask(to) for _ in range(30)] == [OK_BODY] * 30
        assert len(first.exchanges) == 1
        assert to.states()["ptu"] == "closed"  # by design, not a fault
        await asyncio.sleep(0.32)
        assert await ask(to) == OK_BODY
        assert len(first.exchanges) == 2
        await to.aclose()


async def test_15_429_everywhere_is_429_with_the_wait_and_no_hammering():
    async with ScriptedBackend(answer(429, b"{}", b"retry-after: 20")) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        for _ in range(100):
            with pytest.raises(Refusal) as caught:
                await ask(to)
            assert caught.value.kind is refusals.RATE_LIMITED
            assert 19 < caught.value.retry_after_s <= 20
        assert len(backend.exchanges) == 1
        await to.aclose()


async def test_15_a_failure_elsewhere_does_not_hide_the_rate_limit_of_the_backend_that_was_meant():
    async with ScriptedBackend(answer(429, b"{}", b"retry-after: 3")) as first, ScriptedBackend(answer(500)) as second:
        to = forwarder([Backend(name="ptu", base_url=first.url), Backend(name="standard", base_url=second.url)])
        with pytest.raises(Refusal) as caught:
            await ask(to)
        assert caught.value.kind is refusals.RATE_LIMITED
        assert caught.value.retry_after_s == 3
        await to.aclose()


async def test_16_five_500s_open_the_breaker_one_probe_at_a_time_closes_it():
    bad = True

    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(0.02)
        await exchange.say(answer(500) if bad else OK)

    async with ScriptedBackend(script) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)], rules=BreakerRules(open_s=0.2))
        for _ in range(5):
            with pytest.raises(Refusal):
                await ask(to)
        assert to.states() == {"b": "open"}
        opened = time.monotonic()
        for _ in range(50):
            with pytest.raises(Refusal) as caught:
                await ask(to)
            assert caught.value.kind is refusals.BACKEND_UNAVAILABLE
            assert caught.value.retry_after_s > 0
        assert len(backend.exchanges) == 5
        bad = False
        await asyncio.sleep(0.21)
        results = await asyncio.gather(*(ask(to) for _ in range(20)), return_exceptions=True)
        assert len(backend.exchanges) == 6  # one probe, nineteen refused
        assert results.count(OK_BODY) == 1
        assert await ask(to) == OK_BODY
        assert time.monotonic() - opened < 2 * 0.2 + 0.1
        await to.aclose()


async def test_17_a_reset_before_the_first_byte_is_tried_once_more():
    async def script(exchange: Exchange) -> None:
        if exchange.connection == 1:
            exchange.reset()
        else:
            await exchange.say(OK)

    async with ScriptedBackend(script) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        got = await to.forward(screened(), deadline_s=soon())
        assert got.attempts == 2
        await got.aclose()
        assert len(backend.exchanges) == 2
        await to.aclose()


async def test_17_but_only_once():
    async def script(exchange: Exchange) -> None:
        exchange.reset()

    async with ScriptedBackend(script) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        with pytest.raises(Refusal) as caught:
            await ask(to)
        assert caught.value.kind is refusals.BACKEND_UNAVAILABLE
        assert len(backend.exchanges) == 2
        await to.aclose()


async def test_18_a_reset_mid_stream_is_an_error_after_what_came_and_is_not_repeated():
    async with ScriptedBackend(streaming) as backend, ChaosProxy(backend.port, reset_peer(300)) as proxy:
        to = forwarder([Backend(name="a", base_url=proxy.url), Backend(name="b", base_url=proxy.url + "/other")])
        got = await to.forward(screened(stream=True), deadline_s=soon())
        seen = b""
        with pytest.raises(UpstreamError) as caught:
            while data := await got.response.next_chunk():
                seen += data
        assert caught.value.phase == "body"
        assert seen.startswith(EVENT)
        await got.aclose()
        assert len(backend.exchanges) == 1
        for _ in range(4):
            got = await to.forward(screened(stream=True), deadline_s=soon())
            with pytest.raises(UpstreamError):
                while await got.response.next_chunk():
                    pass
            await got.aclose()
        assert to.states()["a"] == "open"
        await to.aclose()


async def test_18_an_end_of_stream_inside_a_chunked_body_is_an_error_not_an_end():
    async with ScriptedBackend(streaming) as backend, ChaosProxy(backend.port, limit_data(300)) as proxy:
        to = forwarder([Backend(name="a", base_url=proxy.url)])
        got = await to.forward(screened(stream=True), deadline_s=soon())
        with pytest.raises(UpstreamError):
            while await got.response.next_chunk():
                pass
        assert not got.response.complete
        await got.aclose()
        await to.aclose()


async def test_19_a_trickle_ends_at_the_inter_token_timeout():
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD)
        for _ in range(3):
            await exchange.say(chunk(b"x"))
            await asyncio.sleep(0.02)
        await exchange.gone()  # a token every ten seconds, as far as anyone waits
        exchange.reset()

    async with ScriptedBackend(script) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)], timeouts=Timeouts(idle_s=0.15))
        began = time.monotonic()
        got = await to.forward(screened(stream=True), deadline_s=soon())
        with pytest.raises(UpstreamError) as caught:
            while await got.response.next_chunk():
                pass
        assert (caught.value.phase, caught.value.detail) == ("timeout", "idle")
        assert time.monotonic() - began < 0.5
        await asyncio.sleep(0.05)
        assert backend.open == 0
        await got.aclose()
        await to.aclose()


async def test_19_a_head_that_trickles_ends_at_the_head_timeout():
    async with ScriptedBackend(OK) as backend, ChaosProxy(backend.port, slicer(1, 0.05)) as proxy:
        to = forwarder([Backend(name="b", base_url=proxy.url)], timeouts=Timeouts(head_s=0.2))
        began = time.monotonic()
        with pytest.raises(Refusal) as caught:
            await ask(to)
        assert caught.value.kind is refusals.BACKEND_TIMEOUT
        assert time.monotonic() - began < 0.6
        await to.aclose()


async def test_20_an_endless_body_is_cut_at_the_bound():
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD)
        while not exchange.writer.is_closing():
            await exchange.say(chunk(EVENT * 2000))

    async with ScriptedBackend(script) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)], limits=Limits(body_bytes=1_000_000))
        got = await to.forward(screened(stream=True), deadline_s=soon())
        total = 0
        with pytest.raises(UpstreamError, match="too large"):
            while data := await got.response.next_chunk():
                total += len(data)
        assert total <= 1_300_000
        await got.aclose()
        await asyncio.sleep(0.02)
        assert backend.open == 0
        await to.aclose()


async def test_20_a_stream_that_never_ends_is_cut_at_the_deadline_of_the_exchange():
    async with ScriptedBackend(streaming) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        got = await to.forward(screened(stream=True), deadline_s=soon(0.2))
        with pytest.raises(UpstreamError) as caught:
            while await got.response.next_chunk():
                pass
        assert caught.value.detail == "total"
        await got.aclose()
        await to.aclose()


@pytest.mark.parametrize("bad", [b"data: " + b"x" * 10_000, b"data: \xff\xfe\n\n"])
async def test_21_malformed_or_oversized_events_stop_the_reader_and_count_against_the_backend(bad):
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD + chunk(EVENT + bad))
        await exchange.gone()
        exchange.reset()

    async with ScriptedBackend(script) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        for _ in range(5):
            got = await to.forward(screened(stream=True), deadline_s=soon())
            parser = SseParser(4096)
            assert len(parser.feed(await got.response.next_chunk())) == 1
            with pytest.raises(SseError):
                parser.finish()
            got.blame()
            await got.aclose()
        await asyncio.sleep(0.02)
        assert backend.open == 0
        assert to.states() == {"b": "open"}
        await to.aclose()


async def test_23_a_client_that_leaves_closes_the_backend_connection_within_a_moment_and_blames_nobody():
    async with ScriptedBackend(streaming) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        for _ in range(10):
            got = await to.forward(screened(stream=True), deadline_s=soon())
            await got.response.next_chunk()
            await got.aclose()
            await asyncio.sleep(0.02)
            assert backend.open == 0
        assert to.states() == {"b": "closed"}
        await to.aclose()


async def test_40_a_storm_of_errors_is_not_fed_by_retries():
    count = 0

    async def script(exchange: Exchange) -> None:
        nonlocal count
        count += 1
        await exchange.say(answer(500) if count % 2 else OK)

    async with ScriptedBackend(script) as one, ScriptedBackend(script) as two:
        # breakers held closed: the budget alone must carry the promise
        rules = BreakerRules(consecutive_faults=10_000, min_calls=10_000_000)
        to = forwarder([Backend(name="a", base_url=one.url), Backend(name="b", base_url=two.url)], rules=rules)
        requests = 400
        results = []
        for _ in range(requests // 40):
            results += await asyncio.gather(*(ask(to) for _ in range(40)), return_exceptions=True)
        attempts = len(one.exchanges) + len(two.exchanges)
        assert requests < attempts <= 1.2 * requests
        assert results.count(OK_BODY) > requests * 0.5
        assert all(isinstance(result, bytes | Refusal) for result in results)
        await to.aclose()


@pytest.mark.parametrize(
    "toxics",
    [[latency(0.01)], [bandwidth(50_000)], [slicer(7)], [slow_close(0.1)], [latency(0.005), slicer(40), bandwidth(500_000)]],
    ids=["latency", "bandwidth", "slicer", "slow_close", "all"],
)
async def test_a_slow_or_cut_up_way_changes_nothing_in_the_answer(toxics):
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD)
        for number in range(20):
            await exchange.say(chunk(b"data: %d\n\n" % number))
        await exchange.say(b"0\r\n\r\n")

    async with ScriptedBackend(script) as backend, ChaosProxy(backend.port, *toxics) as proxy:
        to = forwarder([Backend(name="b", base_url=proxy.url)])
        assert await ask(to, stream=True) == b"".join(b"data: %d\n\n" % number for number in range(20))
        assert await ask(to, stream=True) == b"".join(b"data: %d\n\n" % number for number in range(20))
        assert proxy.connections == 1
        await to.aclose()


async def test_a_way_that_swallows_everything_is_a_timeout():
    async with ScriptedBackend(OK) as backend, ChaosProxy(backend.port, timeout(0)) as proxy:
        to = forwarder([Backend(name="b", base_url=proxy.url)], timeouts=Timeouts(head_s=0.1))
        with pytest.raises(Refusal) as caught:
            await ask(to)
        assert caught.value.kind is refusals.BACKEND_TIMEOUT
        await to.aclose()


async def test_39_a_name_that_does_not_resolve_is_unreachable_not_a_crash():
    to = forwarder([Backend(name="b", base_url="https://backend.invalid")])
    with pytest.raises(Refusal) as caught:
        await ask(to)
    assert caught.value.kind is refusals.BACKEND_UNAVAILABLE
    await to.aclose()
