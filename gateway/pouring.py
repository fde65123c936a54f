"""How does an answer reach the client: inspected whole, or event by event behind the guards of its channels?

Only closed shapes leave: an upstream answer is parsed, its texts are judged and rewritten, and it is serialised anew. In a
stream each received event keeps its place: it leaves when every text in it has been committed by its channel's guard, so ids,
indices and sizes stay as the backend made them. On any failure what the guards still hold is dropped, never flushed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from gateway.content import verdicts
from gateway.content.inbound import put
from gateway.content.inspect import Scope, TooDear
from gateway.content.review import review
from gateway.content.rules import Rules
from gateway.content.stream import Blocked, Findings, Piece, Readings, StreamGuard
from gateway.evidence import Direction, Operation, Role, ScreenedRequest, Segment, StreamMode, Use, Verdict
from gateway.exchange import Exchange
from gateway.house import House
from gateway.ports import InspectorUnavailable, UpstreamError
from gateway.refusals import (
    BACKEND_TIMEOUT,
    BACKEND_UNAVAILABLE,
    CONTENT_FILTER,
    DEPLOYMENT_NOT_FOUND,
    INSPECTION_UNAVAILABLE,
    INVALID_REQUEST,
    Refusal,
)
from gateway.schema import answers, chunks
from gateway.upstream.answer import Answer
from gateway.upstream.sse import SseError, SseParser

Headers = list[tuple[bytes, bytes]]
MAX_ANSWER_BYTES = 16 * 1_048_576
MAX_EVENTS_HELD = 100_000
CHARS_PER_TOKEN = 6  # no tokenizer in use yields longer tokens on average: a stream over ceiling x 6 has broken its limit
MAX_CHANNELS = 256
SPLIT_AT = 64  # code points: a larger event whose head is committed is not kept waiting for its last word


class Sink(Protocol):
    """Where an answer is pushed."""

    @property
    def begun(self) -> bool: ...
    async def begin(self, status: int, headers: Headers) -> None: ...
    async def write(self, data: bytes) -> None: ...
    async def end(self, data: bytes = b"") -> None: ...
    async def refuse(self, refusal: Refusal, headers: Headers) -> None: ...


class Outcome:
    """What is known of an answer so far; filled as it is poured, read in the caller's `finally`."""

    def __init__(self) -> None:
        self.name = ""
        self.reported: tuple[int, int] | None = None
        self.counted_output = 0
        self.output_chars = 0
        self.verdict: Verdict | None = None
        self.digest: Any = None
        self.answered = False
        self.sent = False


async def pour(
    answer: Answer, prompt: ScreenedRequest, house: House, exchange: Exchange, sink: Sink, headers: Headers, outcome: Outcome
) -> None:
    """Send the answer. Raises `Refusal` for what cannot be released."""
    outcome.answered = True
    outcome.digest = hashlib.sha256()
    permit = prompt.valid.permit
    rules = house.rules(permit.generation, permit.obligations.profile)
    try:
        if prompt.valid.stream:
            await _Stream(answer, prompt, rules, house, sink, outcome, exchange).run(headers)
        else:
            await _whole(answer, prompt, rules, house, sink, headers, outcome, exchange)
    except UpstreamError as error:
        kind = BACKEND_TIMEOUT if error.phase == "timeout" else BACKEND_UNAVAILABLE
        raise Refusal(kind, detail=f"answer: {error.phase}") from error
    except (answers.MalformedAnswer, SseError) as error:
        answer.blame()
        raise Refusal(BACKEND_UNAVAILABLE, detail=f"answer: {type(error).__name__}") from error
    except TooDear as error:
        answer.blame()
        raise Refusal(BACKEND_UNAVAILABLE, detail="answer: inspection cost") from error
    except InspectorUnavailable as error:
        raise Refusal(INSPECTION_UNAVAILABLE, detail=f"answer: {error}") from error


def answer_id(exchange: Exchange) -> str:
    return f"chatcmpl-{exchange.request_id}"


def call_id(answer: str, choice: int, number: Any) -> str:
    """Return our id of a tool call: unique over a conversation, and nothing a backend could write."""
    return f"call_{answer[9:17]}_{choice}_{number}"


