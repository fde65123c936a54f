"""How a no looks on the wire, beyond its table (tests/house renders every kind)."""

from __future__ import annotations

import json

import pytest

from gateway.http.reply import MAX_RETRY_AFTER_S, is_ours, render
from gateway.refusals import CONTENT_FILTER, INTERNAL, INVALID_TOKEN, METHOD_NOT_ALLOWED, QUOTA_EXCEEDED, RATE_LIMITED, Refusal


@pytest.mark.parametrize(
    ("wait_s", "seconds", "ms"),
    [(0.0, b"1", b"1"), (0.0004, b"1", b"1"), (1.2, b"2", b"1200"), (1e9, b"119", b"119000"), (-5.0, b"1", b"1")],
)
def test_retry_headers(wait_s: float, seconds: bytes, ms: bytes) -> None:
    headers = dict(render(Refusal(RATE_LIMITED, retry_after_s=wait_s), [])[1])
    assert (headers[b"retry-after"], headers[b"retry-after-ms"]) == (seconds, ms)
    assert int(headers[b"retry-after"]) <= MAX_RETRY_AFTER_S


def test_what_must_not_be_retried_names_no_time() -> None:
    headers = dict(render(Refusal(QUOTA_EXCEEDED, retry_after_s=5.0), [])[1])
    assert headers[b"x-should-retry"] == b"false" and b"retry-after" not in headers


def test_inner_errors_and_own_headers() -> None:
    status, _, body = render(Refusal(CONTENT_FILTER, inner={"code": "x"}), [])
    assert json.loads(body)["error"]["innererror"] == {"code": "x"} and json.loads(body)["error"]["status"] == status == 400
    assert (b"allow", b"POST") in render(Refusal(METHOD_NOT_ALLOWED, headers=(("allow", "POST"),)), [])[1]


def test_a_challenge_of_ours() -> None:
    headers = dict(render(Refusal(INVALID_TOKEN, challenge='Bearer error="insufficient_claims"'), [])[1])
    assert headers[b"www-authenticate"] == b'Bearer error="insufficient_claims"'


def test_whose_fault() -> None:
    assert is_ours(INTERNAL) and not is_ours(INVALID_TOKEN)
