"""A whole exchange as one expression: scripted fakes around the real pipeline, policy, schemas, limits and inspection.

Every fake notes what it was asked to do in one list of effects, in order. `leave_at` names the effect during which the client
leaves: the serving task is cancelled there, as the edge does it. No sockets, no sleeps; a clock that moves by hand.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gateway.accounting.prices import TokenPrice
from gateway.assembly import local_inspection
from gateway.audit.record import Pseudonymiser
from gateway.content.inspect import FindingCache, Inspection, Inspectors
from gateway.evidence import Lease, ScreenedRequest, Span, Subject
from gateway.exchange import Fingerprints
from gateway.house import Gate, House
from gateway.http.paths import match
from gateway.http.reply import render, stream_error
from gateway.limits.reservation import Charge
from gateway.pipeline import serve
from gateway.policy.facts import RouteFacts
from gateway.policy.holder import PolicyHolder
from gateway.policy.testing import example_subject
from gateway.ports import LogUnavailable
from gateway.profiles import rules_source
from gateway.providers.local.counters import MemoryCounters
from gateway.providers.local.moderation_categories import openai_categories
from gateway.quickstart.state import CLASSES, MODELS
from gateway.refusals import INVALID_TOKEN, Refusal
from gateway.schema.validate import Specs
from gateway.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent.parent
NOON_S = 1_800_446_400.0
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@cache
def starter_policies() -> PolicyHolder:
    routes = {
        name: RouteFacts(name=name, operations=frozenset(operations), data_class=CLASSES.get(name, "internal"))
        for name, operations in MODELS.items()
    }
    return PolicyHolder(ROOT / "policies", routes=routes, invariants=ROOT / "policies.invariants.toml")


@cache
def local_inspectors() -> Inspectors:
    return local_inspection().inspectors


def someone(role: str = "developer", **facts: Any) -> Subject:
    roles = frozenset({role} if role else ())
    return example_subject(app_roles=roles, issued_at_s=int(NOON_S) - 60, expires_at_s=int(NOON_S) + 3_600, token_id="jti-1", **facts)


class Script:
    """What happened, in order, and where the client leaves."""

    def __init__(self, leave_at: str | None) -> None:
        self.effects: list[str] = []
        self.steps: list[str] = []  # effects that wait: a client may leave during each
        self.leave_at = leave_at
        self.left = False
        self._seen: Counter[str] = Counter()

    def note(self, name: str) -> str:
        self._seen[name] += 1
        named = name if self._seen[name] == 1 else f"{name} {self._seen[name]}"
        self.effects.append(named)
        return named

    async def wait(self, name: str) -> None:
        named = self.note(name)
        self.steps.append(named)
        if named == self.leave_at:
            self.left = True
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)  # raises here when the client has left


class FakeInbound:
    def __init__(self, script: Script, method: str, path: str, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._script, self._body = script, body
        self.method, self.path, self.headers, self.peer = method, path, headers, "192.0.2.7"
        self.watching = False

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)

    async def body(self, max_bytes: int) -> bytes:
        await self._script.wait("body")
        assert len(self._body) <= max_bytes
        return self._body

    def on_gone(self, callback: Callable[[], object]) -> None:
        self.watching = True

    def stop_watching(self) -> None:
        self.watching = False


class FakeSink:
    """Keeps what reached the client."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.begun = self.ended = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.data = b""
        self.refusal: Refusal | None = None

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        assert not self.begun
        await self._script.wait("begin")
        self.begun = True
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}

    async def write(self, data: bytes) -> None:
        assert self.begun and not self.ended
        await self._script.wait("write")
        self.data += data

    async def end(self, data: bytes = b"") -> None:
        assert self.begun and not self.ended
        await self._script.wait("end")
        self.ended = True
        self.data += data

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], data: bytes) -> None:
        await self.begin(status, headers)
        await self.end(data)

    async def refuse(self, refusal: Refusal, headers: list[tuple[bytes, bytes]]) -> None:
        self.refusal = refusal
        if self.begun:
            await self.end(stream_error(refusal))
            return
        status, out, body = render(refusal, headers)
        await self.begin(status, out)
        await self.end(body)


class FakeAuthenticator:
    def __init__(self, script: Script, subject: Subject | None) -> None:
        self._script, self._subject = script, subject

    def credential(self, headers: Any) -> Any:
        if self._subject is None:
            raise Refusal(INVALID_TOKEN, detail="credential: none")
        return "credential"

    def cached(self, credential: Any, now_s: int) -> Subject | None:
        return None

    async def authenticate(self, credential: Any, now_s: int) -> Subject:
        await self._script.wait("authenticate")
        assert self._subject is not None
        return self._subject


