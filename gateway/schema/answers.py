"""What may an answer hold on its way to the client, and where is the text in it? Whole answers here, stream chunks in `chunks`.

A backend is not trusted to send only what it should. Its answer is read into a closed shape and written anew: what is not named
here does not exist any more. Every string that remains is one of three things: text, which is a segment or a channel and gets
inspected; a word of a closed set; or a token whose form leaves no room for text. `SHAPES` says which is which, and a test plants a
text at every place.
"""

from __future__ import annotations

import array
import binascii
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.evidence import Operation, Role, Segment, Use
from gateway.refusals import Refusal
from gateway.schema import strict_json
from gateway.schema.annotations import clean_filters, clean_logprobs, clean_prompt_filters, clean_usage
from gateway.schema.operations import plain
from gateway.schema.operations.spec import Spec

MAX_ANSWER_BYTES = 33_554_432  # embeddings of 2,048 inputs with 3,072 dimensions would be larger; they are asked for in parts
MAX_CHOICES = 128
MAX_CALLS = 128
MAX_INDEX = 1_000_000
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}", re.ASCII)
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_FINISHES = frozenset({"stop", "length", "tool_calls", "content_filter"})
_MAX_TIME = 2**40
# Text read as 32-bit floats gives numbers far outside this, so that a vector cannot be a letter.
_MAX_COMPONENT = 1e6


class MalformedAnswer(ValueError):
    """The backend's answer is not what its operation answers with. The text names a place in our shape, never its content."""


class BackendError(MalformedAnswer):
    """The backend sent an error in place of an answer or a chunk; its words are not passed on."""


# --- closed shapes --------------------------------------------------------------------------------------------------------


class Function(msgspec.Struct):
    name: str | UnsetType | None = UNSET
    arguments: str | UnsetType | None = UNSET


class ToolCall(msgspec.Struct):
    index: int | UnsetType = UNSET
    id: Any = UNSET
    type: Any = UNSET
    function: Function | UnsetType | None = UNSET


class Message(msgspec.Struct):
    role: Any = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCall] | UnsetType | None = UNSET


class _Choice(msgspec.Struct):
    index: int = 0
    message: Message | UnsetType = UNSET
    text: str | UnsetType = UNSET
    finish_reason: Any = None
    logprobs: Any = UNSET
    content_filter_results: Any = UNSET


class Generated(msgspec.Struct):
    choices: list[_Choice]
    id: Any = None
    created: Any = 0
    usage: Any = UNSET
    system_fingerprint: Any = UNSET
    prompt_filter_results: Any = UNSET
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: list[float] | str
    index: int = 0


class Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: Any = UNSET
    error: Any = None


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class Inferred(msgspec.Struct):
    outputs: list[_Tensor]
    model_version: Any = UNSET
    id: Any = UNSET
    error: Any = None


_GENERATED = msgspec.json.Decoder(Generated)
_VECTORS = msgspec.json.Decoder(Vectors)
_INFERRED = msgspec.json.Decoder(Inferred)


def decode(decoder: msgspec.json.Decoder[Any], data: bytes, max_bytes: int) -> Any:
    """Decode or raise `MalformedAnswer`."""
    if len(data) > max_bytes:
        raise MalformedAnswer("too large")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        # The library's text names a type and a path of ours, no value.
        raise MalformedAnswer(str(error)) from None
    except (ValueError, RecursionError):
        raise MalformedAnswer("not JSON") from None


def token(value: Any, otherwise: str) -> str:
    """Return an identifier if it has the form of one, else `otherwise`."""
    return value if type(value) is str and _TOKEN.fullmatch(value) is not None else otherwise


def moment(value: Any) -> int:
    """Return a time in whole seconds, 0 if it is none."""
    return int(value) if type(value) in {int, float} and 0 <= value < _MAX_TIME else 0


def finish(value: Any) -> str | None:
    """Return the reason as one of the convention's words; a word of the backend's own is a stop."""
    if value is None:
        return None
    return value if type(value) is str and value in _FINISHES else "stop"


def place(index: int, most: int = MAX_INDEX) -> int:
    if not 0 <= index < most:
        raise MalformedAnswer("index")
    return index


# --- whole answers --------------------------------------------------------------------------------------------------------


def parse_answer(operation: Operation, data: bytes, *, model: str, spec: Spec | None = None, logprobs: bool = False) -> dict[str, Any]:
    """Return the answer in its closed shape, `model` being the client-facing name.

    `spec` is the plain route's declaration; `logprobs` says that policy granted them. Raises `MalformedAnswer`, and
    `BackendError` if the body is an error.
    """
    if spec is not None and spec.operation is operation and operation in {Operation.SCORE, Operation.INFER} and spec.answer is not None:
        return _by_schema(data, spec.answer)
    match operation:
        case Operation.CHAT | Operation.COMPLETIONS:
            return _generated(operation, data, model, logprobs)
        case Operation.EMBEDDINGS:
            return _vectors(data, model)
        case Operation.INFER:
            return _inferred(data, model)
        case Operation.SCORE:
            return _numbers(data)
        case _:
            raise MalformedAnswer("the gateway answers this operation itself")


