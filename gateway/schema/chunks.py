"""What may one event of a streamed answer hold, which channels does its text belong to, and how is it written with other text?

A channel is one growing text of one choice: `content`, `refusal`, `reasoning`, `tool:{i}:name`, `tool:{i}:arguments`. The guard reads
`Chunk.texts`, decides what may leave, and `substitute` puts exactly that in place of all text the chunk had; nothing of the original
remains but role, indices, ids in the form of ids, finish reason and numbers. A chunk may come to carry text of channels it did not
mention (a tail let go late), or none at all (all held back: `is_idle` then says that it need not be sent).

Log probabilities never pass in a stream: they would repeat text that is held back. Obfuscation is padding of the backend's and is
dropped; whoever writes events pads them anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.evidence import Operation
from gateway.schema.annotations import clean_filters, clean_offsets, clean_prompt_filters, clean_usage
from gateway.schema.answers import (
    MAX_CALLS,
    MAX_CHOICES,
    BackendError,
    Function,
    MalformedAnswer,
    ToolCall,
    decode,
    finish,
    function_name,
    moment,
    place,
    token,
)

MAX_CHUNK_BYTES = 1_048_576  # some backends send a whole answer, arguments and all, as one event

CONTENT = "content"
REFUSAL = "refusal"
REASONING = "reasoning"
PROSE = frozenset({CONTENT, REFUSAL, REASONING})  # channels a client may print one after the other


class Delta(msgspec.Struct):
    role: Any = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCall] | UnsetType | None = UNSET


class ChunkChoice(msgspec.Struct):
    index: int = 0
    delta: Delta | UnsetType | None = UNSET
    text: str | UnsetType = UNSET  # completions
    finish_reason: Any = UNSET
    content_filter_results: Any = UNSET
    content_filter_offsets: Any = UNSET


class Body(msgspec.Struct):
    """The wire form. Decoded as sent, written as cleaned: a field that is unset is not written."""

    id: Any = UNSET
    object: Any = UNSET
    created: Any = UNSET
    model: Any = UNSET
    choices: list[ChunkChoice] = []
    usage: Any = UNSET
    system_fingerprint: Any = UNSET
    prompt_filter_results: Any = UNSET
    error: Any = UNSET


class ChannelText(msgspec.Struct, frozen=True):
    """A piece of one channel. `channel` is unique within a choice."""

    choice: int
    channel: str
    text: str


class Chunk:
    """One event, cleaned. `texts` in the order of the event; empty pieces are left out."""

    __slots__ = ("body", "operation", "texts", "usage")

    def __init__(self, operation: Operation, body: Body, texts: list[ChannelText], usage: dict[str, Any] | None) -> None:
        self.operation = operation
        self.body = body
        self.texts = texts
        self.usage = usage

    @property
    def finish_reasons(self) -> dict[int, str]:
        """Return the finish reason of each choice that ends with this chunk."""
        return {choice.index: choice.finish_reason for choice in self.body.choices if isinstance(choice.finish_reason, str)}

    @property
    def is_idle(self) -> bool:
        """Return whether the chunk now says nothing: no text, role, call, finish reason or annotation, and is not the usage chunk."""
        if self.texts or self.body.prompt_filter_results is not UNSET:
            return False
        # Some backends count in every chunk; only the last of them, without choices, is there for that.
        if not self.body.choices and self.usage is not None:
            return False
        return all(_says_nothing(choice) for choice in self.body.choices)


_DECODER = msgspec.json.Decoder(Body)
_ENCODER = msgspec.json.Encoder()
_OBJECTS = {Operation.CHAT: "chat.completion.chunk", Operation.COMPLETIONS: "text_completion"}
_TOOL = re.compile(r"tool:([0-9]{1,3}):(name|arguments)", re.ASCII)


def read(data: bytes) -> Body:
    """Return an event as it was sent, nothing of it judged. Raises `MalformedAnswer`."""
    body: Body = decode(_DECODER, data, MAX_CHUNK_BYTES)
    return body


def parse_chunk(operation: Operation, data: bytes, *, model: str) -> Chunk:
    """Return the event's chunk with the client-facing `model`. Raises `MalformedAnswer`, and `BackendError` for an error event."""
    return clean(operation, read(data), model=model)


def clean(operation: Operation, body: Body, *, model: str) -> Chunk:
    """Return the chunk an event holds. Raises as `parse_chunk` does."""
    if body.error is not UNSET and body.error is not None:
        raise BackendError("error")
    body.error = UNSET
    body.id = token(body.id, "chatcmpl-0")
    body.object = _OBJECTS[operation]
    body.created = moment(body.created)
    body.model = model
    usage = None
    if body.usage is not UNSET:
        usage = clean_usage(body.usage)
        body.usage = usage
    if body.system_fingerprint is not UNSET:
        body.system_fingerprint = token(body.system_fingerprint, "") or UNSET
    if body.prompt_filter_results is not UNSET:
        body.prompt_filter_results = _or_unset(clean_prompt_filters(body.prompt_filter_results))
    texts: list[ChannelText] = []
    choices = body.choices
    if len(choices) > MAX_CHOICES:
        raise MalformedAnswer("choices")
    for choice in choices:
        _clean_choice(choice, operation is Operation.CHAT, texts)
    if len(choices) > 1 and len({choice.index for choice in choices}) != len(choices):
        raise MalformedAnswer("two choices of one index")
    return Chunk(operation, body, texts, usage)


