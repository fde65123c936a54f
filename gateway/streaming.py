"""How does a streamed answer reach the client: event by event, behind the guards of its channels?

Each received event keeps its place: it leaves when every text in it has been committed by its channel's guard, so indices and
sizes stay as the backend made them. Events that come within `GATHER_S` of each other are judged and written together. On any
failure what the guards still hold is dropped, never flushed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.content import verdicts
from gateway.content.inspect import Scope
from gateway.content.review import review
from gateway.content.rules import Rules
from gateway.content.stream import Blocked, Findings, Piece, Readings, StreamGuard
from gateway.evidence import Direction, Role, ScreenedRequest, Segment, StreamMode, Use
from gateway.exchange import Exchange
from gateway.house import House
from gateway.outcome import Headers, Outcome, Sink, answer_id, call_id, reported
from gateway.ports import InspectorUnavailable, UpstreamError
from gateway.schema import chunks
from gateway.upstream.answer import Answer
from gateway.upstream.sse import SseParser

MAX_EVENTS_HELD = 100_000
CHARS_PER_TOKEN = 6  # no tokenizer in use yields longer tokens on average: a stream over ceiling x 6 has broken its limit
MAX_CHANNELS = 256
GATHER_S = 0.03  # a reader sees no difference, a core half the work
SPLIT_AT = 64  # code points: a larger event whose head is committed is not kept waiting for its last word


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


class _Slot:
    """One text of a received event that holds more than a piece of content."""

    __slots__ = ("at", "held")

    def __init__(self, held: _Held, at: int) -> None:
        self.held = held
        self.at = at


class _Plain:
    """A received event that holds a piece of content and nothing else, as nearly all do: what is written is known but for the text."""

    __slots__ = ("given", "left", "mould", "took")

    def __init__(self, mould: chunks.Mould, length: int) -> None:
        self.mould = mould
        self.left = length  # code points still uncommitted
        self.given = ""  # what stands in place of those that are
        self.took = 0


class _Channel:
    """One guarded text of the stream with the events that wait on it, in order."""

    __slots__ = ("fresh", "guard", "mould", "queue")

    def __init__(self, guard: StreamGuard) -> None:
        self.guard = guard
        self.fresh: list[str] = []
        self.queue: deque[_Plain | _Slot] = deque()
        self.mould: chunks.Mould | None = None


class Stream:
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
        self._template: chunks.Chunk | None = None  # what events of our own are like, once the backend has sent one
        self._ended = False
        inspectors = house.inspection.inspectors
        self._readings = Readings(
            inspectors.views, inspectors.smuggling, inspectors.language, lambda text: inspectors.moderator.score(text, Role.ASSISTANT)
        )
        asked = prompt.valid.body
        prompts = asked.get("prompt")
        self._id = answer_id(exchange)
        self._created = int(exchange.started_s)
        self._like = chunks.opening(self._operation, self._id, self._created, self._model)
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
                    await self._answer.response.rest(GATHER_S)
            if not self._over():
                self._parser.finish()  # a fault behind the last whole event
                raise UpstreamError("body", "the stream ended without [DONE]")
            await self._sink.end()
        finally:
            for channel in self._channels.values():
                channel.guard.drop()
            self._outcome.output_chars = self._chars
            self._outcome.counted_output = self._chars // 4 + 1
            self._outcome.verdict = verdicts.verdict(self._findings, self._house.inspection.names)

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
        self._template = self._like
        body = chunks.read(data)
        plain = chunks.plain_text(self._operation, body)
        if plain is not None:
            await self._take_plain(*plain, out)
            return
        chunk = chunks.clean(self._operation, body, model=self._model)
        if chunk.usage is not None:
            self._outcome.reported = reported(chunk.usage) or self._outcome.reported
        if any(choice.index >= self._choices for choice in chunk.body.choices):
            raise UpstreamError("protocol", "a choice nobody asked for")
        self._mint(chunk)
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

    async def _take_plain(self, choice: int, text: str, out: list[bytes]) -> None:
        if choice >= self._choices:
            raise UpstreamError("protocol", "a choice nobody asked for")
        size = len(text)
        if self._chars + size > self._allowance:
            await self._cut(out)
            return
        channel = self._channel(choice, chunks.CONTENT)
        if channel.mould is None:
            channel.mould = chunks.Mould(self._like, choice, include_usage=self._prompt.valid.include_usage)
        self._note_held()
        channel.queue.append(_Plain(channel.mould, size))
        channel.fresh.append(text)
        self._chars += size

    def _note_held(self) -> None:
        self._held += 1
        if self._held > MAX_EVENTS_HELD:
            raise UpstreamError("protocol", "too many events held")

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
        self._note_held()
        for slot, text in enumerate(chunk.texts):
            channel = self._channel(text.choice, text.channel)
            channel.queue.append(_Slot(held, slot))
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
            verbatim = len(text) == length  # else a replacement, which the first of its events bears whole
            at = 0
            while length and queue:
                event = queue[0]
                left = event.left if isinstance(event, _Plain) else event.held.left[event.at]
                take = left if left < length else length
                if verbatim:
                    given = text[at : at + take]
                else:
                    given, text = text, ""
                at += take
                length -= take
                self._give(event, take, given, out)
                if take == left:
                    queue.popleft()
        if queue:
            self._split(queue[0], out)

    def _give(self, event: _Plain | _Slot, take: int, given: str, out: list[bytes]) -> None:
        """Note that `take` code points of an event are committed and become `given`; write it once it is whole."""
        if isinstance(event, _Plain):
            event.left -= take
            event.took += take
            if event.given:
                given = event.given + given
            if event.left:
                event.given = given
                return
            self._held -= 1
            if given:
                out.append(event.mould.event(given))
            return
        held = event.held
        held.out[event.at].append(given)
        held.left[event.at] -= take
        held.took += take
        if not any(held.left):
            self._release(held, out)

    def _split(self, event: _Plain | _Slot, out: list[bytes]) -> None:
        """Write the committed head of a large event."""
        if isinstance(event, _Plain):
            if event.took >= SPLIT_AT and event.given:
                out.append(event.mould.event(event.given))
                event.given = ""
                event.took = 0
            return
        held = event.held
        if held.took >= SPLIT_AT and len(held.left) == 1:
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