def _generated(operation: Operation, data: bytes, model: str, logprobs: bool) -> dict[str, Any]:
    found: Generated = decode(_GENERATED, data, MAX_ANSWER_BYTES)
    if found.error is not None:
        raise BackendError("error")
    if not 1 <= len(found.choices) <= MAX_CHOICES:
        raise MalformedAnswer("choices")
    chat = operation is Operation.CHAT
    if chat and len(found.choices) == 1 and found.prompt_filter_results is UNSET:
        plain_choice = _plain_choice(found.choices[0])
        if plain_choice is not None:
            return _plain_answer(found, plain_choice, model)
    answer: dict[str, Any] = {
        "id": token(found.id, "chatcmpl-0" if chat else "cmpl-0"),
        "object": "chat.completion" if chat else "text_completion",
        "created": moment(found.created),
        "model": model,
        "choices": [_choice(choice, chat, logprobs) for choice in found.choices],
    }
    if len({choice["index"] for choice in answer["choices"]}) != len(answer["choices"]):
        raise MalformedAnswer("two choices of one index")
    _settle(answer, "usage", clean_usage(found.usage))
    if found.system_fingerprint is not UNSET:
        _settle(answer, "system_fingerprint", token(found.system_fingerprint, "") or None)
    _settle(answer, "prompt_filter_results", clean_prompt_filters(found.prompt_filter_results))
    return answer


def _plain_choice(choice: _Choice) -> dict[str, Any] | None:
    """Return the choice if it is an assistant's text and nothing else, as nearly all are; what `_choice` gives, sooner."""
    message = choice.message
    if not isinstance(message, Message) or type(message.content) is not str:
        return None
    if choice.logprobs is not UNSET and choice.logprobs is not None:
        return None
    if message.refusal or message.reasoning_content or message.tool_calls or choice.content_filter_results is not UNSET:
        return None
    if message.refusal == "" or message.reasoning_content == "":
        return None
    return {
        "index": place(choice.index, MAX_CHOICES),
        "message": {"role": "assistant", "content": message.content, "refusal": None},
        "logprobs": None,
        "finish_reason": finish(choice.finish_reason) or "stop",
    }


def _plain_answer(found: Generated, choice: dict[str, Any], model: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": token(found.id, "chatcmpl-0"),
        "object": "chat.completion",
        "created": moment(found.created),
        "model": model,
        "choices": [choice],
    }
    usage = clean_usage(found.usage)
    if usage is not None:
        answer["usage"] = usage
    if found.system_fingerprint is not UNSET:
        _settle(answer, "system_fingerprint", token(found.system_fingerprint, "") or None)
    return answer


def _settle(answer: dict[str, Any], field: str, value: Any) -> None:
    if value is not None:
        answer[field] = value


def _choice(choice: _Choice, chat: bool, logprobs: bool) -> dict[str, Any]:
    clean: dict[str, Any] = {"index": place(choice.index, MAX_CHOICES)}
    if chat:
        if choice.message is UNSET:
            raise MalformedAnswer("a choice without message")
        clean["message"] = _message(choice.message)
    else:
        if choice.text is UNSET:
            raise MalformedAnswer("a choice without text")
        clean["text"] = choice.text
    clean["logprobs"] = _agreeing(clean_logprobs(choice.logprobs, chat), clean, chat) if logprobs else None
    clean["finish_reason"] = finish(choice.finish_reason) or "stop"
    _settle(clean, "content_filter_results", clean_filters(choice.content_filter_results))
    return clean


def _agreeing(logprobs: dict[str, Any] | None, choice: Mapping[str, Any], chat: bool) -> dict[str, Any] | None:
    """Return log probabilities whose tokens are exactly the choice's text. SECURITY: others would be text that nobody inspected."""
    if logprobs is None:
        return None
    if not chat:
        return logprobs if "".join(logprobs["tokens"]) == choice["text"] else None
    for channel, entries in logprobs.items():
        raw = [_octets(entry) for entry in entries]
        said = (choice["message"].get(channel) or "").encode("utf-8", "surrogatepass")
        if any(octets is None for octets in raw) or b"".join(octets for octets in raw if octets is not None) != said:
            return None
    return logprobs


