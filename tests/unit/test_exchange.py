"""The ledger of one exchange: which fields each record has, and that none can hold content."""

from __future__ import annotations

import json

import pytest

from gateway.audit.record import encode
from gateway.evidence import Usage
from gateway.exchange import Exchange, Fingerprints, rfc3339
from gateway.policy.testing import example_subject
from gateway.refusals import CONTENT_FILTER, DEPLOYMENT_NOT_FOUND, INVALID_REQUEST, Kind, Refusal


def ledger() -> Exchange:
    made = Exchange("i", "r-1", "t-1", "192.0.2.1", 1_800_446_400.25, 5.0)
    made.subject = example_subject(subject_id="anna@example.com", token_digest=b"digest", token_id="jti")
    made.prints = Fingerprints("s" * 32, "t" * 32)
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1970-01-01T00:00:00.000Z"), (1_800_446_400.25, "2027-01-20T12:00:00.250Z"), (1.9999, "1970-01-01T00:00:01.999Z")],
)
def test_times(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


def test_no_identity_enters_a_record() -> None:
    made = ledger()
    text = b"".join(encode(fields) for fields in (made.opened_fields(), made.closed_fields(1.0), made.refused_fields())).decode()
    assert "anna" not in text and "jti" not in text and "digest" not in text.replace("policy_digest", "")
    assert json.loads(encode(made.opened_fields()))["subject"] == "s" * 32


def test_a_closing_record_says_which_it_closes() -> None:
    made = ledger()
    made.opened, made.usage, made.timings = 7, Usage(input_tokens=1, output_tokens=2), {"total": 0.0123456}
    fields = made.closed_fields(1.0)
    assert (fields["opened"], fields["timings_ms"]) == (7, {"total": 12.346})
    assert "refusal" not in fields


@pytest.mark.parametrize(("kind", "decision"), [(DEPLOYMENT_NOT_FOUND, "forbid"), (INVALID_REQUEST, "none"), (CONTENT_FILTER, "none")])
def test_a_refusal_before_a_permit(kind: Kind, decision: str) -> None:
    made = ledger()
    made.refusal = Refusal(kind, detail="why")
    fields = made.refused_fields()
    assert (fields["decision"], fields["refusal"], fields["detail"]) == (decision, kind.code, "why")


def test_the_ledger_has_no_place_for_anything_else() -> None:
    with pytest.raises(AttributeError):
        ledger().prompt = "x"  # type: ignore[attr-defined]