class FakeTicket:
    def __init__(self, log: FakeLog, index: int, type_: str) -> None:
        self._log, self.index, self._type = log, index, type_

    async def wait(self) -> int:
        await self._log.script.wait(f"{self._type} durable")
        if self._type in self._log.never_durable:
            raise LogUnavailable("the disk failed")
        self._log.durable.add(self.index)
        return self.index


class FakeLog:
    """A list of records. `full` names types that are not taken; `never_durable` those that are lost after they were."""

    def __init__(self, script: Script, full: frozenset[str], never_durable: frozenset[str]) -> None:
        self.script, self.full, self.never_durable = script, full, never_durable
        self.healthy = True
        self.raw: list[bytes] = []
        self.durable: set[int] = set()

    def append(self, record: bytes, *, soon: bool = True) -> FakeTicket:
        type_ = json.loads(record)["type"]
        if type_ in self.full:
            raise LogUnavailable("the queue is full")
        self.script.note(type_)
        self.raw.append(record)
        return FakeTicket(self, len(self.raw) - 1, type_)


class FakeCounters:
    """The real counters of one process, with waits in front as a shared store has them."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.real = MemoryCounters()
        self.settled: list[int] = []

    async def reserve(self, charge: Charge, now_s: float) -> Lease:
        await self._script.wait("reserve")
        return await self.real.reserve(charge, now_s)

    async def standing(self, charge: Any, now_s: float) -> tuple[tuple[str, str], ...]:
        return await self.real.standing(charge, now_s)

    async def settle(self, lease: Lease, tokens: int, now_s: float) -> None:
        self.settled.append(tokens)
        await self.real.settle(lease, tokens, now_s)
        await self._script.wait("settle")


class FakeNames:
    """A names detector that finds nobody, or what it is told to; an exception is raised."""

    name, version = "names", "0"

    def __init__(self, script: Script, fault: Exception | None) -> None:
        self._script, self._fault = script, fault

    async def detect(self, texts: Any, deadline_s: float) -> list[list[Span]]:
        await self._script.wait("names")
        if self._fault is not None:
            raise self._fault
        return [[] for _ in texts]


class FakeResponse:
    """A scripted body: bytes are chunks, an exception is raised in their place, None ends it."""

    def __init__(self, script: Script, chunks: list[bytes | Exception]) -> None:
        self._script, self._chunks = script, list(chunks)

    async def next_chunk(self) -> bytes:
        await self._script.wait("chunk")
        if not self._chunks:
            return b""
        chunk = self._chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def rest(self, seconds: float) -> None:
        """Scripted chunks come when the script says."""

    async def read(self, max_bytes: int) -> bytes:
        parts = []
        while part := await self.next_chunk():
            parts.append(part)
        return b"".join(parts)


class FakeAnswer:
    backend, model, region, attempts = "one", "model-at-one", "", 1

    def __init__(self, script: Script, chunks: list[bytes | Exception]) -> None:
        self._script = script
        self.response = FakeResponse(script, chunks)
        self.closed = 0

    def blame(self) -> None:
        """The body was not well formed."""

    async def aclose(self) -> None:
        self.closed += 1
        self._script.note("close answer")


class FakeForwarder:
    def __init__(self, script: Script, log: FakeLog, answer: list[bytes | Exception] | Exception | Any) -> None:
        self._script, self._log, self._given = script, log, answer
        self.sent: list[dict[str, Any]] = []
        self.answers: list[FakeAnswer] = []

    async def forward(
        self, screened: ScreenedRequest, *, deadline_s: float, request_id: str = "", traceparent: str = "", caller: Any = None
    ) -> Any:
        opened = [i for i, r in enumerate(self._log.raw) if json.loads(r)["type"] == "opened"]
        assert opened and set(opened) <= self._log.durable, "something left before its intent was durable"
        self.sent.append(json.loads(screened.payload))
        await self._script.wait("forward")
        if isinstance(self._given, Exception):
            raise self._given
        if not isinstance(self._given, list):
            return self._given
        answer = FakeAnswer(self._script, self._given)
        self.answers.append(answer)
        return answer


@dataclass
class Played:
    """What came of it."""

    script: Script
    sink: FakeSink
    log: FakeLog
    counters: FakeCounters
    forwarder: FakeForwarder
    inbound: FakeInbound
    house: House
    cancelled: bool = False
    summary: list[str] = field(default_factory=list)

    @property
    def effects(self) -> list[str]:
        return self.script.effects

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.log.raw]

    @property
    def types(self) -> list[str]:
        return [record["type"] for record in self.records]

    def record(self, type_: str) -> dict[str, Any]:
        (found,) = [record for record in self.records if record["type"] == type_]
        return found

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.sink.data)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a streamed answer; `[DONE]` as an empty object."""
        assert self.sink.data.endswith(b"\n\n")
        lines = [line.removeprefix(b"data: ") for line in self.sink.data.split(b"\n\n") if line]
        return [{} if line == b"[DONE]" else json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        """The streamed text."""
        deltas = [c.get("delta", {}) for event in self.events for c in event.get("choices", [])]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def endings(self) -> list[str]:
        choices = [c for event in self.events for c in event.get("choices", [])]
        return [c["finish_reason"] for c in choices if c.get("finish_reason")]


def chat(*messages: str, model: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text} for text in messages], **more}