def _octets(entry: Mapping[str, Any]) -> bytes | None:
    """Return a token as bytes, None where its two forms differ. A token may end inside a character, which is then written escaped."""
    token = entry["token"]
    if entry["bytes"] is None:
        return str(token).encode("utf-8", "surrogatepass")
    octets = bytes(entry["bytes"])
    return octets if octets.decode("utf-8", "backslashreplace") == token else None


def alternatives(answer: Mapping[str, Any]) -> list[str]:
    """Return what the tokens that were not chosen say: joined, those of each rank by themselves.

    SECURITY: both as text and as the bytes beside it, which a backend may make say something else.
    """
    said: list[str] = []
    for choice in answer.get("choices", ()):
        logprobs = choice.get("logprobs") or {}
        for entries in (logprobs.get("content"), logprobs.get("refusal"), logprobs.get("top_logprobs")):
            for rows in ([_ranked(entry) for entry in entries or ()], [_ranked_bytes(entry) for entry in entries or ()]):
                said += ["".join(row[rank] for row in rows if rank < len(row)) for rank in range(max(map(len, rows), default=0))]
    return [text for text in dict.fromkeys(said) if text]


def _ranked(entry: Mapping[str, Any]) -> list[str]:
    top = entry.get("top_logprobs")  # of completions an entry has tokens for keys, and this may be one
    return [one["token"] for one in top] if isinstance(top, list) else list(entry)


def _ranked_bytes(entry: Mapping[str, Any]) -> list[str]:
    top = entry.get("top_logprobs")
    return [bytes(one["bytes"] or ()).decode("utf-8", "replace") for one in top] if isinstance(top, list) else []


def _message(message: Message) -> dict[str, Any]:
    clean: dict[str, Any] = {"role": "assistant", "content": _or_none(message.content), "refusal": _or_none(message.refusal)}
    _settle(clean, "reasoning_content", _or_none(message.reasoning_content))
    calls = _or_none(message.tool_calls)
    if calls:
        if len(calls) > MAX_CALLS:
            raise MalformedAnswer("tool_calls")
        clean["tool_calls"] = [_call(call, at) for at, call in enumerate(calls)]
    return clean


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value


def _call(call: ToolCall, at: int) -> dict[str, Any]:
    function = call.function
    if not isinstance(function, Function) or not isinstance(function.name, str):
        raise MalformedAnswer("a tool call without function")
    arguments = function.arguments if isinstance(function.arguments, str) else ""
    name = function_name(function.name)
    return {"id": token(call.id, f"call_{at}"), "type": "function", "function": {"name": name, "arguments": arguments}}


def function_name(name: str) -> str:
    if _FUNCTION_NAME.fullmatch(name) is None:
        raise MalformedAnswer("a function's name")
    return name


def _vectors(data: bytes, model: str) -> dict[str, Any]:
    found: Vectors = decode(_VECTORS, data, MAX_ANSWER_BYTES)
    if found.error is not None:
        raise BackendError("error")
    rows = [{"object": "embedding", "index": place(row.index), "embedding": _vector(row.embedding)} for row in found.data]
    answer: dict[str, Any] = {"object": "list", "data": rows, "model": model}
    _settle(answer, "usage", clean_usage(found.usage))
    return answer


def _vector(vector: list[float] | str) -> list[float] | str:
    """Return a vector whose components are finite and of a size components have."""
    if isinstance(vector, str):
        try:
            numbers: Sequence[float] = array.array("f", binascii.a2b_base64(vector, strict_mode=True))
        except ValueError:
            raise MalformedAnswer("an embedding that is not base64 of 32-bit floats") from None
    else:
        numbers = vector
    if not numbers or not max(map(abs, numbers)) <= _MAX_COMPONENT or math.isnan(sum(numbers)):
        raise MalformedAnswer("an embedding with components that are no numbers")
    return vector


def _inferred(data: bytes, model: str) -> dict[str, Any]:
    found: Inferred = decode(_INFERRED, data, MAX_ANSWER_BYTES)
    if found.error is not None:
        raise BackendError("error")
    if len(found.outputs) > plain.MAX_TENSORS:
        raise MalformedAnswer("outputs")
    answer: dict[str, Any] = {"model_name": model, "outputs": [_tensor(tensor) for tensor in found.outputs]}
    for field in ("model_version", "id"):
        value = token(getattr(found, field), "")
        _settle(answer, field, value or None)
    return answer


def _tensor(tensor: _Tensor) -> dict[str, Any]:
    if _TOKEN.fullmatch(tensor.name) is None or tensor.datatype not in {"BYTES", *plain.NUMERIC}:
        raise MalformedAnswer("an output's name or datatype")
    if len(tensor.shape) > 8 or any(not 0 <= size <= 2**31 for size in tensor.shape):
        raise MalformedAnswer("an output's shape")
    _check_nested(tensor.data, str if tensor.datatype == "BYTES" else None, plain.MAX_RANK)
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": tensor.data}