def _mint(body: dict[str, Any], exchange: Exchange) -> None:
    """Put our own ids and time into a whole answer. SECURITY: an id is a text nobody inspects."""
    body.pop("system_fingerprint", None)
    body.pop("model_version", None)
    if "created" in body:
        body["created"] = int(exchange.started_s)
    if "id" in body:
        body["id"] = answer_id(exchange)
    for choice in body.get("choices", ()):
        for number, call in enumerate((choice.get("message") or {}).get("tool_calls") or ()):
            call["id"] = call_id(answer_id(exchange), choice["index"], number)


async def _whole(
    answer: Answer,
    prompt: ScreenedRequest,
    rules: Rules,
    house: House,
    sink: Sink,
    headers: Headers,
    outcome: Outcome,
    exchange: Exchange,
) -> None:
    valid = prompt.valid
    permit = valid.permit
    operation = permit.asked.operation
    raw = await answer.response.read(MAX_ANSWER_BYTES)
    spec = house.specs(permit.generation).find(operation, permit.route)
    body = answers.parse_answer(
        operation, raw, model=permit.asked.model, spec=spec, logprobs="logprobs" in permit.obligations.grants
    )
    outcome.reported = reported(body.get("usage"))
    _mint(body, exchange)
    segments = answers.answer_segments(operation, body, spec)
    outcome.output_chars = sum(len(s.text) for s in segments)
    outcome.counted_output = outcome.output_chars // 4 + 1
    findings = Findings()
    scope = Scope(permit.subject.tenant, permit.subject.subject_id.encode())
    deadline_s = house.mono_s() + rules.outbound.deadline_s
    result = await review(house.inspection, segments, rules, Direction.OUTBOUND, scope, deadline_s, None, findings)
    outcome.verdict = verdicts.verdict(
        findings, house.inspection.inspectors.names, degraded=result.degraded, cached=result.cached
    )
    exchange.status = 200
    if result.blocked:
        outcome.name = "blocked"
        if "choices" not in body:
            raise Refusal(CONTENT_FILTER, message="the answer was filtered by content policy", detail="answer: " + ",".join(result.blocked))
        answers.withhold(body)
        for choice in body["choices"]:
            choice["content_filter_results"] = verdicts.filter_result(findings.scores, result.blocked)
    else:
        outcome.name = "finished"
        if result.texts:
            answers.drop_logprobs(body)
        _rewrite(body, segments, result.texts, prompt)
    data = msgspec.json.encode(body)
    outcome.digest.update(data)
    await sink.begin(
        200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data)), (b"cache-control", b"no-store"), *headers]
    )
    await sink.end(data)


def reported(usage: Any) -> tuple[int, int] | None:
    """Return (input, output) tokens of a backend's report, None where there is none to believe."""
    if not isinstance(usage, Mapping):
        return None
    given = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    return given if all(type(n) is int for n in given) and sum(given) > 0 else None


def _rewrite(body: dict[str, Any], segments: Sequence[Segment], texts: Mapping[int, str], prompt: ScreenedRequest) -> None:
    restorer = prompt.restorer
    for at, segment in enumerate(segments):
        text = texts.get(at, segment.text)
        if restorer is not None and segment.use is Use.CONTENT:
            text = restorer.restore(text)
        if text is not segment.text and segment.use is not Use.LABEL:
            put(body, segment.path, text)


class _Held:
    """A received event that waits for its texts: per slot the code points still uncommitted and what stands in their place."""

    __slots__ = ("chunk", "left", "out", "slots", "took")

    def __init__(self, chunk: chunks.Chunk) -> None:
        self.chunk = chunk
        self.slots = [(text.choice, text.channel) for text in chunk.texts]
        self.left = [len(text.text) for text in chunk.texts]
        self.out: list[list[str]] = [[] for _ in chunk.texts]
        self.took = 0

    def take_text(self) -> list[chunks.ChannelText]:
        """Hand over what has been committed so far."""
        given = [chunks.ChannelText(*slot, "".join(parts)) for slot, parts in zip(self.slots, self.out, strict=True) if any(parts)]
        for parts in self.out:
            parts.clear()
        self.took = 0
        return given


class _Channel:
    """One guarded text of the stream with the events that wait on it, in order."""

    __slots__ = ("fresh", "guard", "queue")

    def __init__(self, guard: StreamGuard) -> None:
        self.guard = guard
        self.fresh: list[str] = []
        self.queue: deque[tuple[_Held, int]] = deque()


