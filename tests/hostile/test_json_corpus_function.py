"""JSONTestSuite against the parser as a function: n_ refused, y_ accepted or refused by a written rule, nothing else raised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.refusals import INVALID_JSON, Refusal
from gateway.schema import strict_json

ROOT = Path(__file__).resolve().parents[2]
SUITE = Path(os.environ.get("GATEWAY_CORPORA", ROOT.parent / "shared" / "corpora")) / "jsontestsuite"

pytestmark = pytest.mark.corpora

# y_ files under a rule of ours that RFC 8259 does not have.
STRICTER = {
    "y_object_duplicated_key.json": "duplicate_key",
    "y_object_duplicated_key_and_value.json": "duplicate_key",
    "y_object_escaped_null_in_key.json": "key",
}


def files(prefix: str) -> list[Path]:
    if not SUITE.is_dir():
        pytest.skip("the corpus jsontestsuite is not beside the checkout (GATEWAY_CORPORA)")
    found = sorted(path for folder in ("test_parsing", "test_transform") for path in (SUITE / folder).glob(f"{prefix}*.json"))
    assert found
    return found


def verdict(data: bytes) -> str:
    """Wrapped into an object, since a request is one; a document that breaks out of the wrapping is not JSON either way."""
    try:
        strict_json.parse(b'{"v":' + data + b"}", 10_000_000)
    except Refusal as refusal:
        assert refusal.kind is INVALID_JSON
        return refusal.detail
    return "accepted"


def test_all_that_must_be_refused_is() -> None:
    accepted = [path.name for path in files("n_") if verdict(path.read_bytes()) == "accepted"]
    assert accepted == []


def test_all_that_must_be_accepted_is_but_for_stricter_rules() -> None:
    got = {path.name: verdict(path.read_bytes()) for path in files("y_")}
    assert {name: why for name, why in got.items() if why != "accepted"} == STRICTER


def test_the_undefined_is_decided_without_another_exception() -> None:
    got = {path.name: verdict(path.read_bytes()) for path in files("")}
    assert len(got) > 300
    assert set(got.values()) <= {"accepted", "syntax", "duplicate_key", "key", "number", "depth"}


def test_bare_documents_raise_nothing_else_either() -> None:
    for path in files(""):
        try:
            body = strict_json.parse(path.read_bytes(), 10_000_000)
        except Refusal:
            continue
        assert isinstance(body, dict)
