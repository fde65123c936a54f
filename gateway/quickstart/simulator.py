"""What would a model endpoint answer? A stand-in for OpenAI's and Azure OpenAI's data plane, and for plain JSON models.

For development, tests and load: deterministic, loopback only, with knobs for slowness and failure. It checks no credential and
must never be reachable from elsewhere; a request that came in over another interface is refused and reported in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec

from gateway.quickstart import canned
from gateway.quickstart.canned import Behaviour
from gateway.quickstart.completions import Call, Reply, chat_of, completion_of

_log = logging.getLogger("gateway.simulator")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_MAX_BODY = 16 * 1024 * 1024
_PREFIXES = ("/openai/v1/", "/v1/", "/openai/")
_SLOW_TOKENS_PER_S = 20.0


class SimulatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Knobs. Rates are shares of requests from 0 to 1, spread evenly and not by chance."""

    models: Mapping[str, Behaviour] = msgspec.field(default_factory=lambda: dict(canned.MODELS))
    other_models: Behaviour | None = None  # what a model of any other name does; None: 404
    latency_s: float = 0.0  # before the head
    tokens_per_s: float = 0.0  # 0: as fast as it goes
    error_rate: float = 0.0  # 500
    limited_rate: float = 0.0  # 429
    retry_after_s: float = 1.0
    capacity_tokens: int = 0  # like a provisioned deployment: 429 when the tokens in flight would exceed it; 0: no bound
    seed: int = 0