def plain_text(operation: Operation, body: Body) -> tuple[int, str] | None:
    """Return (choice, text) of an event that holds a piece of content and nothing else that could leave; None for any other.

    What is left out of such an event by `Mould` is what `clean` would have dropped or overwritten.
    """
    choices = body.choices
    if len(choices) != 1 or (body.usage is not UNSET and body.usage is not None) or body.prompt_filter_results is not UNSET:
        return None
    if body.error is not UNSET and body.error is not None:
        return None
    choice = choices[0]
    if (
        choice.finish_reason is not None
        or not 0 <= choice.index < MAX_CHOICES
        or choice.content_filter_results is not UNSET
        or choice.content_filter_offsets is not UNSET
    ):
        return None
    if operation is not Operation.CHAT:
        return (choice.index, choice.text) if choice.text else None
    delta = choice.delta
    if not isinstance(delta, Delta) or not delta.content or delta.role is not UNSET or delta.tool_calls or delta.refusal:
        return None
    return None if delta.reasoning_content else (choice.index, delta.content)


class Mould:
    """Writes the events of one choice that hold content and nothing else: everything but the text is the same each time."""

    __slots__ = ("_after", "_before")

    def __init__(self, like: Chunk, choice: int, *, include_usage: bool) -> None:
        chunk = blank(like)
        made = ChunkChoice(index=choice, finish_reason=None)
        if like.operation is Operation.CHAT:
            made.delta = Delta(content="\x00")
        else:
            made.text = "\x00"
        chunk.body.choices.append(made)
        before, _, after = render(chunk, include_usage=include_usage).partition(b'"\\u0000"')
        self._before, self._after = b"data: " + before, after + b"\n\n"

    def event(self, text: str) -> bytes:
        """Return the whole event, line ends included."""
        return self._before + _ENCODER.encode(text) + self._after


def render(chunk: Chunk, *, include_usage: bool = False) -> bytes:
    """Write the chunk as JSON, the payload of one `data:` line. `include_usage`: the client asked for usage."""
    if not include_usage:
        chunk.body.usage = UNSET
    elif chunk.body.usage is UNSET:
        chunk.body.usage = None
    return _ENCODER.encode(chunk.body)


def _or_unset(value: Any) -> Any:
    return UNSET if value is None else value


def _clean_choice(choice: ChunkChoice, chat: bool, texts: list[ChannelText]) -> None:
    index = choice.index
    if not 0 <= index < MAX_CHOICES:
        raise MalformedAnswer("index")
    if choice.finish_reason is not UNSET and choice.finish_reason is not None:
        choice.finish_reason = finish(choice.finish_reason)
    if choice.content_filter_results is not UNSET:
        choice.content_filter_results = _or_unset(clean_filters(choice.content_filter_results))
    if choice.content_filter_offsets is not UNSET:
        choice.content_filter_offsets = _or_unset(clean_offsets(choice.content_filter_offsets))
    if not chat:
        choice.delta = UNSET
        if choice.text:
            texts.append(ChannelText(index, CONTENT, choice.text))
        return
    choice.text = UNSET
    delta = choice.delta
    if isinstance(delta, Delta):
        if delta.role is not UNSET:
            delta.role = "assistant"
        if delta.content:
            texts.append(ChannelText(index, CONTENT, delta.content))
        if delta.refusal:
            texts.append(ChannelText(index, REFUSAL, delta.refusal))
        if delta.reasoning_content:
            texts.append(ChannelText(index, REASONING, delta.reasoning_content))
        if delta.tool_calls:
            _clean_calls(delta.tool_calls, index, texts)
    elif delta is None:
        choice.delta = UNSET


def _clean_calls(calls: list[ToolCall], choice: int, texts: list[ChannelText]) -> None:
    if len(calls) > MAX_CALLS:
        raise MalformedAnswer("tool_calls")
    for at, call in enumerate(calls):
        number = call.index = place(at if call.index is UNSET else call.index, MAX_CALLS)
        if call.id is not UNSET:
            call.id = token(call.id, "") or UNSET
        if call.type is not UNSET:
            call.type = "function"
        function = call.function
        if isinstance(function, Function):
            if function.name:
                texts.append(ChannelText(choice, f"tool:{number}:name", function_name(function.name)))
            if function.arguments:
                texts.append(ChannelText(choice, f"tool:{number}:arguments", function.arguments))
    if len(calls) > 1 and len({call.index for call in calls}) != len(calls):
        raise MalformedAnswer("two tool calls of one index")


def _says_nothing(choice: ChunkChoice) -> bool:
    if isinstance(choice.finish_reason, str) or choice.content_filter_results is not UNSET or choice.content_filter_offsets is not UNSET:
        return False
    delta = choice.delta
    if not isinstance(delta, Delta):
        return True
    return delta.role is UNSET and not delta.tool_calls


