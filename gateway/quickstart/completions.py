"""How does the simulated model put an answer into OpenAI's shapes? Chat and legacy completions, whole and streamed.

Values in, values and bytes out: no I/O. Shapes: the OpenAI API reference; `finish_reason` is stop, length or tool_calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec

from gateway.quickstart import canned
from gateway.quickstart.canned import Behaviour

_CREATED = 1_700_000_000
_ASKS_FOR_TOOL = ("use the tool", "call the tool")


class Reply(msgspec.Struct, frozen=True):
    """What will be said: `tokens` joined, or the arguments of a call to `tool`."""

    id: str
    tokens: list[str]
    prompt_tokens: int
    finish_reason: str
    tool: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def usage(self) -> dict[str, int]:
        spoken = len(self.tokens)
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": spoken, "total_tokens": self.prompt_tokens + spoken}


class Call(Protocol):
    """One parsed request."""

    @property
    def behaviour(self) -> Behaviour: ...
    @property
    def stream(self) -> bool: ...
    @property
    def max_tokens(self) -> int | None: ...
    def reply(self) -> Reply: ...
    def whole(self, reply: Reply) -> dict[str, Any]: ...
    def chunks(self, reply: Reply, seed: int) -> Iterator[tuple[bytes, float]]:
        """Yield (event on the wire, tokens it carries)."""
        ...


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    behaviour: Behaviour
    asked: str
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    tool: str | None = None

    def reply(self) -> Reply:
        if self.tool is not None:
            text = msgspec.json.encode({"text": self.asked}).decode()
            return Reply(self._id(), canned.tokens_of(text), self.prompt_tokens, "tool_calls", self.tool)
        tokens = canned.tokens_of(canned.answer_text(self.behaviour, self.asked))
        if self.max_tokens is not None and len(tokens) > self.max_tokens:
            return Reply(self._id(), tokens[: self.max_tokens], self.prompt_tokens, "length")
        return Reply(self._id(), tokens, self.prompt_tokens, "stop")

    def _id(self) -> str:
        return hashlib.sha256(f"{self.model}:{self.asked}".encode("utf-8", "surrogatepass")).hexdigest()[:24]

    def _parts(self, reply: Reply, seed: int) -> Iterator[tuple[str, float]]:
        if self.behaviour is Behaviour.ECHO or reply.tool is not None:
            text = reply.text
            for piece in canned.pieces(text, seed):
                yield piece, len(reply.tokens) * len(piece) / len(text)
        else:
            for token in reply.tokens:
                yield token, 1.0


class Chat(_Request, frozen=True, kw_only=True):
    def whole(self, reply: Reply) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None if reply.tool else reply.text, "refusal": None}
        if reply.tool is not None:
            function = {"name": reply.tool, "arguments": reply.text}
            message["tool_calls"] = [{"id": f"call_{reply.id}", "type": "function", "function": function}]
        return {
            "id": f"chatcmpl-{reply.id}",
            "object": "chat.completion",
            "created": _CREATED,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}],
            "usage": reply.usage(),
        }

    def chunks(self, reply: Reply, seed: int) -> Iterator[tuple[bytes, float]]:
        first: dict[str, Any] = {"role": "assistant", "content": None if reply.tool else "", "refusal": None}
        if reply.tool is not None:
            function = {"name": reply.tool, "arguments": ""}
            first["tool_calls"] = [{"index": 0, "id": f"call_{reply.id}", "type": "function", "function": function}]
        yield self._chunk(reply, first, None), 0.0
        for part, tokens in self._parts(reply, seed):
            delta: dict[str, Any] = {"content": part}
            if reply.tool is not None:
                delta = {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}
            yield self._chunk(reply, delta, None), tokens
        yield self._chunk(reply, {}, reply.finish_reason), 0.0
        if self.include_usage:
            yield _event({**self._frame(reply), "choices": [], "usage": reply.usage()}), 0.0
        yield b"data: [DONE]\n\n", 0.0

    def _frame(self, reply: Reply) -> dict[str, Any]:
        return {"id": f"chatcmpl-{reply.id}", "object": "chat.completion.chunk", "created": _CREATED, "model": self.model}

    def _chunk(self, reply: Reply, delta: dict[str, Any], finish_reason: str | None) -> bytes:
        value = self._frame(reply)
        value["choices"] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
        if self.include_usage:
            value["usage"] = None
        return _event(value)


class Completion(_Request, frozen=True, kw_only=True):
    def whole(self, reply: Reply) -> dict[str, Any]:
        return {**self._frame(reply), "choices": [self._choice(reply.text, reply.finish_reason)], "usage": reply.usage()}

    def chunks(self, reply: Reply, seed: int) -> Iterator[tuple[bytes, float]]:
        nothing: dict[str, Any] = {"usage": None} if self.include_usage else {}
        for part, tokens in self._parts(reply, seed):
            yield _event({**self._frame(reply), "choices": [self._choice(part, None)], **nothing}), tokens
        yield _event({**self._frame(reply), "choices": [self._choice("", reply.finish_reason)], **nothing}), 0.0
        if self.include_usage:
            yield _event({**self._frame(reply), "choices": [], "usage": reply.usage()}), 0.0
        yield b"data: [DONE]\n\n", 0.0

    def _frame(self, reply: Reply) -> dict[str, Any]:
        return {"id": f"cmpl-{reply.id}", "object": "text_completion", "created": _CREATED, "model": self.model}

    @staticmethod
    def _choice(text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def chat_of(model: str, behaviour: Behaviour, body: Mapping[str, Any]) -> Chat:
    """Read a chat request as leniently as a stand-in may: the gateway is what is strict."""
    messages = [message for message in body.get("messages") or [] if isinstance(message, dict)]
    asked, answered = "", False
    for message in messages:
        if message.get("role") == "user":
            asked, answered = _text_of(message.get("content")), False
        elif message.get("role") == "tool":
            answered = True
    prompt_tokens = sum(len(canned.tokens_of(_text_of(message.get("content")))) + 3 for message in messages)
    return Chat(
        model=model,
        behaviour=behaviour,
        asked=asked,
        prompt_tokens=prompt_tokens,
        max_tokens=_limit(body, "max_completion_tokens", "max_tokens"),
        stream=body.get("stream") is True,
        include_usage=_include_usage(body),
        tool=None if answered else _tool(body, asked),
    )


def completion_of(model: str, behaviour: Behaviour, body: Mapping[str, Any]) -> Completion:
    prompt = body.get("prompt", "")
    asked = prompt if isinstance(prompt, str) else _text_of(prompt)
    return Completion(
        model=model,
        behaviour=behaviour,
        asked=asked,
        prompt_tokens=len(canned.tokens_of(asked)),
        max_tokens=_limit(body, "max_tokens"),
        stream=body.get("stream") is True,
        include_usage=_include_usage(body),
    )


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else part.get("text", "") for part in content if isinstance(part, str | dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def _limit(body: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if isinstance(value, int) and value >= 0:
            return value
    return None


def _include_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _tool(body: Mapping[str, Any], asked: str) -> str | None:
    """Return the function to call: the one that is forced, or the first one when the text asks for it."""
    functions = [tool["function"] for tool in body.get("tools") or [] if isinstance(tool, dict) and isinstance(tool.get("function"), dict)]
    names = [function["name"] for function in functions if isinstance(function.get("name"), str)]
    if not names:
        return None
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        wanted = choice["function"].get("name")
        return wanted if wanted in names else None
    if choice == "required" or (choice != "none" and any(phrase in asked.lower() for phrase in _ASKS_FOR_TOOL)):
        return str(names[0])
    return None


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)
