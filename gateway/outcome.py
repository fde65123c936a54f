"""What is known of an answer on its way out, and what is it pushed into? Shared by whole and streamed answers; decides nothing."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.evidence import Verdict
from gateway.exchange import Exchange
from gateway.refusals import Refusal

Headers = list[tuple[bytes, bytes]]


class Sink(Protocol):
    """Where an answer is pushed."""

    @property
    def begun(self) -> bool: ...
    async def begin(self, status: int, headers: Headers) -> None: ...
    async def write(self, data: bytes) -> None: ...
    async def end(self, data: bytes = b"") -> None: ...
    async def answer(self, status: int, headers: Headers, data: bytes) -> None:
        """Send a whole answer: `begin` and `end` at once."""
        ...

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


def answer_id(exchange: Exchange) -> str:
    return f"chatcmpl-{exchange.request_id}"


def call_id(answer: str, choice: int, number: Any) -> str:
    """Return our id of a tool call: unique over a conversation, and nothing a backend could write."""
    return f"call_{answer[9:17]}_{choice}_{number}"


def reported(usage: Any) -> tuple[int, int] | None:
    """Return (input, output) tokens of a backend's report, None where there is none to believe."""
    if type(usage) is not dict:
        return None
    asked, answered = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    return (asked, answered) if type(asked) is int and type(answered) is int and asked + answered > 0 else None
