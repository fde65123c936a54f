"""How does a streamed answer reach the client: event by event, behind the guards of its channels?

Events that come within `GATHER_S` of each other are judged and written together; `gateway.stream_events` says where each keeps its place,
`gateway.stream_together` what is read over several channels. On any failure what the guards still hold is dropped, never flushed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from gateway.content import verdicts
from gateway.content.cascade import FLAGGED
from gateway.content.inspect import Pace, Scope
from gateway.content.pseudonyms import Pseudonyms
from gateway.content.review import review
from gateway.content.rules import Action, Rules
from gateway.content.seam import BORDER
from gateway.content.second_opinion import Blend
from gateway.content.stream import ASYNC_BOUND, MAX_STEP, Blocked, Findings, Piece, Readings, StreamGuard, behind, releasing
from gateway.evidence import Direction, Role, ScreenedRequest, Segment, Span, StreamMode, Use
from gateway.exchange import Exchange
from gateway.house import House
from gateway.outcome import Headers, Outcome, Sink, answer_id, call_id, reported
from gateway.ports import InspectorUnavailable, ModerationSession, UpstreamError
from gateway.schema import chunks
from gateway.stream_events import SPLIT_AT, Channel, Held, Plain, Slot, Waiting
from gateway.stream_together import Together
from gateway.upstream.answer import Answer
from gateway.upstream.sse import SseParser

CHARS_PER_TOKEN = 6  # no tokenizer in use yields longer tokens on average: a stream over ceiling x 6 has broken its limit
MAX_CHANNELS = 256
STEP = MAX_STEP // 2  # code points of a channel after which names and second opinions are waited for
GATHER_S = 0.03  # a reader sees no difference, a core half the work


class Stream(Waiting):
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
        # SECURITY: what a remote moderator judges is held until its verdict, whatever a policy asks for.
        self._mode = StreamMode.STRICT if rules.outbound.cloud is not None else prompt.valid.permit.obligations.stream_mode
        self._degraded = False
        self._unheard = self._unnamed = False  # the slower model, or the names detector, was away once, and policy lets that pass
        self._findings = Findings()
        self._channels: dict[tuple[int, str], Channel] = {}
        self._waiting: dict[int, str] = {}  # choices that ended while others had hardly begun, with their finish reasons
        self._parser = SseParser()
        self._chars = 0
        self._held = 0
        self._finished: set[int] = set()
        self._called: dict[tuple[int, str], str] = {}  # names of tools, in their choices
        self._template: chunks.Chunk | None = None  # what events of our own are like, once the backend has sent one
        self._ended = False
        self._named = ""  # how the stream ends, once its last byte is written
        inspectors = house.inspection.inspectors
        self._readings = Readings(
            inspectors.views, inspectors.smuggling, inspectors.language, lambda text: inspectors.moderator.score(text, Role.ASSISTANT)
        )
        self._together = Together(rules.outbound, inspectors, self._readings, self._findings)
        self._include_usage = prompt.valid.include_usage
        asked = prompt.valid.body
        prompts = asked.get("prompt")
        self._id = answer_id(exchange)
        self._created = int(exchange.started_s)
        self._like = chunks.opening(self._operation, self._id, self._created, self._model)
        self._allowance = (prompt.valid.output_tokens + SPLIT_AT) * CHARS_PER_TOKEN
        self._choices = int(asked.get("n", 1)) * (len(prompts) if isinstance(prompts, list) else 1)

    async def run(self, headers: Headers) -> None:
        self._exchange.status = 200
        await self._sink.begin(200, [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"), *headers])
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
            self._outcome.name = self._named  # CRASH before this: it was not all handed over, so it did not end so
        finally:
            for channel in self._channels.values():
                channel.guard.drop()
                channel.forget()
            self._exchange.stream_mode = self._mode.value
            self._exchange.released_chars = sum(channel.guard.released for channel in self._channels.values())
            self._outcome.output_chars = self._chars
            self._outcome.counted_output = self._chars // 4 + 1
            self._outcome.verdict = verdicts.verdict(self._findings, self._house.inspection.names, degraded=self._degraded)

    def _over(self) -> bool:
        return self._ended

    async def _send(self, out: list[bytes]) -> None:
        data = b"".join(out)
        await self._sink.write(data)
        self._outcome.digest.update(data)  # after it was handed over: the record stands for what was sent

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
            await self._hold(chunk, out)
        if ends or not chunk.texts:
            await self._flush(out)
        if self._choices > 1 and (ends or self._waiting):
            await self._end_together(chunk, ends, out)
            return
        for index in ends:
            await self._finish(index, out)
        if chunk.texts and ends:
            out += [self._event(chunks.closing(chunk, [index], reason)) for index, reason in ends.items()]
        elif not chunk.texts and chunk.body.choices and not chunk.is_idle:
            out.append(self._event(chunk))

    async def _end_together(self, chunk: chunks.Chunk, ends: Mapping[int, str], out: list[bytes]) -> None:
        """End choices once every other has ended or shown its first words: a client that prints them in turn joins their ends."""
        self._waiting.update(ends)
        if not chunk.texts:
            for choice in chunk.body.choices:
                choice.finish_reason = None
            if not chunk.is_idle:
                out.append(self._event(chunk))
        for index in range(self._choices):
            if index not in self._waiting and index not in self._finished and not self._together.begun(index):
                return
        await self._end_waiting(out)

    async def _end_waiting(self, out: list[bytes]) -> None:
        for index, reason in sorted(self._waiting.items()):
            await self._finish(index, out)
            out.append(self._event(chunks.closing(self._like, [index], reason)))
        self._waiting.clear()

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
        if channel.watched:
            await self._join(choice, channel, text, out)
        self._note_held()
        channel.queue.append(Plain(channel.mould, size))
        channel.fresh.append(text)
        self._chars += size

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

    async def _hold(self, chunk: chunks.Chunk, out: list[bytes]) -> None:
        held = Held(chunk)
        self._note_held()
        for slot, text in enumerate(chunk.texts):
            channel = self._channel(text.choice, text.channel)
            if channel.watched:
                await self._join(text.choice, channel, text.text, out)
            channel.queue.append(Slot(held, slot))
            channel.fresh.append(text.text)
            self._chars += len(text.text)

    async def _flush(self, out: list[bytes]) -> None:
        """Give each guard what arrived for it since the last time: events that came together are judged together."""
        if self._together.open:
            self._together.read()
        for channel in self._channels.values():
            if channel.fresh or channel.stirred:
                text = "".join(channel.fresh)
                channel.fresh.clear()
                channel.stirred = False
                if len(channel.head) < BORDER:
                    channel.head += text[: BORDER - len(channel.head)]
                await self._feed(channel, text, out)

    async def _join(self, choice: int, channel: Channel, text: str, out: list[bytes]) -> None:
        """Let text that follows another channel's be read together with it."""
        if not self._together.speaks(choice, channel):
            await self._flush(out)
            self._together.change(choice, channel)
        self._together.take(choice, channel, text)

    def _channel(self, choice: int, name: str) -> Channel:
        channel = self._channels.get((choice, name))
        if channel is None:
            if len(self._channels) >= MAX_CHANNELS or choice in self._finished:
                raise UpstreamError("protocol", "unexpected channel")
            arguments = name.endswith(":arguments")
            if self._mode is StreamMode.ASYNC and not arguments:
                channel = self._at_once(name)
            else:
                channel = Channel(name, self._guard(name, StreamMode.STRICT if arguments else self._mode), None)
            self._channels[(choice, name)] = channel
            if name in chunks.PROSE:
                self._together.add(choice, channel)
        return channel

    def _guard(self, name: str, mode: StreamMode) -> StreamGuard:
        arguments = name.endswith(":arguments")
        inspectors = self._house.inspection.inspectors
        rules = self._rules.outbound
        return StreamGuard(
            rules,
            [inspectors.scanner],
            None if mode is StreamMode.STRICT else self._session,  # what is judged whole is scored there
            None if arguments else self._prompt.restorer,
            self._findings,
            mode=mode,
            readings=None if arguments else self._readings,
            label=name.endswith(":name"),
            blend=None if mode is StreamMode.STRICT else self._blend(name),
        )

    def _session(self) -> ModerationSession:
        return self._house.inspection.inspectors.moderator.open(Role.ASSISTANT)

    def _blend(self, name: str) -> Blend | None:
        """Return how two models' scores are joined where policy asks the second. Raises `InspectorUnavailable` where there is none."""
        rules, inspectors = self._rules.outbound, self._house.inspection.inspectors
        if not rules.second_opinion or name not in chunks.PROSE or not (rules.block_at or rules.record_at):
            return None
        if inspectors.blend is None:
            self._unheard = self._goes_on(InspectorUnavailable("no second opinion is configured"))
        return inspectors.blend

    def _at_once(self, name: str) -> Channel:
        """Return a channel whose text leaves before it is judged. See the theory of operation of `gateway.content.stream`."""
        inspectors = self._house.inspection.inspectors
        rules = self._rules.outbound
        secrets = [inspectors.secrets or inspectors.scanner]
        first = StreamGuard(
            releasing(rules), secrets, None, self._prompt.restorer, self._findings, mode=StreamMode.WINDOW, label=name.endswith(":name")
        )
        second = StreamGuard(
            behind(rules),
            [inspectors.scanner],
            self._session,
            None,
            self._findings,
            mode=StreamMode.WINDOW,
            readings=self._readings,
            unseen=True,
            blend=self._blend(name),
        )
        return Channel(name, first, second)

    async def _judge_behind(self, channel: Channel, judge: StreamGuard, text: str, *, final: bool = False) -> None:
        """Let the second guard read on; names and second opinions are asked for while the text leaves. Raises `Blocked`."""
        judge.feed(text)
        while True:
            names, doubts = judge.ner_request(final=final), judge.opinion_request(final=final)
            if names is not None:
                take_names = partial(judge.ner_result, offset=names[1], final=final)
                channel.asked.append((asyncio.ensure_future(self._names(names[0])), take_names))
            if doubts:
                channel.asked.append((asyncio.ensure_future(self._opinions(doubts)), judge.opinion_result))
            if not channel.asked or not (final or channel.asked[0][0].done() or judge.held > ASYNC_BOUND):
                break
            task, take = channel.asked.popleft()
            take(await task)
        if final:
            judge.finish()
        channel.guard.hold(judge.released + ASYNC_BOUND)

    async def _feed(self, channel: Channel, text: str, out: list[bytes]) -> None:
        """Take text in steps, whoever is asked in between: a large event is not mistaken for text that cannot be released."""
        for at in range(0, max(1, len(text)), STEP):
            if at:
                await asyncio.sleep(0)  # others have their turn
            await self._feed_step(channel, text[at : at + STEP], out)

    async def _feed_step(self, channel: Channel, text: str, out: list[bytes]) -> None:
        guard = channel.guard
        if channel.behind is not None:
            await self._judge_behind(channel, channel.behind, text)
        self._place(channel, guard.feed(text), out)
        await self._ask(channel, out)

    async def _ask(self, channel: Channel, out: list[bytes], *, final: bool = False) -> None:
        """Ask the slower models what a guard wants to know of them. Raises `Blocked`."""
        guard = channel.guard
        doubts = guard.opinion_request(final=final)
        if doubts:
            self._place(channel, guard.opinion_result(await self._opinions(doubts), final=final), out)
        wanted = guard.ner_request(final=final)
        if wanted is not None:
            self._place(channel, guard.ner_result(await self._names(wanted[0]), wanted[1], final=final), out)

    async def _opinions(self, texts: list[str]) -> list[tuple[dict[str, float], bool]]:
        """Ask the slower model; no opinions where it is away and policy lets that pass. Raises `InspectorUnavailable`."""
        opinion = self._house.inspection.inspectors.opinion
        if not self._unheard:
            try:
                if opinion is None:
                    raise InspectorUnavailable("no second opinion is configured")
                return await opinion.judge(texts, [Role.ASSISTANT] * len(texts), self._deadline_s())
            except InspectorUnavailable as error:
                self._unheard = self._goes_on(error)
        return [({}, False)] * len(texts)

    async def _names(self, text: str) -> Sequence[Span]:
        """Look for names; none where the detector is away and policy lets that pass. Raises `InspectorUnavailable`."""
        ner = self._house.inspection.inspectors.ner
        if not self._unnamed:
            try:
                if ner is None:
                    raise InspectorUnavailable("no names detector is configured")
                return (await ner.detect([text], self._deadline_s()))[0]
            except InspectorUnavailable as error:
                self._unnamed = self._goes_on(error)
        return ()

    def _goes_on(self, error: InspectorUnavailable) -> bool:
        """Note that an inspector is away, where policy lets that pass: it is not asked again in this stream. Raises the error elsewhere."""
        if self._rules.outbound.on_error is Action.BLOCK:
            raise error
        self._degraded = True
        if self._rules.outbound.on_error is Action.RECORD:
            self._findings.note(Action.RECORD, FLAGGED)
        return True

    async def _finish(self, choice: int, out: list[bytes]) -> None:
        """Judge and release what the channels of a choice still hold."""
        if self._together.open:
            self._together.read(choice)
        borders = self._together.borders(choice)
        if borders:
            windows = [window for _, _, window in borders]
            found, _ = await self._house.inspection.findings(windows, self._rules, Direction.OUTBOUND, self._scope(), self._deadline_s())
            self._together.judge(borders, found)
        await self._judge_names(choice)
        self._finished.add(choice)
        for (owner, name), channel in self._channels.items():
            if owner != choice:
                continue
            if name.endswith(":arguments") and channel.queue:
                await self._finish_whole(channel, out, Use.ARGUMENTS)
                continue
            if self._mode is StreamMode.STRICT and channel.queue:
                await self._finish_whole(channel, out, Use.LABEL if name.endswith(":name") else Use.CONTENT)
                continue
            if channel.behind is not None:
                await self._judge_behind(channel, channel.behind, "", final=True)
            await self._ask(channel, out, final=True)
            self._place(channel, channel.guard.finish(), out)

    async def _judge_names(self, choice: int) -> None:
        """Judge the names of all tools called so far together, as those of a whole answer are. INVARIANT: none of this choice has left."""
        for (owner, name), channel in self._channels.items():
            if owner == choice and name.endswith(":name"):
                self._called[(owner, name)] = "".join(channel.guard.recent(channel.guard.received))
        if len(self._called) < 2 or not any(owner == choice for owner, _ in self._called):
            return
        names = [Segment(("tool_calls", at, "name"), text, Role.ASSISTANT, Use.LABEL) for at, text in enumerate(self._called.values())]
        await self._review(names)

    async def _review(self, segments: list[Segment], restorer: Pseudonyms | None = None) -> dict[int, str]:
        """Judge whole texts; return those that become others. Raises `Blocked`."""
        given = self._house.inspection, segments, self._rules, Direction.OUTBOUND, self._scope(), self._deadline_s()
        result = await review(*given, None, self._findings, restorer=restorer)
        self._degraded |= result.degraded
        if result.blocked:
            raise Blocked(result.blocked)
        return result.texts

    def _scope(self) -> Scope:
        return Scope.of(self._prompt.valid.permit.subject)

    def _deadline_s(self) -> float:
        return self._house.mono_s() + self._rules.outbound.deadline_s

    async def _finish_whole(self, channel: Channel, out: list[bytes], use: Use) -> None:
        """Judge all that a channel received at once, as a whole answer is: `strict` text, or a tool call's arguments as the JSON they are.

        Arguments stay valid JSON, and no pseudonym is restored in them.
        """
        length = channel.guard.held
        text = channel.guard.take()
        restorer = self._prompt.restorer if use is Use.CONTENT else None
        given = (await self._review([Segment((use.value,), text, Role.ASSISTANT, use)], restorer)).get(0)
        if given is None:
            given = text if restorer is None else await restorer.restore(text, Pace(self._deadline_s()).breathe)
        self._place(channel, [Piece(length, given)], out)

    async def _done(self, name: str, out: list[bytes]) -> None:
        await self._flush(out)
        await self._end_waiting(out)
        for choice in {choice for choice, _ in self._channels} - self._finished:
            await self._finish(choice, out)
        self._end(name, out)

    def _end(self, name: str, out: list[bytes]) -> None:
        self._ended = True
        self._named = name
        valid = self._prompt.valid
        if valid.include_usage and self._template is not None:
            given = self._outcome.reported or (valid.input_tokens, self._chars // 4 + 1)
            out.append(self._event(chunks.usage_chunk(self._template, *given)))
        out.append(b"data: [DONE]\n\n")

    async def _cut(self, out: list[bytes]) -> None:
        """End a stream that broke its ceiling, as if the model had reached its length."""
        await self._flush(out)
        await self._end_waiting(out)
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