class Refused(Exception):
    """An error answer in OpenAI's shape."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class Simulator:
    """The ASGI application. `served`, `aborted` and `in_flight` let a test see what reached it."""

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.settings = settings or SimulatorSettings()
        self.served = 0
        self.aborted = 0  # streams whose reader left
        self.in_flight = 0
        self._tokens_in_flight = 0
        _log.warning("simulated model endpoint: its answers are invented, it checks no credential and answers on loopback only")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        self.served += 1
        self.in_flight += 1
        try:
            if not _on_loopback(scope):
                _log.error("refused a request: the simulated model endpoint answers on loopback only")
                raise Refused(403, "loopback_only", "the simulated model endpoint answers on loopback only")
            await self._answer(scope, receive, send)
        except Refused as refused:
            await _send_error(send, refused)
        finally:
            self.in_flight -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if scope["method"] == "GET":
            await _send_json(send, 200, self._catalogue(path))
            return
        if scope["method"] != "POST":
            raise Refused(405, "method_not_allowed", "only GET and POST")
        body = _decode(await _read(receive))
        self._fail_sometimes()
        if self.settings.latency_s > 0:
            await asyncio.sleep(self.settings.latency_s)
        if path.startswith("/v2/models/") and path.endswith("/infer"):
            name = path[len("/v2/models/") : -len("/infer")]
            self._behaviour(name)
            await _send_json(send, 200, _infer(name, body))
            return
        if path.startswith("/models/") and path.endswith("/score"):
            self._behaviour(path[len("/models/") : -len("/score")])
            label, score = canned.classify(_first_text(body))
            await _send_json(send, 200, {"label": label, "score": score})
            return
        deployment, operation = _split(path)
        model = deployment or body.get("model")
        if not isinstance(model, str):
            raise Refused(400, "invalid_request_error", "you must provide a model parameter")
        behaviour = self._behaviour(model)
        if operation == "embeddings":
            await _send_json(send, 200, _embeddings(model, body))
        elif operation == "chat/completions":
            await self._complete(chat_of(model, behaviour, body), receive, send)
        elif operation == "completions":
            await self._complete(completion_of(model, behaviour, body), receive, send)
        else:
            raise Refused(404, "not_found", "there is no such operation")

    def _behaviour(self, model: str) -> Behaviour:
        behaviour = self.settings.models.get(model, self.settings.other_models)
        if behaviour is None:
            raise Refused(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        return behaviour

    def _catalogue(self, path: str) -> dict[str, Any]:
        _, operation = _split(path)
        entries = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulator"} for name in self.settings.models]
        if operation == "models":
            return {"object": "list", "data": entries}
        for entry in entries:
            if operation == f"models/{entry['id']}":
                return entry
        raise Refused(404, "not_found", "there is no such path")

    def _fail_sometimes(self) -> None:
        settings = self.settings
        if _due(self.served, settings.error_rate, "error", settings.seed):
            raise Refused(500, "server_error", "the simulated model failed, as asked")
        if _due(self.served, settings.limited_rate, "limit", settings.seed):
            raise Refused(429, "429", "the simulated model is rate limited, as asked", settings.retry_after_s)

    async def _complete(self, call: Call, receive: Receive, send: Send) -> None:
        settings = self.settings
        reply = call.reply()
        weight = reply.prompt_tokens + (call.max_tokens if call.max_tokens is not None else len(reply.tokens))
        if settings.capacity_tokens and self._tokens_in_flight + weight > settings.capacity_tokens:
            raise Refused(429, "429", "the provisioned capacity is in use", settings.retry_after_s)
        pace = _SLOW_TOKENS_PER_S if call.behaviour is Behaviour.SLOW else settings.tokens_per_s
        self._tokens_in_flight += weight
        leaving = asyncio.ensure_future(_left(receive))
        try:
            if call.stream:
                await self._stream(call, reply, pace, leaving, send)
            else:
                if pace > 0 and await _wait(leaving, len(reply.tokens) / pace):
                    self.aborted += 1
                    return
                await _send_json(send, 200, call.whole(reply))
        finally:
            self._tokens_in_flight -= weight
            leaving.cancel()

    async def _stream(self, call: Call, reply: Reply, pace: float, leaving: asyncio.Future[None], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [*_fixed_headers(), (b"content-type", b"text/event-stream")]})
        began, sent_tokens = time.monotonic(), 0.0
        for chunk, tokens in call.chunks(reply, self.settings.seed):
            sent_tokens += tokens
            if pace > 0:
                ahead = began + sent_tokens / pace - time.monotonic()
                if ahead > 0:
                    await _wait(leaving, ahead)
            elif tokens:
                await asyncio.sleep(0)  # one event a turn of the loop, as a model's server writes them
            if leaving.done():
                self.aborted += 1
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _due(count: int, rate: float, kind: str, seed: int) -> bool:
    if rate <= 0:
        return False
    digest = hashlib.sha256(f"{seed}:{kind}:{count}".encode("ascii")).digest()
    return int.from_bytes(digest[:4], "big") < rate * 2**32


def _split(path: str) -> tuple[str, str]:
    """Return (deployment or "", operation)."""
    if path.startswith("/openai/deployments/"):
        deployment, _, operation = path[len("/openai/deployments/") :].partition("/")
        return deployment, operation
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            return "", path[len(prefix) :]
    raise Refused(404, "not_found", "there is no such path")


def _embeddings(model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    given = body.get("input")
    texts: list[str]
    if isinstance(given, str):
        texts = [given]
    elif isinstance(given, list) and given and all(isinstance(item, int) for item in given):
        texts = [str(given)]
    elif isinstance(given, list) and given:
        texts = [item if isinstance(item, str) else str(item) for item in given]
    else:
        raise Refused(400, "invalid_request_error", "input must be text or tokens")
    wanted = body.get("dimensions", canned.EMBEDDING_DIMENSIONS)
    if not isinstance(wanted, int) or not 1 <= wanted <= canned.EMBEDDING_DIMENSIONS:
        raise Refused(400, "invalid_request_error", f"dimensions must be 1 to {canned.EMBEDDING_DIMENSIONS}")
    coded = body.get("encoding_format") == "base64"
    vectors = [canned.embedding(text, wanted) for text in texts]
    tokens = sum(len(canned.tokens_of(text)) for text in texts)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": canned.as_base64(vector) if coded else vector}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _infer(model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer in the shape of the Open Inference Protocol: one label and one score for each string."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list):
        raise Refused(400, "invalid_request_error", "inputs must be a list of tensors")
    texts = [text for tensor in inputs if isinstance(tensor, dict) for text in _strings(tensor.get("data"))]
    judged = [canned.classify(text) for text in texts]
    answer: dict[str, Any] = {
        "model_name": model,
        "model_version": "1",
        "outputs": [
            {"name": "label", "shape": [len(judged)], "datatype": "BYTES", "data": [label for label, _ in judged]},
            {"name": "score", "shape": [len(judged)], "datatype": "FP32", "data": [score for _, score in judged]},
        ],
    }
    if isinstance(body.get("id"), str):
        answer["id"] = body["id"]
    return answer


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return []


def _first_text(body: Mapping[str, Any]) -> str:
    found = [text for value in body.values() for text in _strings(value)]
    if not found:
        raise Refused(400, "invalid_request_error", "there is no text to judge")
    return found[0]


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused(400, "bad_request", "the request ended early")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _MAX_BODY:
            raise Refused(413, "request_too_large", "the request body is too large")
        if not message.get("more_body"):
            return b"".join(parts)


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise Refused(400, "invalid_json", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "invalid_json", "the body must be a JSON object")
    return body


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait(leaving: asyncio.Future[None], seconds: float) -> bool:
    """Sleep, unless the reader leaves first. Returns whether it left."""
    await asyncio.wait((leaving,), timeout=seconds)
    return leaving.done()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


def _on_loopback(scope: Scope) -> bool:
    server: Sequence[Any] | None = scope.get("server")
    if not server or server[1] is None:
        return True  # a unix socket
    try:
        return ipaddress.ip_address(server[0]).is_loopback
    except ValueError:
        return server[0] in ("localhost", "testserver")


def _fixed_headers() -> list[tuple[bytes, bytes]]:
    return [(b"x-ms-region", b"Simulated"), (b"cache-control", b"no-store")]


async def _send_json(send: Send, status: int, value: Any, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
    body = msgspec.json.encode(value)
    headers = [*_fixed_headers(), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, refused: Refused) -> None:
    extra: list[tuple[bytes, bytes]] = []
    if refused.retry_after_s is not None:
        extra = [
            (b"retry-after", b"%d" % max(1, round(refused.retry_after_s))),
            (b"retry-after-ms", b"%d" % round(refused.retry_after_s * 1000)),
        ]
    error = {"message": refused.message, "type": "invalid_request_error", "param": None, "code": refused.code}
    await _send_json(send, refused.status, {"error": error}, extra)