def whole(text: str, usage: dict[str, int] | None = USAGE, **message: Any) -> list[bytes | Exception]:
    """A finished chat answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    body: dict[str, Any] = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    if usage is not None:
        body["usage"] = usage
    return [json.dumps(body).encode()]


def event(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def streamed(*texts: str, usage: dict[str, int] | None = USAGE) -> list[bytes | Exception]:
    """A finished stream, one chunk of bytes an event."""
    chunks: list[bytes | Exception] = [event(text) for text in texts]
    chunks.append(event(finish="stop"))
    if usage is not None:
        last = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}
        chunks.append(b"data: " + json.dumps(last).encode() + b"\n\n")
    return [*chunks, DONE]


async def play(
    asked: dict[str, Any] | bytes | None = None,
    answer: Any = None,
    *,
    who: Subject | None = someone(),
    method: str = "POST",
    path: str = "/v1/chat/completions",
    leave_at: str | None = None,
    log_full: frozenset[str] = frozenset(),
    never_durable: frozenset[str] = frozenset(),
    log_failed: bool = False,
    names_fault: Exception | None = None,
    times: int = 1,
    draining: bool = False,
    max_exchanges: int = 8,
    breaks: dict[str, Any] | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    ner: bool = True,
) -> Played:
    """Serve `times` equal requests one after the other and return what came of the last."""
    script = Script(leave_at)
    log = FakeLog(script, log_full, never_durable)
    log.healthy = not log_failed
    counters = FakeCounters(script)
    forwarder = FakeForwarder(script, log, answer if answer is not None else whole("All is well."))
    names = FakeNames(script, names_fault) if ner else None
    inspectors = local_inspectors()
    inspection = Inspection(
        Inspectors(
            scanner=inspectors.scanner, moderator=inspectors.moderator, ner=names, views=inspectors.views,
            smuggling=inspectors.smuggling, language=inspectors.language,
        ),
        FindingCache(b"k" * 32),
    )  # fmt: skip
    summary: list[str] = []

    class Unauthenticated:
        def count(self, reason: str) -> None:
            summary.append(reason)

    prints = Pseudonymiser(b"p" * 32)
    gate = Gate()
    gate.draining = draining
    parts: dict[str, Any] = {
        "authenticator": FakeAuthenticator(script, who),
        "match": match,
        "policies": starter_policies(),
        "specs": lambda generation: Specs({}),
        "tokenizer": None,
        "counters": counters,
        "inspection": inspection,
        "rules": rules_source(ner_enabled=ner),
        "log": log,
        "prints": prints,
        "fingerprints": lambda s: Fingerprints(prints.subject(s.tenant, s.subject_id), prints.token(s.tenant, s.token_id)),
        "forwarder": forwarder,
        "metrics": Metrics(),
        "prices": {"assistant": TokenPrice(1000.0, 2000.0)},
        "unauthenticated": Unauthenticated(),
        "wall_s": lambda: NOON_S,
        "mono_s": lambda: 5e9,  # inspection keeps its deadline by the real clock: never before this
        "new_id": lambda: "3f0c7f0e-0000-4000-8000-000000000001",
        "nonce": lambda: "k7f3",
        "categories": openai_categories,
        "instance": "playbook",
        "max_body_bytes": 1_000_000,
        "max_exchanges": max_exchanges,
        "active": gate,
        "span": None,
    }
    house = House(**{**parts, **(breaks or {})})
    body = asked if isinstance(asked, bytes) else json.dumps(chat("Please say hello.") if asked is None else asked).encode()
    for _ in range(times):
        inbound, sink = FakeInbound(script, method, path, body, headers), FakeSink(script)
        played = Played(script, sink, log, counters, forwarder, inbound, house, summary=summary)
        task = asyncio.ensure_future(serve(inbound, sink, house))
        try:
            await task
        except asyncio.CancelledError:
            played.cancelled = True
    return played


def nothing_is_held(played: Played) -> None:
    """What must be true after every exchange, however it went."""
    assert played.counters.real.held() == 0, "a lease is still held"
    assert played.house.active.active == 0, "the bulkhead still counts the exchange"
    assert not played.inbound.watching, "the client is still watched"
    assert all(answer.closed == 1 for answer in played.forwarder.answers), "a backend's connection was not given back"
    opened, closed = played.types.count("opened"), played.types.count("closed")
    assert opened == closed, f"{opened} opened, {closed} closed"