# --- other text in place of the chunk's own -------------------------------------------------------------------------------


def substitute(chunk: Chunk, texts: Iterable[ChannelText]) -> None:
    """Let the chunk carry exactly `texts` (at most one a channel) and none of its own."""
    given = list(texts)
    choices = chunk.body.choices
    if len(given) == 1 and len(choices) == 1 and len(chunk.texts) == 1 and given[0].channel == CONTENT == chunk.texts[0].channel:
        # The common event: a piece of content for a piece of content.
        only, text = choices[0], given[0]
        if only.index == text.choice:
            if isinstance(only.delta, Delta):
                only.delta.content = text.text
            else:
                only.text = text.text
            chunk.texts = given
            return
    for choice in choices:
        _empty(choice)
    by_index = {choice.index: choice for choice in choices}
    for text in given:
        target = by_index.get(text.choice)
        if target is None:
            target = by_index[text.choice] = ChunkChoice(index=text.choice, finish_reason=None)
            choices.append(target)
        _put(target, chunk.operation, text)
    for choice in choices:
        _tidy(choice)
    chunk.texts = given


def _empty(choice: ChunkChoice) -> None:
    if isinstance(choice.text, str):
        choice.text = ""
    delta = choice.delta
    if isinstance(delta, Delta):
        # An empty or null text beside a role is the convention's opening, and stays.
        delta.content = "" if delta.content else delta.content
        delta.refusal = UNSET if delta.refusal else delta.refusal
        delta.reasoning_content = UNSET if delta.reasoning_content else delta.reasoning_content
        for call in delta.tool_calls or ():
            if isinstance(call.function, Function):
                call.function.name = UNSET
                call.function.arguments = UNSET


def _put(choice: ChunkChoice, operation: Operation, text: ChannelText) -> None:
    if operation is Operation.COMPLETIONS:
        choice.text = text.text
        return
    delta = choice.delta
    if not isinstance(delta, Delta):
        delta = choice.delta = Delta()
    if text.channel == CONTENT:
        delta.content = text.text
    elif text.channel == REFUSAL:
        delta.refusal = text.text
    elif text.channel == REASONING:
        delta.reasoning_content = text.text
    else:
        found = _TOOL.fullmatch(text.channel)
        if found is None:
            raise ValueError("there is no such channel")
        function = _function(delta, int(found[1]))
        if found[2] == "name":
            function.name = text.text
        else:
            function.arguments = text.text


def _function(delta: Delta, number: int) -> Function:
    if not isinstance(delta.tool_calls, list):
        delta.tool_calls = []
    call = next((one for one in delta.tool_calls if one.index == number), None)
    if call is None:
        call = ToolCall(index=number)
        delta.tool_calls.append(call)
    if not isinstance(call.function, Function):
        call.function = Function()
    return call.function


def _tidy(choice: ChunkChoice) -> None:
    """Take out tool calls that say nothing any more: neither id nor text."""
    delta = choice.delta
    if isinstance(delta, Delta) and isinstance(delta.tool_calls, list):
        kept = []
        for call in delta.tool_calls:
            function = call.function
            if isinstance(function, Function) and function.name is UNSET and function.arguments is UNSET:
                call.function = UNSET
            if isinstance(call.id, str) or isinstance(call.function, Function):
                kept.append(call)
        delta.tool_calls = kept or UNSET


# --- chunks of our own ----------------------------------------------------------------------------------------------------


def blank(like: Chunk) -> Chunk:
    """Return a chunk of the same answer that says nothing: for a tail, or an end of our own."""
    body = Body(id=like.body.id, object=like.body.object, created=like.body.created, model=like.body.model, choices=[])
    if isinstance(like.body.system_fingerprint, str):
        body.system_fingerprint = like.body.system_fingerprint
    return Chunk(like.operation, body, [], None)


def closing(like: Chunk, choices: Iterable[int], reason: str) -> Chunk:
    """Return a chunk that ends the choices given, without text."""
    chunk = blank(like)
    for index in choices:
        ended = ChunkChoice(index=place(index, MAX_CHOICES), finish_reason=finish(reason))
        if like.operation is Operation.CHAT:
            ended.delta = Delta()
        else:
            ended.text = ""
        chunk.body.choices.append(ended)
    return chunk


def usage_chunk(like: Chunk, input_tokens: int, output_tokens: int) -> Chunk:
    """Return the last chunk of a stream whose client asked for usage."""
    chunk = blank(like)
    total = input_tokens + output_tokens
    chunk.usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": total}
    chunk.body.usage = chunk.usage
    return chunk


def opening(operation: Operation, answer_id: str, created: int, model: str) -> Chunk:
    """Return a chunk to be `like` when the backend has not sent one."""
    body = Body(id=token(answer_id, "chatcmpl-0"), object=_OBJECTS[operation], created=moment(created), model=model, choices=[])
    return Chunk(operation, body, [], None)
