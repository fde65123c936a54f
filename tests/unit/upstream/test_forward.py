"""What leaves for a backend, what its answers become, and that every ticket and connection comes back."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from faults.scripted_backend import OK, OK_BODY, SSE_HEAD, Exchange, ScriptedBackend, answer, chunk
from faults.sent_request import forwarder, screened, soon

from gateway import refusals
from gateway.evidence import Dialect, Operation
from gateway.ports import UpstreamError
from gateway.refusals import Refusal
from gateway.upstream.answer import Answer, UpstreamFiltered
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.forward import Forwarder
from gateway.upstream.route import Backend

SECRET = b"planted-secret-of-the-backend"


async def refused(to: Forwarder, **options) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await to.forward(screened(**options), deadline_s=soon())
    assert SECRET.decode() not in f"{caught.value.message}{caught.value.detail}{caught.value.inner}"
    return caught.value


async def test_the_request_holds_our_headers_and_no_others():
    async with ScriptedBackend(OK) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url + "/v1")])
        got = await to.forward(screened(), deadline_s=soon(), request_id="r-1", traceparent="00-a-b-01")
        assert isinstance(got, Answer)
        assert await got.response.read(100) == OK_BODY
        await got.aclose()
        head = backend.exchanges[0].head.decode()
        assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
        fields = dict(re.findall(r"\r\n([^:\r\n]+): ([^\r\n]*)", head))
        assert fields == {
            "content-length": str(len(backend.exchanges[0].body)),
            "host": f"127.0.0.1:{backend.port}",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "accept": "application/json",
            "user-agent": "inference-gateway",
            "x-request-id": "r-1",
            "traceparent": "00-a-b-01",
            "api-key": "key-of-b",
        }
        assert (got.backend, got.model, got.attempts, got.status) == ("b", "m", 1, 200)
        await to.aclose()


async def test_the_model_is_named_as_the_backend_knows_it_and_nothing_else_changes():
    body = {"model": "m", "messages": [{"role": "user", "content": "a\u20ac \"model\":\"m\""}], "temperature": 0.10}
    async with ScriptedBackend(OK) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url, dialect=Dialect.AZURE, model="gpt-x", region="eu")])
        got = await to.forward(screened(body=body), deadline_s=soon())
        await got.aclose()
        assert json.loads(backend.exchanges[0].body) == {**body, "model": "gpt-x"}
        assert b"/openai/deployments/gpt-x/chat/completions?api-version=" in backend.exchanges[0].head
        assert (got.model, got.region) == ("gpt-x", "eu")
        await to.aclose()


async def test_only_listed_headers_of_a_backend_are_kept():
    raw = answer(200, b"{}", b"set-cookie: a=b", b"server: secret", b"apim-request-id: 7", b"x-ratelimit-remaining-tokens: 5")
    async with ScriptedBackend(raw) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        got = await to.forward(screened(), deadline_s=soon())
        assert got.headers == {"content-type": "application/json", "apim-request-id": "7", "x-ratelimit-remaining-tokens": "5"}
        await got.aclose()
        await to.aclose()


@pytest.mark.parametrize(
    ("raw", "kind", "message"),
    [
        (answer(500, SECRET), refusals.BACKEND_UNAVAILABLE, None),
        (answer(302, SECRET, b"location: http://127.0.0.1:1/"), refusals.BACKEND_UNAVAILABLE, None),
        (answer(401, SECRET), refusals.BACKEND_UNAVAILABLE, None),
        (answer(404, SECRET), refusals.BACKEND_UNAVAILABLE, None),
        (answer(400, SECRET), refusals.INVALID_REQUEST, "does not accept"),
        (answer(400, b'{"error":{"code":"x","message":"' + SECRET + b'"}}'), refusals.INVALID_REQUEST, "does not accept"),
        (answer(400, b'{"error":{"code":"context_length_exceeded","message":"' + SECRET + b'"}}'), refusals.INVALID_REQUEST, "context"),
        (answer(429, SECRET, b"retry-after: 7"), refusals.RATE_LIMITED, "rate limited"),
        (answer(200, SECRET, kind=b"text/html"), refusals.BACKEND_UNAVAILABLE, None),
        (answer(200, SECRET, kind=b"text/event-stream"), refusals.BACKEND_UNAVAILABLE, None),
        (b"SSH-2.0-" + SECRET + b"\r\n\r\n", refusals.BACKEND_UNAVAILABLE, None),
    ],
)
async def test_failures_become_refusals_without_a_word_of_the_backend(raw, kind, message):
    async with ScriptedBackend(raw) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        refusal = await refused(to)
        assert refusal.kind is kind
        if message:
            assert message in refusal.message
        if kind is refusals.RATE_LIMITED:
            assert refusal.retry_after_s == 7
        assert len(backend.exchanges) == 1
        await to.aclose()


async def test_a_stream_must_be_one():
    async with ScriptedBackend(OK) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        assert (await refused(to, stream=True)).kind is refusals.BACKEND_UNAVAILABLE
        assert b"accept: text/event-stream" in backend.exchanges[0].head
        await to.aclose()


async def test_the_backends_own_filter_is_recognised():
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"violence": {"filtered": True, "severity": "high"}}}
    body = json.dumps({"error": {"code": "content_filter", "message": SECRET.decode(), "innererror": inner}}).encode()
    async with ScriptedBackend(answer(400, body)) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        got = await to.forward(screened(), deadline_s=soon())
        assert got == UpstreamFiltered(backend="b", model="m", attempts=1, categories={"violence": {"filtered": True, "severity": "high"}})
        assert to.states() == {"b": "closed"}
        await to.aclose()


async def test_an_error_body_that_never_ends_is_not_waited_for():
    async def script(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 400 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        await exchange.gone()
        exchange.reset()

    async with ScriptedBackend(script) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        with pytest.raises(Refusal) as caught:
            await to.forward(screened(), deadline_s=soon(0.2))
        assert caught.value.kind is refusals.INVALID_REQUEST
        await asyncio.sleep(0.02)
        assert backend.open == 0
        await to.aclose()


async def test_a_region_that_is_not_allowed_gets_nothing():
    async with ScriptedBackend(OK) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url, region="us")])
        refusal = await refused(to, regions=frozenset({"eu"}))
        assert refusal.kind is refusals.BACKEND_UNAVAILABLE
        assert backend.connections == 0
        await to.aclose()


async def test_an_unknown_route_and_an_operation_without_a_path_send_nothing():
    async with ScriptedBackend(OK) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        assert (await refused(to, route="other")).kind is refusals.BACKEND_UNAVAILABLE
        assert (await refused(to, operation=Operation.SCORE)).kind is refusals.BACKEND_UNAVAILABLE
        assert backend.connections == 0
        await to.aclose()


async def test_a_full_bulkhead_is_overload_and_no_fault_of_the_backend():
    async with ScriptedBackend(lambda exchange: exchange.gone()) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)], limits=Limits(max_connections=1, max_waiting=0))
        holder = asyncio.create_task(to.forward(screened(), deadline_s=soon()))
        await asyncio.sleep(0.05)
        for _ in range(10):
            began = asyncio.get_running_loop().time()
            refusal = await refused(to)
            assert asyncio.get_running_loop().time() - began < 0.01
            assert refusal.kind is refusals.OVERLOADED
            assert refusal.retry_after_s == 1.0
        assert to.states() == {"b": "closed"}
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
        await to.aclose()


async def test_no_answer_in_time_is_504_and_a_deadline_the_caller_chose_is_no_fault():
    async with ScriptedBackend(lambda exchange: exchange.gone()) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        for _ in range(8):
            with pytest.raises(Refusal) as caught:
                await to.forward(screened(), deadline_s=soon(0.05))
            assert caught.value.kind is refusals.BACKEND_TIMEOUT
        assert to.states() == {"b": "closed"}
        await to.aclose()
        to = forwarder([Backend(name="b", base_url=backend.url)], timeouts=Timeouts(head_s=0.05))
        for _ in range(5):
            assert (await refused(to)).kind is refusals.BACKEND_TIMEOUT
        assert to.states() == {"b": "open"}
        await to.aclose()


async def test_clients_that_leave_never_open_the_breaker():
    async with ScriptedBackend(lambda exchange: exchange.gone()) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        for _ in range(20):
            task = asyncio.create_task(to.forward(screened(), deadline_s=soon()))
            await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert to.states() == {"b": "closed"}
        await to.aclose()


async def test_a_credential_that_is_missing_sends_nothing():
    async with ScriptedBackend(OK) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])

        def none(backend):
            raise UpstreamError("connect", "no credential")

        to._credentials = none
        assert (await refused(to)).kind is refusals.BACKEND_UNAVAILABLE
        assert backend.connections == 0
        await to.aclose()


async def test_a_body_that_its_reader_found_malformed_counts_as_a_fault():
    async with ScriptedBackend(OK) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        for _ in range(5):
            got = await to.forward(screened(), deadline_s=soon())
            got.blame()
            await got.aclose()
            await got.aclose()
        assert to.states() == {"b": "open"}
        assert not to.ready()
        refusal = await refused(to)
        assert refusal.kind is refusals.BACKEND_UNAVAILABLE
        assert 4 < refusal.retry_after_s <= 5
        await to.aclose()


async def test_spreading_uses_the_weights():
    async with ScriptedBackend(OK) as one, ScriptedBackend(OK) as two:
        to = forwarder([Backend(name="a", base_url=one.url, weight=1), Backend(name="b", base_url=two.url, weight=3)], spread=True)
        got = await to.forward(screened(), deadline_s=soon())
        assert got.backend == "b"  # the draw is 0.5
        await got.aclose()
        await to.aclose()


async def test_warming_tells_which_backends_can_be_reached():
    async with ScriptedBackend(OK) as backend:
        to = forwarder([Backend(name="a", base_url=backend.url), Backend(name="b", base_url="http://127.0.0.1:1")])
        assert await to.warm() == {"a": True, "b": False}
        got = await to.forward(screened(), deadline_s=soon())
        await got.aclose()
        assert backend.connections == 1
        await to.aclose()


def test_one_name_is_one_backend():
    with pytest.raises(ValueError, match="two ways"):
        forwarder([Backend(name="b", base_url="http://127.0.0.1:1"), Backend(name="b", base_url="http://127.0.0.1:2")])


async def test_a_stream_is_handed_on_as_it_comes():
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD + chunk(b"data: 1\n\n"))
        await asyncio.sleep(0.03)
        await exchange.say(chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    async with ScriptedBackend(script) as backend:
        to = forwarder([Backend(name="b", base_url=backend.url)])
        got = await to.forward(screened(stream=True), deadline_s=soon())
        assert [await got.response.next_chunk() for _ in range(3)] == [b"data: 1\n\n", b"data: 2\n\n", b""]
        await got.aclose()
        await to.aclose()
