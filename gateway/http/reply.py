"""How does a no look on the wire? The one place that renders refusals, for whole answers and inside streams.

The body is `{"error": {"message", "type", "param", "code", ...}}` with application/json, which is what the `openai` SDKs unwrap.
Retry headers follow the SDKs' measured behaviour: `x-should-retry: false` where the status alone would be retried in vain.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.refusals import Fault, Kind, Refusal

Headers = list[tuple[bytes, bytes]]
MAX_RETRY_AFTER_S = 119.0  # above 120 s the SDK gives up at once: that is the meaning of a quota, not of a rate


def error_body(refusal: Refusal) -> dict[str, Any]:
    """Return the error object. Everything in it is ours: constants, schema paths, policy ids."""
    kind = refusal.kind
    error: dict[str, Any] = {"message": refusal.message, "type": kind.type, "param": refusal.param, "code": kind.code}
    if refusal.inner is not None:
        error["innererror"] = dict(refusal.inner)
        error["status"] = kind.status
    return {"error": error}


def render(refusal: Refusal, headers: Headers) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of a refusal; `headers` are the ones every answer of this exchange bears."""
    kind = refusal.kind
    body = msgspec.json.encode(error_body(refusal))
    out: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *headers,
    ]
    if kind.status == 401:
        out.append((b"www-authenticate", (refusal.challenge or "Bearer").encode("latin-1", "replace")))
    if kind.should_retry is not None:
        out.append((b"x-should-retry", b"true" if kind.should_retry else b"false"))
    if refusal.retry_after_s is not None and kind.should_retry is not False:
        wait = min(max(refusal.retry_after_s, 0.001), MAX_RETRY_AFTER_S)
        out += [(b"retry-after", str(math.ceil(wait)).encode()), (b"retry-after-ms", str(math.ceil(wait * 1000)).encode())]
    out += [(n.encode("latin-1"), v.encode("latin-1", "replace")) for n, v in refusal.headers]
    return kind.status, out, body


def stream_error(refusal: Refusal) -> bytes:
    """Return the event that ends a broken stream: an error object and no `[DONE]`, which SDKs raise as `APIError`."""
    return b"data: " + msgspec.json.encode(error_body(refusal)) + b"\n\n"


def is_ours(kind: Kind) -> bool:
    """Return whether operators should look: the fault lies with us or the backend."""
    return kind.fault is not Fault.CALLER
