"""What did the client send? Headers as an immutable snapshot taken before the body, and a body bounded while it is read.

The credential is looked at before a single body byte is. Trailers never reach us (the protocol drops them).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.http.cycle import LEAVING
from gateway.ports import ClientGone
from gateway.refusals import MALFORMED, TOO_LARGE, UNSUPPORTED_MEDIA, Refusal

Headers = tuple[tuple[bytes, bytes], ...]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
_ASKED = (b"content-encoding", b"content-type", b"content-length")
_JSON = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


class Inbound:
    """One request as received: method, path, header snapshot, peer, and its body on demand."""

    __slots__ = ("_receive", "_watch", "_watching", "extension", "headers", "left", "method", "path", "peer")

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        headers = scope["headers"]
        self.headers: Headers = headers if type(headers) is tuple else tuple(headers)
        client = scope.get("client")
        self.peer: str = client[0] if client else ""
        self._receive = receive
        self.extension: dict[str, Any] = (scope.get("extensions") or {}).get(LEAVING) or {}
        self._watch = self.extension.get("watch")
        self._watching: asyncio.Task[None] | None = None
        self.left = False

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header that may stand once. Raises `Refusal(MALFORMED)` if it stands twice."""
        found: bytes | None = None
        for key, value in self.headers:
            if key == name:
                if found is not None:
                    raise Refusal(MALFORMED, detail="a singleton header stands twice")
                found = value
        return found

    async def body(self, max_bytes: int) -> bytes:
        """Return the body. Raises `Refusal` 413 or 415, and `ClientGone`."""
        fields = dict(self.headers)
        if len(fields) != len(self.headers):  # any may stand twice but those asked for here
            fields = {name: value for name in _ASKED if (value := self.header(name)) is not None}
        if b"content-encoding" in fields:
            raise Refusal(UNSUPPORTED_MEDIA, detail="content-encoding")
        kind = fields.get(b"content-type")
        if kind is None or (kind not in _JSON and kind.lower() not in _JSON):
            raise Refusal(UNSUPPORTED_MEDIA, detail="content-type")
        declared = fields.get(b"content-length")
        if declared is not None and (not declared.isdigit() or int(declared[:20]) > max_bytes):
            raise Refusal(TOO_LARGE)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            body = await self._rest(body, max_bytes)
        if len(body) > max_bytes:
            raise Refusal(TOO_LARGE)
        return body

    async def _rest(self, first: bytes, max_bytes: int) -> bytes:
        parts = [first]
        size = len(first)
        while size <= max_bytes:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if not message.get("more_body", False):
                break
        return b"".join(parts)

    def on_gone(self, callback: Callable[[], object]) -> None:
        """Call back once if the client leaves. Only after the body was read."""

        def leave() -> None:
            self.left = True
            callback()

        if self._watch is not None:
            self._watch(leave)
        else:
            self._watching = asyncio.ensure_future(self._until_gone(leave))

    def stop_watching(self) -> None:
        if self._watch is not None:
            self._watch(None)
        elif self._watching is not None:
            self._watching.cancel()

    async def _until_gone(self, leave: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        leave()
