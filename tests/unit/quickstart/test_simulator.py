"""The simulated model endpoint: the unchanged `openai` client works on it, and its answers are what the models promise."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import re
import struct
from pathlib import Path

import openai
import pytest
import uvicorn

from gateway.quickstart import canned
from gateway.quickstart.canned import Behaviour
from gateway.quickstart.simulate_cli import add_arguments
from gateway.quickstart.simulator import Simulator, SimulatorSettings
from gateway.upstream.client import BackendClient


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        pass

    @contextlib.contextmanager
    def capture_signals(self):
        yield


@contextlib.asynccontextmanager
async def serving(settings: SimulatorSettings | None = None):
    simulator = Simulator(settings)
    server = _Server(uvicorn.Config(simulator, host="127.0.0.1", port=0, log_level="error", access_log=False, timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield simulator, url
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def endpoint():
    async with serving() as (simulator, url):
        client = BackendClient(url)
        yield simulator, client, url
        await client.aclose()


async def post(client: BackendClient, path: str, body: dict) -> tuple[int, dict]:
    response = await client.post(path, [(b"content-type", b"application/json")], json.dumps(body).encode())
    try:
        return response.status, json.loads(await response.read(1 << 22))
    finally:
        await response.aclose()


def said(text: str, model: str = "echo", **more) -> dict:
    return {"model": model, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": text}], **more}


TEXT = "Héllo 😀, this is \n an exact\techo: 4111 1111. "


@pytest.mark.parametrize("path", ["/v1", "/openai/v1", "/openai/deployments/echo", "/openai"])
async def test_chat_echoes_exactly_on_every_path(endpoint, path):
    _, client, _ = endpoint
    status, answer = await post(client, f"{path}/chat/completions?api-version=1", said(TEXT))
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(canned.tokens_of(TEXT))


async def test_streams_are_pieces_of_one_to_seven_characters_always_the_same(endpoint):
    _, client, _ = endpoint
    runs = []
    for _ in range(2):
        response = await client.post("/v1/chat/completions", [], json.dumps(said(TEXT * 5, stream=True)).encode())
        assert response.headers["content-type"] == "text/event-stream"
        events = (await response.read(1 << 20)).decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        chunks = [json.loads(event[6:]) for event in events[:-2]]
        assert all("usage" not in chunk for chunk in chunks)
        runs.append([chunk["choices"][0]["delta"].get("content") for chunk in chunks[1:-1]])
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert runs[0] == runs[1]
    assert "".join(runs[0]) == TEXT * 5
    assert {len(piece) for piece in runs[0][:-1]} == set(range(1, 8))


async def test_the_openai_client_works_unchanged(endpoint):
    _, _, url = endpoint
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        assert [model.id async for model in client.models.list()] == list(canned.MODELS)
        assert (await client.models.retrieve("echo")).id == "echo"
        answer = await client.chat.completions.create(model="assistant", messages=[{"role": "user", "content": "hi"}])
        assert 50 <= len(answer.choices[0].message.content.split()) <= 75
        parts, usage = [], None
        stream = await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": TEXT}], stream=True, stream_options={"include_usage": True}
        )
        async for part in stream:
            parts += [choice.delta.content or "" for choice in part.choices]
            usage = part.usage or usage
        assert "".join(parts) == TEXT
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        plain = await client.embeddings.create(model="embed", input=["a", "b"], encoding_format="float")
        coded = await client.embeddings.create(model="embed", input="a")
        assert len(coded.data[0].embedding) == 256
        assert coded.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
        assert plain.data[0].embedding != plain.data[1].embedding
        assert (await client.completions.create(model="echo", prompt="abc")).choices[0].text == "abc"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nobody", messages=[])
    async with openai.AsyncAzureOpenAI(azure_endpoint=url, api_key="x", api_version="2024-10-21", azure_deployment="echo") as client:
        answer = await client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "azure"}])
        assert answer.choices[0].message.content == "azure"


async def test_base64_embeddings_are_little_endian_floats(endpoint):
    _, client, _ = endpoint
    _, answer = await post(client, "/v1/embeddings", {"model": "embed", "input": "a", "encoding_format": "base64", "dimensions": 8})
    assert len(struct.unpack("<8f", base64.b64decode(answer["data"][0]["embedding"]))) == 8


async def test_max_tokens_cuts_and_says_so(endpoint):
    _, client, _ = endpoint
    for name in ("max_tokens", "max_completion_tokens"):
        _, answer = await post(client, "/v1/chat/completions", said("one two three four five", **{name: 3}))
        assert answer["choices"][0]["message"]["content"] == "one two three"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3


TOOLS = [{"type": "function", "function": {"name": "note", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("more", [{"tool_choice": "required"}, {"tool_choice": {"type": "function", "function": {"name": "note"}}}, {}])
async def test_tools_are_called_when_forced_or_asked_for(endpoint, more):
    _, client, _ = endpoint
    text = 'use the tool: "quoted"'
    _, answer = await post(client, "/v1/chat/completions", said(text, tools=TOOLS, **more))
    call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "note"
    assert json.loads(call["arguments"]) == {"text": text}
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    response = await client.post("/v1/chat/completions", [], json.dumps(said(text, tools=TOOLS, stream=True, **more)).encode())
    chunks = [json.loads(event[6:]) for event in (await response.read(1 << 20)).decode().split("\n\n")[:-2]]
    deltas = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks[:-1]]
    assert deltas[0]["function"]["name"] == "note"
    assert json.loads("".join(delta["function"]["arguments"] for delta in deltas)) == {"text": text}


async def test_tools_are_not_called_unasked_or_again_after_their_result(endpoint):
    _, client, _ = endpoint
    _, answer = await post(client, "/v1/chat/completions", said("hello", tools=TOOLS))
    assert answer["choices"][0]["message"]["content"] == "hello"
    body = said("use the tool", tools=TOOLS)
    body["messages"] += [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "tool_call_id": "1", "content": "done"}]
    _, answer = await post(client, "/v1/chat/completions", body)
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_what_leaks_is_well_formed_and_no_key_stands_in_the_source():
    text = canned.leaky_text()
    assert text == canned.leaky_text()
    source = Path(canned.__file__).read_text(encoding="utf-8")
    for secret in (re.search(r"AKIA[A-Z2-7]{16}", text)[0], re.search(r"ghp_[A-Za-z0-9]{36}", text)[0]):
        assert secret not in source
    digits = [int(digit) for digit in re.search(r"4111[\d ]+", text)[0] if digit.isdigit()]
    assert sum(digit if at % 2 else sum(divmod(2 * digit, 10)) for at, digit in enumerate(digits)) % 10 == 0
    iban = re.search(r"DE[\d ]+", text)[0].replace(" ", "")
    assert int(iban[4:] + "1314" + iban[2:4]) % 97 == 1


async def test_classifiers_answer_plain_json(endpoint):
    _, client, _ = endpoint
    assert await post(client, "/models/score/score", {"text": "great, thanks, I love it"}) == (200, {"label": "positive", "score": 0.875})
    assert (await post(client, "/models/score/score", {"text": "a table"}))[1]["label"] == "neutral"
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["awful", "good"]}
    status, answer = await post(client, "/v2/models/score/infer", {"id": "7", "inputs": [tensor]})
    assert status == 200
    assert answer["id"] == "7"
    assert answer["outputs"][0]["data"] == ["negative", "positive"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", said("x", model="nobody"), 404),
        ("/openai/deployments/nobody/chat/completions", said("x"), 404),
        ("/v1/chat/completions", {"messages": []}, 400),
        ("/v1/nothing", said("x"), 404),
        ("/nothing", said("x"), 404),
        ("/v1/embeddings", {"model": "embed"}, 400),
        ("/models/score/score", {"n": 1}, 400),
    ],
)
async def test_errors_have_openais_shape(endpoint, path, body, status):
    _, client, _ = endpoint
    got, answer = await post(client, path, body)
    assert got == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}


async def test_slow_is_twenty_tokens_a_second_for_ten_seconds_and_a_reader_who_leaves_is_noticed(endpoint):
    simulator, client, _ = endpoint
    assert len(canned.tokens_of(canned.SLOW)) == 200
    response = await client.post("/v1/chat/completions", [], json.dumps(said("x", model="slow", stream=True)).encode())
    loop = asyncio.get_running_loop()
    began, raw = loop.time(), b""
    while loop.time() - began < 0.6:
        raw += await response.next_chunk()
    assert 8 <= raw.count(b'"content":"') - 1 <= 14
    await response.aclose()
    await asyncio.sleep(0.1)
    assert (simulator.aborted, simulator.in_flight) == (1, 0)


async def test_knobs_fail_limit_and_pace():
    async with serving(SimulatorSettings(error_rate=0.3, limited_rate=0.3, retry_after_s=0.25)) as (_, url):
        client = BackendClient(url)
        seen = []
        for _ in range(100):
            response = await client.post("/v1/chat/completions", [], json.dumps(said("x")).encode())
            seen.append(response.status)
            if response.status == 429:
                assert response.headers["retry-after-ms"] == "250"
                assert response.headers["retry-after"] == "1"
            await response.aclose()
        assert 15 <= seen.count(500) <= 45
        assert 10 <= seen.count(429) <= 35
        await client.aclose()
    async with serving(SimulatorSettings(latency_s=0.1, tokens_per_s=100, other_models=Behaviour.ECHO)) as (_, url):
        client = BackendClient(url)
        began = asyncio.get_running_loop().time()
        status, _ = await post(client, "/v1/chat/completions", said("a b c d e f g h i j", model="anything"))
        assert status == 200
        assert 0.19 <= asyncio.get_running_loop().time() - began < 0.5
        await client.aclose()


async def test_capacity_is_tokens_in_flight():
    async with serving(SimulatorSettings(capacity_tokens=300)) as (_, url):
        client = BackendClient(url)
        body = said("x", model="slow", stream=True, max_tokens=200)
        first = await client.post("/v1/chat/completions", [], json.dumps(body).encode())
        status, _ = await post(client, "/v1/chat/completions", said("x", max_tokens=200))
        assert status == 429
        await first.aclose()
        await asyncio.sleep(0.1)
        status, _ = await post(client, "/v1/chat/completions", said("x", max_tokens=200))
        assert status == 200
        await client.aclose()


def test_it_says_what_it_is(caplog):
    Simulator()
    assert "checks no credential" in caplog.text and "loopback only" in caplog.text


async def test_it_refuses_what_comes_from_elsewhere(caplog):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "server": ("10.0.0.5", 80), "headers": []}
    await Simulator()(scope, None, send)
    assert sent[0]["status"] == 403
    assert "loopback" in caplog.text


def test_the_command_refuses_an_address_beyond_loopback(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_subparsers())
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.com"):
        arguments = parser.parse_args(["simulate", "--host", host])
        assert arguments.run(arguments) == 2
        assert "loopback" in capsys.readouterr().err