def _check_nested(data: list[Any], leaf: type | None, rank: int) -> None:
    for value in data:
        if type(value) is list:
            if rank == 1:
                raise MalformedAnswer("an output nested too deeply")
            _check_nested(value, leaf, rank - 1)
        elif type(value) is not leaf if leaf is not None else type(value) not in {int, float, bool}:
            raise MalformedAnswer("an output's data")


def _plain(data: bytes) -> dict[str, Any]:
    try:
        return strict_json.parse(data, MAX_ANSWER_BYTES)
    except Refusal as fault:
        raise MalformedAnswer(fault.detail) from None


def _by_schema(data: bytes, answer: plain.AnswerSchema) -> dict[str, Any]:
    pruned: dict[str, Any] = plain.prune(answer.schema, _plain(data))
    if not answer.validator.is_valid(pruned):
        raise MalformedAnswer("the answer does not fit the route's schema")
    return pruned


def _numbers(data: bytes) -> dict[str, Any]:
    """Without an answer schema no string is known to be inspected, so none passes: numbers, booleans and null under short names."""
    kept = _only_numbers(_plain(data))
    return kept if isinstance(kept, dict) else {}


def _only_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _only_numbers(below)
            for key, below in value.items()
            if not isinstance(below, str) and len(key) <= 64 and _TOKEN.fullmatch(key) is not None
        }
    if isinstance(value, list):
        return [_only_numbers(below) for below in value if not isinstance(below, str)]
    return value


# --- text in whole answers ------------------------------------------------------------------------------------------------


def answer_segments(operation: Operation, answer: Mapping[str, Any], spec: Spec | None = None) -> tuple[Segment, ...]:
    """Return every text of an answer from `parse_answer`, with its path in it."""
    if spec is not None and spec.operation is operation and spec.answer is not None:
        return plain.segments_by_schema(spec.answer.schema, answer)
    if operation is Operation.INFER:
        names = [Segment(("outputs", at, "name"), one["name"], Role.ASSISTANT, Use.LABEL) for at, one in enumerate(answer["outputs"])]
        texts = [
            Segment(path, one, Role.ASSISTANT, Use.CONTENT)
            for index, tensor in enumerate(answer["outputs"])
            if tensor["datatype"] == "BYTES"
            for path, one in plain.texts_of(tensor["data"], ("outputs", index, "data"))
            if one
        ]
        return (*names, *texts)
    if operation is Operation.SCORE:
        return tuple(Segment(path, str(path[-1]), Role.ASSISTANT, Use.LABEL) for path in _keys(answer, ()))
    if operation not in {Operation.CHAT, Operation.COMPLETIONS}:
        return ()
    segments: list[Segment] = []
    for at, choice in enumerate(answer["choices"]):
        if operation is Operation.COMPLETIONS:
            segments.append(Segment(("choices", at, "text"), choice["text"], Role.ASSISTANT, Use.CONTENT))
            continue
        message, path = choice["message"], ("choices", at, "message")
        for field in ("content", "refusal", "reasoning_content"):
            said = message.get(field)
            if said:
                segments.append(Segment((*path, field), said, Role.ASSISTANT, Use.CONTENT))
        for number, call in enumerate(message.get("tool_calls", ())):
            here = (*path, "tool_calls", number, "function")
            segments.append(Segment((*here, "name"), call["function"]["name"], Role.ASSISTANT, Use.LABEL))
            segments.append(Segment((*here, "arguments"), call["function"]["arguments"], Role.ASSISTANT, Use.ARGUMENTS))
    return tuple(segment for segment in segments if segment.text)


def _keys(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Yield where each named value stands. SECURITY: without a schema the backend chooses names, and a number or a secret fits into one."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield (*path, key)
            yield from _keys(below, (*path, key))
    elif isinstance(value, list):
        for at, below in enumerate(value):
            if isinstance(below, (Mapping, list)):
                yield from _keys(below, (*path, at))


def drop_logprobs(answer: dict[str, Any]) -> None:
    """Take the log probabilities out: they repeat the tokens of a text that was changed."""
    for choice in answer.get("choices", ()):
        choice["logprobs"] = None


def withhold(answer: dict[str, Any]) -> None:
    """Make every choice a blocked one: no text, `finish_reason: content_filter`."""
    for choice in answer.get("choices", ()):
        if "message" in choice:
            choice["message"] = {"role": "assistant", "content": None, "refusal": None}
        else:
            choice["text"] = ""
        choice["logprobs"] = None
        choice["finish_reason"] = "content_filter"
