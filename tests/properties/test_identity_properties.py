"""Whatever bytes come, identity answers with a subject it verified or with a refusal; one token has one spelling."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from issuer_fixture import NOW, FakeIssuer, b64, public_jwk, rsa_key

from gateway.identity.claims import Rejected, Step
from gateway.identity.encoding import NotStrict, decode_base64url, parse_object
from gateway.identity.issuers import ALGORITHMS, IssuerConfig, IssuerFaults, IssuerKind, trust, url_fault
from gateway.identity.jwks import KeySetInvalid, admit
from gateway.identity.token import verify_token

ISSUER = FakeIssuer()
KEYS = ISSUER.keyset_of()
TOKEN = ISSUER.token()

json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.binary(max_size=200))
def test_base64url_is_a_bijection(data: bytes) -> None:
    assert decode_base64url(b64(data)) == data


@given(st.text(alphabet="ABCXYZabcxyz0189-_=+/ \n", max_size=40))
def test_base64url_accepts_nothing_but_its_own_spelling(text: str) -> None:
    try:
        data = decode_base64url(text)
    except NotStrict:
        return
    assert base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text


@given(json_values)
def test_strict_json_reads_what_json_writes(value: Any) -> None:
    text = json.dumps({"value": value}, ensure_ascii=True).encode()
    try:
        assert parse_object(text) == {"value": value}
    except NotStrict:
        assert b"\\ud" in text or len(text) > 300


@given(st.text(max_size=300))
def test_any_text_is_rejected_never_an_error(text: str) -> None:
    with pytest.raises(Rejected):
        verify_token(text, ISSUER.trusted, KEYS, NOW)


@given(json_values, json_values)
def test_any_signed_json_is_rejected_never_an_error(header: Any, payload: Any) -> None:
    token = ISSUER.raw(json.dumps(header).encode(), json.dumps(payload).encode())
    with pytest.raises(Rejected):
        verify_token(token, ISSUER.trusted, KEYS, NOW)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*ISSUER.claims(), "idtyp", "groups", "acrs", "xms_cc", "idp", "acct", "hasgroups", "_claim_names"]), json_values)
def test_any_value_of_any_claim_is_a_subject_or_a_rejection(name: str, value: Any) -> None:
    token = ISSUER.raw(b'{"alg":"RS256","kid":"kid-1"}', json.dumps(ISSUER.claims() | {name: value}).encode())
    try:
        claims = verify_token(token, ISSUER.trusted, KEYS, NOW)
    except Rejected as rejected:
        assert rejected.step >= Step.CLAIMS
    else:
        assert claims.iss == ISSUER.iss and claims.expires_at_s > NOW - 60
        assert claims.subject_id.isprintable() and " " not in claims.subject_id


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="utf-8"))
def test_any_changed_character_is_rejected(position: int, character: str) -> None:
    changed = TOKEN[:position] + character + TOKEN[position + 1 :]
    if changed != TOKEN:
        with pytest.raises(Rejected):
            verify_token(changed, ISSUER.trusted, KEYS, NOW)


@given(st.integers(0, len(TOKEN) - 1), st.text(alphabet="ABab01-_.", max_size=5))
def test_any_insertion_is_rejected(position: int, inserted: str) -> None:
    changed = TOKEN[:position] + inserted + TOKEN[position:]
    if changed != TOKEN:
        with pytest.raises(Rejected):
            verify_token(changed, ISSUER.trusted, KEYS, NOW)


@given(st.integers(-(2**45), 2**45), st.integers(-(2**45), 2**45), st.integers(-(2**45), 2**45))
def test_accepted_times_are_always_inside_the_window(exp: int, nbf: int, iat: int) -> None:
    token = ISSUER.token(exp=exp, nbf=nbf, iat=iat)
    try:
        claims = verify_token(token, ISSUER.trusted, KEYS, NOW)
    except Rejected as rejected:
        assert rejected.step is Step.TIME
    else:
        assert NOW - 60 < claims.expires_at_s <= claims.issued_at_s + 86_460 and max(nbf, iat) <= NOW + 60


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_set_or_invalid(document: bytes) -> None:
    with pytest.raises(KeySetInvalid):
        admit(document, ALGORITHMS)


@given(st.sampled_from([*public_jwk(rsa_key(), "k"), "alg", "key_ops", "issuer", "crv", "x", "y"]), json_values)
def test_any_member_of_a_key_admits_or_drops(name: str, value: Any) -> None:
    document = json.dumps({"keys": [public_jwk(rsa_key(), "k") | {name: value}]}).encode()
    try:
        keyset = admit(document, ALGORITHMS)
    except KeySetInvalid:
        return
    assert len(keyset.keys) + sum(keyset.dropped.values()) == 1
    for key in keyset.keys.values():
        assert all(prepared.key.key_size >= 2048 for prepared in key.by_algorithm.values())


@given(
    st.text(max_size=60)
    | st.builds(lambda scheme, rest: f"{scheme}://{rest}", st.sampled_from(["http", "ftp", "file"]), st.text(max_size=40))
)
def test_only_https_or_loopback_is_ever_fetched(url: str) -> None:
    if url_fault(url) == "":
        assert url.startswith("https://") or url.lower().startswith(("http://127.0.0.1", "http://localhost", "http://[::1]"))


@given(st.text(max_size=20), st.text(max_size=20), st.lists(st.text(max_size=20), max_size=3), st.sampled_from(list(IssuerKind)))
def test_settings_are_trusted_or_all_faults_are_named(name: str, iss: str, audiences: list[str], kind: IssuerKind) -> None:
    config = IssuerConfig(name=name, kind=kind, issuer=iss, audiences=tuple(audiences))
    try:
        trusted = trust([config])
    except IssuerFaults as faults:
        assert faults.faults
    else:
        assert all(one.audiences and one.iss for one in trusted.values())