class _Stream:
    """Pours one event stream."""

    def __init__(
        self, answer: Answer, prompt: ScreenedRequest, rules: Rules, house: House, sink: Sink, outcome: Outcome, exchange: Exchange
    ) -> None:
        self._answer = answer
        self._exchange = exchange
        self._prompt = prompt
        self._rules = rules
        self._house = house
        self._sink = sink
        self._outcome = outcome
        self._operation = prompt.valid.permit.asked.operation
        self._model = prompt.valid.permit.asked.model
        self._mode = prompt.valid.permit.obligations.stream_mode
        self._findings = Findings()
        self._channels: dict[tuple[int, str], _Channel] = {}
        self._parser = SseParser()
        self._chars = 0
        self._held = 0
        self._finished: set[int] = set()
        self._template: chunks.Chunk | None = None
        self._ended = False
        inspectors = house.inspection.inspectors
        self._readings = Readings(
            inspectors.views, inspectors.smuggling, inspectors.language, lambda text: inspectors.moderator.score(text, Role.ASSISTANT)
        )
        asked = prompt.valid.body
        prompts = asked.get("prompt")
        self._id = answer_id(exchange)
        self._created = int(exchange.started_s)
        self._allowance = (prompt.valid.output_tokens + SPLIT_AT) * CHARS_PER_TOKEN
        self._choices = int(asked.get("n", 1)) * (len(prompts) if isinstance(prompts, list) else 1)

    async def run(self, headers: Headers) -> None:
        self._exchange.status = 200
        await self._sink.begin(
            200, [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"), *headers]
        )
        try:
            while not self._over():
                data = await self._answer.response.next_chunk()
                if not data:
                    break
                out: list[bytes] = []
                try:
                    for event in self._parser.feed(data):
                        await self._take(event.data, out)
                        if self._over():
                            break
                    await self._flush(out)
                except Blocked as blocked:
                    if self._mode is StreamMode.STRICT:
                        out.clear()  # strict means all of it or nothing
                    await self._blocked(blocked, out)
                if out:
                    await self._send(out)
            if not self._over():
                self._parser.finish()  # a fault behind the last whole event
                raise UpstreamError("body", "the stream ended without [DONE]")
            await self._sink.end()
        finally:
            for channel in self._channels.values():
                channel.guard.drop()
            self._outcome.output_chars = self._chars
            self._outcome.counted_output = self._chars // 4 + 1
            self._outcome.verdict = verdicts.verdict(self._findings, self._house.inspection.inspectors.names)

    def _over(self) -> bool:
        return self._ended

    async def _send(self, out: list[bytes]) -> None:
        data = b"".join(out)
        self._outcome.digest.update(data)
        await self._sink.write(data)

    async def _take(self, data: bytes, out: list[bytes]) -> None:
        if data == b"[DONE]":
            await self._done("finished", out)
            return
        chunk = chunks.parse_chunk(self._operation, data, model=self._model)
        if chunk.usage is not None:
            self._outcome.reported = reported(chunk.usage) or self._outcome.reported
        if any(choice.index >= self._choices for choice in chunk.body.choices):
            raise UpstreamError("protocol", "a choice nobody asked for")
        self._mint(chunk)
        self._template = chunk
        ends = chunk.finish_reasons
        if self._chars + sum(len(text.text) for text in chunk.texts) > self._allowance:
            await self._cut(out)
            return
        if chunk.texts:
            for choice in chunk.body.choices:  # an end leaves only after everything before it was judged
                if choice.index in ends:
                    choice.finish_reason = None
            self._hold(chunk)
        if ends or not chunk.texts:
            await self._flush(out)
        for index in ends:
            await self._finish(index, out)
        if chunk.texts and ends:
            out += [self._event(chunks.closing(chunk, [index], reason)) for index, reason in ends.items()]
        elif not chunk.texts and chunk.body.choices and not chunk.is_idle:
            out.append(self._event(chunk))

    def _mint(self, chunk: chunks.Chunk) -> None:
        """Put our own ids, time and nothing else where the backend could have written anything."""
        chunk.body.id = self._id
        chunk.body.created = self._created
        chunk.body.system_fingerprint = msgspec.UNSET
        for choice in chunk.body.choices:
            calls = choice.delta.tool_calls if isinstance(choice.delta, chunks.Delta) else None
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call.id, str):
                    call.id = call_id(self._id, choice.index, call.index)

    def _event(self, chunk: chunks.Chunk) -> bytes:
        return b"data: " + chunks.render(chunk, include_usage=self._prompt.valid.include_usage) + b"\n\n"

    def _hold(self, chunk: chunks.Chunk) -> None:
        held = _Held(chunk)
        self._held += 1
        if self._held > MAX_EVENTS_HELD:
            raise UpstreamError("protocol", "too many events held")
        for slot, text in enumerate(chunk.texts):
            channel = self._channel(text.choice, text.channel)
            channel.queue.append((held, slot))
            channel.fresh.append(text.text)
            self._chars += len(text.text)

    async def _flush(self, out: list[bytes]) -> None:
        """Give each guard what arrived for it since the last time: events that came together are judged together."""
        for channel in self._channels.values():
            if channel.fresh:
                text = "".join(channel.fresh)
                channel.fresh.clear()
                await self._feed(channel, text, out)

    def _channel(self, choice: int, name: str) -> _Channel:
        channel = self._channels.get((choice, name))
        if channel is None:
            if len(self._channels) >= MAX_CHANNELS or choice in self._finished:
                raise UpstreamError("protocol", "unexpected channel")
            arguments = name.endswith(":arguments")
            session = self._house.inspection.inspectors.moderator.open(Role.ASSISTANT)
            guard = StreamGuard(
                self._rules.outbound,
                [self._house.inspection.inspectors.scanner],
                session,
                None if arguments else self._prompt.restorer,
                self._findings,
                mode=StreamMode.STRICT if arguments else self._mode,
                readings=None if arguments else self._readings,
            )
            channel = self._channels[(choice, name)] = _Channel(guard)
        return channel

    async def _feed(self, channel: _Channel, text: str, out: list[bytes]) -> None:
        self._place(channel, channel.guard.feed(text), out)
        wanted = channel.guard.ner_request()
        if wanted is not None:
            self._place(channel, channel.guard.ner_result(await self._names(wanted[0]), wanted[1]), out)

    async def _names(self, text: str) -> list[Any]:
        ner = self._house.inspection.inspectors.ner
        if ner is None:
            raise InspectorUnavailable("no names detector is configured")
        return (await ner.detect([text], self._house.mono_s() + self._rules.outbound.deadline_s))[0]

    def _place(self, channel: _Channel, pieces: Sequence[Piece], out: list[bytes]) -> None:
        """Give committed text to the events it came from; let go every event that is complete."""
        queue = channel.queue
        for piece in pieces:
            length, text = piece.length, piece.text
            whole = len(text) == length
            while length and queue:
                held, slot = queue[0]
                take = min(length, held.left[slot])
                given = text[:take] if whole else text
                held.out[slot].append(given)
                text = text[take:] if whole else ""
                held.left[slot] -= take
                held.took += take
                length -= take
                if held.left[slot] == 0:
                    queue.popleft()
                    if not any(held.left):
                        self._release(held, out)
        if queue and queue[0][0].took >= SPLIT_AT and len(queue[0][0].left) == 1:
            held = queue[0][0]
            chunks.substitute(held.chunk, held.take_text())
            out.append(self._event(held.chunk))

    def _release(self, held: _Held, out: list[bytes]) -> None:
        self._held -= 1
        chunks.substitute(held.chunk, held.take_text())
        if not held.chunk.is_idle:
            out.append(self._event(held.chunk))

    async def _finish(self, choice: int, out: list[bytes]) -> None:
        """Judge and release what the channels of a choice still hold."""
        self._finished.add(choice)
        for (owner, name), channel in self._channels.items():
            if owner != choice:
                continue
            if name.endswith(":arguments") and channel.queue:
                await self._finish_arguments(channel, out)
                continue
            wanted = channel.guard.ner_request(final=True)
            if wanted is not None:
                channel.guard.ner_result(await self._names(wanted[0]), wanted[1], final=True)
            self._place(channel, channel.guard.finish(), out)

    async def _finish_arguments(self, channel: _Channel, out: list[bytes]) -> None:
        """Judge a tool call's arguments as the JSON document they are; they stay valid JSON, and no pseudonym is restored."""
        text = channel.guard.take()
        scope = Scope(self._prompt.valid.permit.subject.tenant, self._prompt.valid.permit.subject.subject_id.encode())
        deadline_s = self._house.mono_s() + self._rules.outbound.deadline_s
        segment = Segment(("arguments",), text, Role.ASSISTANT, Use.ARGUMENTS)
        result = await review(
            self._house.inspection, [segment], self._rules, Direction.OUTBOUND, scope, deadline_s, None, self._findings
        )
        if result.blocked:
            raise Blocked(result.blocked)
        self._place(channel, [Piece(len(text), result.texts.get(0, text))], out)

    async def _done(self, name: str, out: list[bytes]) -> None:
        await self._flush(out)
        for choice in {choice for choice, _ in self._channels} - self._finished:
            await self._finish(choice, out)
        self._end(name, out)

    def _end(self, name: str, out: list[bytes]) -> None:
        self._ended = True
        self._outcome.name = name
        valid = self._prompt.valid
        if valid.include_usage and self._template is not None:
            given = self._outcome.reported or (valid.input_tokens, self._chars // 4 + 1)
            out.append(self._event(chunks.usage_chunk(self._template, *given)))
        out.append(b"data: [DONE]\n\n")

    async def _cut(self, out: list[bytes]) -> None:
        """End a stream that broke its ceiling, as if the model had reached its length."""
        await self._flush(out)
        for choice in {choice for choice, _ in self._channels} - self._finished:
            await self._finish(choice, out)
            if self._template is not None:
                out.append(self._event(chunks.closing(self._template, [choice], "length")))
        self._end("cut", out)

    async def _blocked(self, blocked: Blocked, out: list[bytes]) -> None:
        """End with `content_filter`. What was released before the finding stays; nothing held leaves."""
        choices = sorted({choice for choice, _ in self._channels} - self._finished) or [0]
        if self._template is not None:
            ending = chunks.closing(self._template, choices, "content_filter")
            for choice in ending.body.choices:
                choice.content_filter_results = verdicts.filter_result(self._findings.scores, blocked.flagged)
            out.append(self._event(ending))
        self._end("blocked", out)


async def answer_locally(prompt: ScreenedRequest, house: House, exchange: Exchange, sink: Sink, headers: Headers) -> Outcome:
    """Answer what the gateway knows itself: which models the caller may use, and what its inspectors think of a text."""
    permit = prompt.valid.permit
    operation = permit.asked.operation
    outcome = Outcome()
    if operation is Operation.MODERATIONS:
        body = await _moderate(prompt, house, exchange)
    else:
        usable = permit.generation.usable_models(permit.subject, peer=permit.asked.peer, now_s=house.wall_s())
        if operation is Operation.MODELS_GET:
            if permit.asked.model not in usable:
                raise Refusal(DEPLOYMENT_NOT_FOUND)
            body = _model(permit.asked.model)
        else:
            body = {"object": "list", "data": [_model(name) for name in usable]}
    data = msgspec.json.encode(body)
    outcome.name = "finished"
    exchange.status = 200
    await sink.begin(
        200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data)), (b"cache-control", b"no-store"), *headers]
    )
    await sink.end(data)
    return outcome


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "gateway"}


async def _moderate(prompt: ScreenedRequest, house: House, exchange: Exchange) -> dict[str, Any]:
    permit = prompt.valid.permit
    rules = house.rules(permit.generation, permit.obligations.profile)
    scope = Scope(permit.subject.tenant, permit.subject.subject_id.encode())
    try:
        found, _ = await house.inspection.findings(
            prompt.valid.segments, rules, Direction.INBOUND, scope, house.mono_s() + rules.inbound.deadline_s
        )
    except TooDear as error:
        raise Refusal(INVALID_REQUEST, message="the texts take longer to inspect than is allowed", detail="inspection cost") from error
    except InspectorUnavailable as error:
        raise Refusal(INSPECTION_UNAVAILABLE, detail=str(error)) from error
    numeric = "moderation_scores" in permit.obligations.grants
    results = []
    for finding in found:
        categories, scores = house.categories(dict(finding.scores))
        if not numeric:
            scores = {name: 1.0 if categories[name] else 0.0 for name in scores}
        results.append({"flagged": any(categories.values()), "categories": categories, "category_scores": scores})
    return {"id": f"modr-{exchange.request_id}", "model": "gateway-local", "results": results}
