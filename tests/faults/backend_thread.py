"""A scripted backend on a thread of its own, so that a test can talk to a gateway process and watch what reaches the backend."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from typing import Any

from scripted_backend import SSE_HEAD, Exchange, Script, ScriptedBackend, answer, chunk

_REQUEST_ID = re.compile(rb"(?i)\r\nx-request-id: ([0-9a-f-]+)\r\n")
GOOD = "All is well with the answer."


def whole(text: str = GOOD, **message: Any) -> bytes:
    """Return a chat completion as a backend writes it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}).encode()


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """Return one event of a streamed chat completion."""
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(*events: bytes) -> bytes:
    return SSE_HEAD + b"".join(chunk(data) for data in events) + b"0\r\n\r\n"


def is_stream(exchange: Exchange) -> bool:
    return json.loads(exchange.body).get("stream") is True


async def good(exchange: Exchange) -> None:
    """Answer as a healthy model would."""
    if is_stream(exchange):
        await exchange.say(stream(event({"role": "assistant", "content": ""}), event({"content": GOOD}), event({}, "stop"), DONE))
    else:
        await exchange.say(answer(200, whole()))


def says(data: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.say(data)

    return script


class BackendThread:
    """`with BackendThread() as backend:` serves until the block ends. `script` may be changed between requests."""

    def __init__(self) -> None:
        self.script: Script = good
        self.asked: list[str] = []  # the gateway's request ids, in order of arrival
        self.gone_s: list[float] = []  # when a connection that a script watched was closed

    async def _run(self, exchange: Exchange) -> None:
        found = _REQUEST_ID.search(exchange.head)
        self.asked.append(found[1].decode() if found else "")
        await self.script(exchange)

    def __enter__(self) -> BackendThread:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()

        async def main() -> None:
            async with ScriptedBackend(self._run) as backend:
                self._backend = backend
                self.url = f"{backend.url}/v1"
                ready.set()
                await self._end.wait()

        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(main()), daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self._loop.close()
