"""An event stream poured through the real `Stream` with the real inspectors: chunks of bytes in, what reached the client out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway.assembly import local_inspection
from gateway.content.inspect import FindingCache, Inspection, Inspectors
from gateway.content.rules import Rules
from gateway.evidence import Operation, StreamMode
from gateway.outcome import Outcome
from gateway.policy.load import load_policies
from gateway.ports import InspectorUnavailable, UpstreamError
from gateway.profiles import compile_rules
from gateway.schema.answers import MalformedAnswer
from gateway.streaming import Stream

POLICIES = Path(__file__).parent.parent / "policies"
FIELDS = {"content": "content", "reasoning": "reasoning_content", "refusal": "refusal"}
DONE = b"data: [DONE]\n\n"


@cache
def starter_rules(profile: str = "default", *, ner: bool = False) -> Rules:
    policies = load_policies(POLICIES, invariants=None, routes=None)
    return compile_rules(policies.profile(profile), policies.digest, ner_enabled=ner)


@cache
def inspectors() -> Inspectors:
    return local_inspection().inspectors


def event(channel: str, text: str, *, choice: int = 0, operation: Operation = Operation.CHAT, finish: str | None = None) -> bytes:
    """One SSE event with a piece of a channel: `content`, `reasoning`, `refusal`, `name`, `arguments`."""
    made: dict[str, Any] = {"index": choice, "finish_reason": finish}
    if operation is Operation.COMPLETIONS:
        made["text"] = text
    elif channel in FIELDS:
        made["delta"] = {FIELDS[channel]: text}
    else:
        made["delta"] = {"tool_calls": [{"index": 0, "function": {channel: text}}]}
    return b"data: " + json.dumps({"id": "x", "object": "o", "created": 1, "model": "m", "choices": [made]}).encode() + b"\n\n"


def ending(*choices: int, operation: Operation = Operation.CHAT) -> bytes:
    empty: dict[str, Any] = {"text": ""} if operation is Operation.COMPLETIONS else {"delta": {}}
    made = [{"index": at, "finish_reason": "stop", **empty} for at in choices or (0,)]
    return b"data: " + json.dumps({"id": "x", "object": "o", "created": 1, "model": "m", "choices": made}).encode() + b"\n\n"


def in_pieces(text: str, cuts: Iterable[int]) -> list[str]:
    edges = sorted({0, len(text), *(c for c in cuts if 0 < c < len(text))})
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]


class _Response:
    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = list(chunks)[::-1]

    async def next_chunk(self) -> bytes:
        return self._chunks.pop() if self._chunks else b""

    async def rest(self, seconds: float) -> None:
        """Chunks come when the test says."""


class _Sink:
    begun = False

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    async def begin(self, status: int, headers: object) -> None:
        self.begun = True

    async def write(self, data: bytes) -> None:
        self.writes.append(data)

    async def end(self, data: bytes = b"") -> None:
        self.writes.append(data)

    async def answer(self, status: int, headers: object, data: bytes) -> None:
        await self.begin(status, headers)
        await self.end(data)


@dataclass
class Poured:
    """What reached the client, by choice and channel and in order of arrival."""

    raw: bytes
    outcome: Outcome
    fault: Exception | None
    stream: Stream
    writes: list[bytes]
    texts: dict[tuple[int, str], str] = field(default_factory=dict)
    shown: str = ""
    finishes: dict[int, str] = field(default_factory=dict)

    @property
    def blocked(self) -> bool:
        return self.outcome.name == "blocked"

    def text(self, channel: str = "content", choice: int = 0) -> str:
        return self.texts.get((choice, channel), "")

    def holds(self, phrase: str) -> bool:
        """Whether the phrase stands in a channel, or in what a client prints that prints everything as it comes."""
        return phrase in self.shown or any(phrase in text for text in self.texts.values())


def _read(poured: Poured) -> None:
    for line in poured.raw.split(b"\n\n"):
        if not line or line == b"data: [DONE]":
            continue
        for choice in json.loads(line.removeprefix(b"data: "))["choices"]:
            delta = choice.get("delta") or {}
            said = [("content", choice.get("text") or "")] + [(name, delta.get(wire) or "") for name, wire in FIELDS.items()]
            for call in delta.get("tool_calls") or ():
                said += [(name, (call.get("function") or {}).get(name) or "") for name in ("name", "arguments")]
            for channel, text in said:
                key = (choice["index"], channel)
                poured.texts[key] = poured.texts.get(key, "") + text
                poured.shown += text if channel in FIELDS else ""
            if choice.get("finish_reason"):
                poured.finishes[choice["index"]] = choice["finish_reason"]


async def pour(
    chunks: Sequence[bytes],
    *,
    mode: StreamMode = StreamMode.WINDOW,
    operation: Operation = Operation.CHAT,
    rules: Rules | None = None,
    ner: Any = None,
    opinion: Any = None,
    blend: Any = None,
    n: int = 1,
    restorer: Any = None,
    body: Mapping[str, Any] | None = None,
    output_tokens: int = 100_000,
    inspection: Inspection | None = None,
) -> Poured:
    """Pour chunks of a backend's bytes. `inspection`: one that has seen other answers."""
    sink = _Sink()
    outcome = Outcome()
    outcome.digest = hashlib.sha256()
    given = inspectors()
    asked = Inspectors(
        scanner=given.scanner, moderator=given.moderator, ner=ner, views=given.views, smuggling=given.smuggling, language=given.language,
        opinion=opinion, blend=blend,
    )  # fmt: skip
    inspection = Inspection(asked, FindingCache(b"k" * 32))
    permit = SimpleNamespace(
        asked=SimpleNamespace(operation=operation, model="m"),
        obligations=SimpleNamespace(stream_mode=mode),
        subject=SimpleNamespace(tenant="t", issuer="i", subject_id="s"),
    )
    valid = SimpleNamespace(
        permit=permit, body={"n": n, **(body or {})}, output_tokens=output_tokens, input_tokens=1, include_usage=False, stream=True
    )
    house: Any = SimpleNamespace(inspection=inspection, mono_s=lambda: 5e9)
    exchange: Any = SimpleNamespace(started_s=1.0, request_id="3f0c7f0e-0000-4000-8000-000000000001", status=0)
    answer: Any = SimpleNamespace(response=_Response(chunks))
    prompt: Any = SimpleNamespace(valid=valid, restorer=restorer)
    stream = Stream(answer, prompt, rules or starter_rules(), house, sink, outcome, exchange)
    fault: Exception | None = None
    try:
        await stream.run([])
    except (UpstreamError, MalformedAnswer, InspectorUnavailable) as error:
        fault = error
    poured = Poured(b"".join(sink.writes), outcome, fault, stream, sink.writes)
    _read(poured)
    return poured
