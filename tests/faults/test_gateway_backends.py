"""A backend that breaks, lies, leaks or never ends, behind the whole gateway: what the client gets, and what the log says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from backend_thread import DONE, BackendThread, event, good, says, stream, whole
from running_house import House, end, launch, wait_ready
from scripted_backend import SSE_HEAD, Exchange, answer, chunk
from wire import CHAT, Line, Reply, ask, chat, events, eventually, exchange_of, open_stream

from gateway.audit.verify import verify

SECRET = "AK" + "IA" + "QYLPMN5HHHFPZAM2"
MAIL = "planted.person@example.org"


@pytest.fixture(scope="module")
def backend() -> Iterator[BackendThread]:
    with BackendThread() as running:
        yield running


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, backend: BackendThread) -> Iterator[House]:
    """A gateway before the scripted backend."""
    running = launch(tmp_path_factory.mktemp("behind") / "state", "--no-ner", "--backend", backend.url)
    try:
        wait_ready(running)
        yield running
    finally:
        end(running)


@pytest.fixture(autouse=True)
def healthy(behind: House, backend: BackendThread) -> Iterator[None]:
    """Each test begins with a backend the breaker thinks well of."""
    backend.script = good
    for _ in range(3):
        eventually(lambda: talk(behind).status == 200, 12.0)
    yield
    backend.script = good


def talk(behind: House, model: str = "assistant", **more: Any) -> Reply:
    return ask(behind.data, CHAT, chat(model, "Hello", **more), behind.token("loadtest"))


def text_of(reply: Reply) -> str:
    """Everything a client could show: each string of each delta or message."""
    if "event-stream" in reply.headers["content-type"]:
        found = [json.loads(e) for e in events(reply.body) if e != "[DONE]"]
        return "".join(str(v) for e in found for c in e.get("choices", []) for v in strings(c["delta"]))
    return "".join(str(v) for c in json.loads(reply.body)["choices"] for v in strings(c["message"]))


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [s for name, item in value.items() if name not in ("role", "id", "type") for s in strings(item)]
    return [s for item in value for s in strings(item)] if isinstance(value, list) else []


def assert_broken(reply: Reply, behind: House) -> None:
    """The stream began, so its end is an error event without `[DONE]`, and the log closes the exchange."""
    assert reply.status == 200
    told = events(reply.body)
    assert "[DONE]" not in told
    assert set(json.loads(told[-1])) == {"error"}
    assert json.loads(told[-1])["error"]["code"] == "backend_unavailable"
    found = exchange_of(behind.audit, reply.request_id)
    assert [f["type"] for _, f in found] == ["opened", "closed"]
    assert found[1][1]["outcome"] not in ("", "finished", "unknown")


BEGINNING = [event({"role": "assistant", "content": ""}), event({"content": "It begins well. "})]
BROKEN_EVENTS = {
    "no json": b"data: {nonsense\n\n",
    "wrong shape": b'data: {"choices": {"a": 1}}\n\n',
    "a list": b"data: []\n\n",
    "bad utf-8": b"data: \xff\xfe\n\n",
    "oversized": b"data: " + b"x" * 3_000_000 + b"\n\n",
    "endless line": b"data: " + b"x" * 3_000_000,
    "string for a choice": b'data: {"choices": ["x"]}\n\n',
    "upstream error": b'data: {"error": {"message": "%b"}}\n\n' % MAIL.encode(),
}


@pytest.mark.parametrize("name", BROKEN_EVENTS)
def test_a_malformed_event_ends_the_stream(behind: House, backend: BackendThread, name: str) -> None:
    backend.script = says(stream(*BEGINNING, BROKEN_EVENTS[name], DONE))
    reply = talk(behind, stream=True)
    assert_broken(reply, behind)
    assert b"xxxx" not in reply.body and MAIL.encode() not in reply.body


def test_a_reset_in_a_stream_is_told(behind: House, backend: BackendThread) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD + b"".join(chunk(e) for e in BEGINNING))
        await asyncio.sleep(0.1)
        exchange.reset()

    backend.script = script
    assert_broken(talk(behind, stream=True), behind)


def test_a_stream_that_just_ends_is_not_finished(behind: House, backend: BackendThread) -> None:
    backend.script = says(stream(*BEGINNING))
    assert_broken(talk(behind, stream=True), behind)


def test_what_was_held_is_dropped_when_a_stream_breaks(behind: House, backend: BackendThread) -> None:
    """The beginning of an address was held back; the break must not let it out."""

    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD + chunk(BEGINNING[0]) + chunk(event({"content": "Write to " + MAIL[:-1]})))
        await asyncio.sleep(0.3)
        exchange.reset()

    backend.script = script
    reply = talk(behind, stream=True)
    assert_broken(reply, behind)
    assert MAIL[:10].encode() not in reply.body


WHOLE_FAULTS = {
    "500 with secrets": answer(500, b'{"error": {"message": "stack: %b %b"}}' % (SECRET.encode(), MAIL.encode())),
    "503 html": answer(503, b"<html>" + MAIL.encode(), kind=b"text/html"),
    "401": answer(401, b'{"error": {"message": "bad key %b"}}' % SECRET.encode()),
    "redirect": answer(302, b"", b"location: http://127.0.0.1:1/" + SECRET.encode()),
    "307": answer(307, b"", b"location: /v1/other"),
    "gzip": answer(200, b"\x1f\x8b\x08" + bytes(40), b"content-encoding: gzip"),
    "identity encoding": answer(200, whole(), b"content-encoding: identity, gzip"),
    "html": answer(200, b"<html>", kind=b"text/html"),
    "no json": answer(200, b"{nonsense"),
    "another shape": answer(200, b'{"object": "chat.completion", "choices": "x"}'),
    "an error with 200": answer(200, b'{"error": {"message": "%b"}}' % MAIL.encode()),
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "huge header": b"HTTP/1.1 200 OK\r\nx-a: " + b"b" * 300_000 + b"\r\n\r\n",
    "not http": b"SSH-2.0-OpenSSH\r\n\r\n",
}


@pytest.mark.parametrize("name", WHOLE_FAULTS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_bad_answer_is_502_and_nothing_of_it_is_forwarded(behind: House, backend: BackendThread, name: str, streamed: bool) -> None:
    backend.script = says(WHOLE_FAULTS[name])
    before = len(backend.asked)
    reply = talk(behind, stream=streamed)
    assert (reply.status, reply.code) == (502, "backend_unavailable")
    assert SECRET.encode() not in reply.body and MAIL.encode() not in reply.body and b"127.0.0.1" not in reply.body
    assert "location" not in reply.headers and "content-encoding" not in reply.headers
    assert len(backend.asked) - before <= 2
    (_, opened), (_, closed) = exchange_of(behind.audit, reply.request_id)
    assert (opened["type"], closed["refusal"], closed["status"]) == ("opened", "backend_unavailable", 502)


def test_the_outcome_of_a_fault_is_the_word_auditors_search_for(behind: House, backend: BackendThread) -> None:
    """`gateway audit query --outcome failed` and the exports know this word and no other."""
    for script in (says(WHOLE_FAULTS["500 with secrets"]), says(stream(*BEGINNING))):
        backend.script = script
        _, (_, closed) = exchange_of(behind.audit, talk(behind, stream=True).request_id)
        assert closed["outcome"] == "failed"


def test_json_where_a_stream_was_asked_for(behind: House, backend: BackendThread) -> None:
    backend.script = says(answer(200, whole()))
    reply = talk(behind, stream=True)
    assert (reply.status, reply.code) == (502, "backend_unavailable")


def test_a_stream_that_ignores_its_limit_is_cut(behind: House, backend: BackendThread) -> None:
    async def script(exchange: Exchange) -> None:
        assert (
            json.loads(exchange.body)["max_completion_tokens" if "max_completion_tokens" in json.loads(exchange.body) else "max_tokens"]
            == 10
        )
        await exchange.say(SSE_HEAD + chunk(BEGINNING[0]))
        for _ in range(5000):
            await exchange.say(chunk(event({"content": "more and more words come "})))
        await exchange.gone()

    backend.script = script
    reply = talk(behind, "echo-open", stream=True, max_tokens=10)
    assert reply.status == 200
    assert len(text_of(reply)) < 1000
    told = events(reply.body)
    assert told[-1] == "[DONE]"
    reasons = [c["finish_reason"] for e in told[:-1] for c in json.loads(e)["choices"] if c["finish_reason"]]
    assert reasons == ["length"]
    _, (_, closed) = exchange_of(behind.audit, reply.request_id)
    assert closed["outcome"] == "cut"


DELTAS = {
    "content": lambda piece: {"content": piece},
    "reasoning_content": lambda piece: {"reasoning_content": piece},
    "refusal": lambda piece: {"refusal": piece},
    "arguments": lambda piece: {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]},
}
FIRST = {"arguments": {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "send", "arguments": ""}}]}}


@pytest.mark.parametrize("channel", DELTAS)
@pytest.mark.parametrize("planted", [SECRET, MAIL], ids=["key", "address"])
def test_a_planted_secret_split_anywhere_is_never_delivered(behind: House, backend: BackendThread, channel: str, planted: str) -> None:
    text = f"Take this one: {planted} and keep it."
    text = json.dumps({"note": text}) if channel == "arguments" else text
    tools = [
        {"type": "function", "function": {"name": "send", "parameters": {"type": "object", "properties": {"note": {"type": "string"}}}}}
    ]
    more = {"tools": tools} if channel == "arguments" else {}
    make = DELTAS[channel]
    start = text.index(planted)
    for at in range(start, start + len(planted) + 1):
        parts = [event(FIRST.get(channel, {"role": "assistant"})), event(make(text[:at])), event(make(text[at:]))]
        backend.script = says(stream(*parts, event({}, "tool_calls" if channel == "arguments" else "stop"), DONE))
        reply = talk(behind, stream=True, **more)
        assert reply.status == 200
        assert planted not in text_of(reply), at
        if channel != "reasoning_content":  # a channel that is dropped whole leaks nothing either
            assert "<" in text_of(reply), (at, reply.body)
    backend.script = says(stream(event(FIRST.get(channel, {})), *(event(make(c)) for c in text), event({}, "stop"), DONE))
    assert planted not in text_of(talk(behind, stream=True, **more))


@pytest.mark.parametrize("planted", [SECRET, MAIL], ids=["key", "address"])
def test_a_planted_secret_in_any_field_of_a_whole_answer_is_never_delivered(behind: House, backend: BackendThread, planted: str) -> None:
    messages: list[dict[str, Any]] = [
        {"reasoning_content": f"think {planted} hard"}, {"refusal": f"no {planted} here"}, {"audio": {"data": planted}},
        {"annotations": [{"type": "url_citation", "url_citation": {"url": f"http://a/{planted}"}}]}, {"x": planted},
        {"context": {"citations": [{"content": planted}]}}, {"reasoning": planted}, {"function_call": {"name": "f", "arguments": planted}},
    ]  # fmt: skip
    for message in messages:
        backend.script = says(answer(200, whole("Fine.", **message)))
        reply = talk(behind)
        assert reply.status in (200, 502), message
        assert planted.encode() not in reply.body, message
    for name in ("id", "system_fingerprint", "model", "service_tier"):
        backend.script = says(answer(200, json.dumps({**json.loads(whole()), name: planted}).encode()))
        assert planted.encode() not in talk(behind).body, name
    assert planted.encode() not in behind.log.read_bytes()


def test_a_planted_secret_in_a_tool_call_is_never_delivered(behind: House, backend: BackendThread) -> None:
    """Its id, its name, its arguments and a key of theirs, in a whole answer and in a stream."""
    note = json.dumps({"note": "to the desk"})
    calls = {
        "arguments": {"id": "call_1", "function": {"name": "send", "arguments": json.dumps({"note": f"to {SECRET} now"})}},
        "key": {"id": "call_1", "function": {"name": "send", "arguments": json.dumps({SECRET: "a"})}},
        "name": {"id": "call_1", "function": {"name": SECRET, "arguments": note}},
        "id": {"id": SECRET, "function": {"name": "send", "arguments": note}},
    }
    leaks = []
    for where, call in calls.items():
        backend.script = says(answer(200, whole("Fine.", tool_calls=[{"type": "function", **call}])))
        if SECRET.encode() in talk(behind).body:
            leaks.append(f"{where}, whole")
        delta = event({"tool_calls": [{"index": 0, "type": "function", **call}]})
        backend.script = says(stream(event({"role": "assistant"}), delta, event({}, "tool_calls"), DONE))
        if SECRET.encode() in talk(behind, stream=True).body:
            leaks.append(f"{where}, streamed")
    assert leaks == []


def test_a_client_that_leaves_frees_the_backend_at_once(behind: House, backend: BackendThread) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.say(SSE_HEAD + b"".join(chunk(e) for e in BEGINNING) + chunk(event({"content": "and goes on. And on."})))
        await exchange.gone()
        backend.gone_s.append(time.monotonic())

    backend.script = script
    backend.gone_s.clear()
    socks = [open_stream(behind.data, behind.token("loadtest"), chat("assistant", "Hello")) for _ in range(5)]
    left_s = time.monotonic()
    for sock in socks:
        sock.close()
    assert eventually(lambda: len(backend.gone_s) == 5, 3.0)
    assert max(backend.gone_s) - left_s < 1.0


def test_a_client_that_leaves_before_the_first_byte_frees_it_too(behind: House, backend: BackendThread) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.gone()
        backend.gone_s.append(time.monotonic())

    backend.script = script
    backend.gone_s.clear()
    before = len(backend.asked)
    with pytest.raises(OSError):
        ask_briefly(behind)
    left_s = time.monotonic()
    assert eventually(lambda: len(backend.gone_s) == 1, 3.0)
    assert max(backend.gone_s) - left_s < 1.0
    assert len(backend.asked) == before + 1


def ask_briefly(behind: House) -> None:

    line = Line(behind.data, timeout_s=0.4)
    line.ask(CHAT, chat("assistant", "Hello"), behind.token("loadtest"))


def test_after_all_this_the_log_verifies(behind: House) -> None:
    report = verify(behind.audit, (behind.audit / "key.pub").read_text().strip())
    assert report.ok, report.findings
    assert eventually(lambda: verify(behind.audit, (behind.audit / "key.pub").read_text().strip()).in_flight == 0, 3.0)
