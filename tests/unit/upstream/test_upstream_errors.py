from __future__ import annotations

import pytest

from gateway.ports import UpstreamError
from gateway.upstream.breaker import Outcome
from gateway.upstream.errors import (
    Trouble,
    error_code,
    failure_of_error,
    failure_of_status,
    filtered_categories,
    retry_after,
)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "99999999999"}, 86_400.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1" * 5000}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms_and_bounded(headers, seconds):
    assert retry_after(headers, 10.0) == seconds


@pytest.mark.parametrize(
    ("error", "trouble", "sent", "outcome"),
    [
        (UpstreamError("pool", "full"), Trouble.FULL, False, Outcome.NEUTRAL),
        (UpstreamError("connect", "refused"), Trouble.UNREACHABLE, False, Outcome.FAULT),
        (UpstreamError("timeout", "connect"), Trouble.TIMEOUT, False, Outcome.FAULT),
        (UpstreamError("timeout", "head"), Trouble.TIMEOUT, True, Outcome.FAULT),
        (UpstreamError("timeout", "total"), Trouble.TIMEOUT, True, Outcome.NEUTRAL),
        (UpstreamError("head", "connection closed"), Trouble.BROKEN, True, Outcome.FAULT),
        (UpstreamError("head", "stale connection"), Trouble.BROKEN, True, Outcome.NEUTRAL),
        (UpstreamError("protocol", "x"), Trouble.MALFORMED, True, Outcome.FAULT),
    ],
)
def test_transport_failures_are_classed(error, trouble, sent, outcome):
    failure = failure_of_error("b", error)
    assert (failure.trouble, failure.sent, failure.outcome) == (trouble, sent, outcome)


@pytest.mark.parametrize(
    ("status", "trouble", "outcome"),
    [
        (301, Trouble.MISCONFIGURED, Outcome.FAULT),
        (400, Trouble.REFUSED, Outcome.NEUTRAL),
        (401, Trouble.MISCONFIGURED, Outcome.FAULT),
        (404, Trouble.MISCONFIGURED, Outcome.FAULT),
        (422, Trouble.REFUSED, Outcome.NEUTRAL),
        (429, Trouble.LIMITED, Outcome.NEUTRAL),
        (500, Trouble.FAILED, Outcome.FAULT),
        (529, Trouble.FAILED, Outcome.FAULT),
    ],
)
def test_statuses_are_classed(status, trouble, outcome):
    failure = failure_of_status("b", status, {}, 0.0)
    assert (failure.trouble, failure.outcome) == (trouble, outcome)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"error": "x"}', b'{"error": {"code": 429}}', b"[" * 100_000])
def test_error_bodies_of_other_shapes_have_no_code(body):
    assert error_code(body)[0] == ""


def test_filter_findings_are_rebuilt_from_known_words():
    inner = {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {
            "hate": {"filtered": False, "severity": "safe"},
            "violence": {"filtered": True, "severity": "medium", "secret": "prompt text"},
            "jailbreak": {"filtered": "yes", "detected": True},
            "sexual": {"severity": "<script>"},
            "custom": {"filtered": True},
            "self_harm": 5,
        },
    }
    assert filtered_categories({"innererror": inner}) == {
        "hate": {"filtered": False, "severity": "safe"},
        "violence": {"filtered": True, "severity": "medium"},
        "jailbreak": {"filtered": False, "detected": True},
        "sexual": {"filtered": False},
    }
    plural = {"innererror": {"content_filter_results": {"hate": {"filtered": True}}}}
    assert filtered_categories(plural) == {"hate": {"filtered": True}}
    for other in ({}, {"innererror": None}, {"innererror": {"content_filter_result": []}}):
        assert filtered_categories(other) == {}
