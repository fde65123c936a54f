"""What does the edge say when no application is asked? Whole answers, rendered once, constant but for the request id."""

from __future__ import annotations

import http

from gateway.http.reply import render
from gateway.refusals import KINDS, Kind, Refusal


def _render(kind: Kind) -> tuple[bytes, bytes]:
    """Return what stands before and after the request id in a constant answer."""
    wait = 1.0 if kind.status == 503 and kind.should_retry is None else None
    allow = (("allow", "GET, POST"),) if kind.status == 405 else ()
    status, headers, body = render(Refusal(kind, retry_after_s=wait, headers=allow), [(b"connection", b"close")])
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}".encode(), *(b": ".join(header) for header in headers)]
    return b"\r\n".join([*lines, b"x-request-id: "]), b"\r\n\r\n" + body


_ANSWERS: dict[Kind, tuple[bytes, bytes]] = {kind: _render(kind) for kind in KINDS}


def constant_answer(kind: Kind, request_id: str) -> bytes:
    """Return the bytes of a whole HTTP/1.1 answer after which the connection is closed."""
    before, after = _ANSWERS[kind]
    return before + request_id.encode("ascii") + after
