"""What `ports.BackendCredential` promises, of every adapter: a static key, and each Azure identity with the real SDK.

The authority is ours, on loopback over TLS (`tests/azure_authority.py`); nothing here was asked of live Entra ID.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from msgspec.structs import replace

pytest.importorskip("msal", reason="the azure extra is not installed")

from azure_authority import (
    ALICE,
    BOB,
    CALLING_APP,
    DEMANDED,
    GATEWAY,
    OTHER_TENANT,
    SCOPE,
    TENANT,
    USER_ASSIGNED,
    AzureAuthority,
    made_secret,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from issuer_fixture import rsa_key

from gateway.evidence import Subject, SubjectKind
from gateway.ports import BackendCredential, UpstreamError
from gateway.providers.azure.on_behalf_of import OnBehalfOf
from gateway.providers.azure.token_keeper import Flights
from gateway.providers.azure.upstream_identity import IdentityConfig, backend_credential
from gateway.providers.local.static_credential import StaticCredential
from gateway.refusals import INVALID_TOKEN, POLICY_DENIED, Refusal

APPLICATION = ("managed", "managed-user", "workload", "client_secret", "client_certificate")
PERSONAL = ("obo-secret", "obo-certificate", "obo-workload")
AZURE = (*APPLICATION, *PERSONAL)
RESOURCE = SCOPE.removesuffix("/.default")


class Caller:
    """The headers of one request."""

    def __init__(self, token: str) -> None:
        self.token = token

    def header(self, name: bytes) -> bytes | None:
        return b"Bearer " + self.token.encode() if name == b"authorization" else None


class Asking:
    """Someone who asks, with the subject that was verified from the token."""

    def __init__(self, azure: AzureAuthority, oid: str = ALICE, **claims: Any) -> None:
        token = azure.user_token(oid, **claims)
        read = jwt.decode(token, options={"verify_signature": False})
        self.token = token
        self.caller = Caller(token)
        self.subject = Subject(
            tenant="acme",
            issuer=read["iss"],
            subject_id=f"{read['tid']}/{read['oid']}",
            kind=SubjectKind.USER,
            app_roles=frozenset(),
            groups=frozenset(),
            scopes=frozenset(),
            application=CALLING_APP,
            token_digest=hashlib.sha256(token.encode()).digest(),
            token_id="",
            issued_at_s=read["iat"],
            expires_at_s=read["exp"],
            claims_challenges="cp1" in read.get("xms_cc", []),
        )

    def headers(self, credential: BackendCredential, after_s: float = 0.0) -> Any:
        return credential.headers(self.subject, self.caller, time.time() + after_s)


class Bench:
    """One authority and what is needed to make any credential that asks it."""

    def __init__(self, azure: AzureAuthority, folder: Path) -> None:
        self.azure = azure
        self.key = made_secret().encode()
        self.token_file = folder / "federated"
        self.token_file.write_text(azure.federated(serial="one"))
        self.pem = azure.certificate()
        self.made: list[BackendCredential] = []

    def make(self, kind: str, **changes: Any) -> BackendCredential:
        if kind == "static":
            return StaticCredential("api-key", self.key)
        parts = {"client_id": GATEWAY, "tenant": TENANT, "authority": self.azure.url, "ca_file": self.azure.ca_file}
        proof = kind.rpartition("-")[2] if kind.startswith("obo") else kind
        if kind.startswith("managed"):
            parts = {"kind": "managed", "client_id": USER_ASSIGNED if kind == "managed-user" else ""}
        elif proof == "workload":
            parts |= {"kind": "workload", "federated_token_file": str(self.token_file)}
        elif proof.endswith("secret"):
            parts |= {"kind": "client_secret", "client_secret": lambda: self.azure.secrets[GATEWAY].encode()}
        else:
            parts |= {"kind": "client_certificate", "client_certificate": lambda: self.pem}
        if kind.startswith("obo"):
            parts["kind"] = "on_behalf_of"
        made = backend_credential(IdentityConfig(**({"name": "b"} | parts | changes)), Flights(), lambda: 0.5)
        self.made.append(made)
        return made

    @property
    def asked(self) -> int:
        return sum(n for name, n in self.azure.counts.items() if name != "discovery")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "MSI_SECRET", "IMDS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with AzureAuthority() as azure:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.metadata_url)
        yield Bench(azure, tmp_path)


def claims_of(headers: tuple[tuple[bytes, bytes], ...]) -> dict[str, Any]:
    ((name, value),) = headers
    assert name == b"authorization" and value.startswith(b"Bearer ")
    return jwt.decode(value[7:], options={"verify_signature": False})


async def eventually(what: Any, limit_s: float = 3.0) -> bool:
    end_s = time.monotonic() + limit_s
    while not what() and time.monotonic() < end_s:
        await asyncio.sleep(0.01)
    return bool(what())


@pytest.mark.parametrize("kind", ["static", *AZURE])
async def test_the_header_is_the_credentials_own(bench: Bench, kind: str) -> None:
    credential = bench.make(kind)
    headers = await Asking(bench.azure).headers(credential)
    assert credential.personal is kind.startswith("obo")
    if kind == "static":
        assert headers == ((b"api-key", bench.key),)
        return
    claims = claims_of(headers)
    assert claims["aud"] == RESOURCE
    assert claims["oid"] == {"managed": "system-assigned", "managed-user": USER_ASSIGNED}.get(kind, ALICE if kind in PERSONAL else GATEWAY)
    await credential.aclose()


@pytest.mark.parametrize("kind", ["static", *AZURE])
async def test_one_question_for_fifty_that_ask_at_once_and_none_afterwards(bench: Bench, kind: str) -> None:
    credential = bench.make(kind)
    bench.azure.delay_s = 0.05
    asking = Asking(bench.azure)
    got = await asyncio.gather(*(asking.headers(credential) for _ in range(50)))
    assert len(set(got)) == 1
    assert await asking.headers(credential) == got[0]
    assert bench.asked == (0 if kind == "static" else 1)
    await credential.aclose()


@pytest.mark.parametrize("kind", AZURE)
async def test_it_is_renewed_ahead_of_its_end_while_the_old_one_serves(bench: Bench, kind: str) -> None:
    credential = bench.make(kind)
    asking = Asking(bench.azure, life_s=7200)
    old = await asking.headers(credential)
    assert await asking.headers(credential, 1800) == old and bench.asked == 1
    bench.azure.delay_s = 0.1
    began_s = time.monotonic()
    served = [await asking.headers(credential, 2700) for _ in range(20)]  # past three quarters of an hour's life
    assert time.monotonic() - began_s < 0.1
    assert set(served) == {old}
    assert await eventually(lambda: bench.asked == 2)
    await asyncio.sleep(0.2)
    new = await asking.headers(credential, 2700)
    assert new != old and bench.asked == 2
    await credential.aclose()


@pytest.mark.parametrize("kind", AZURE)
async def test_the_last_good_token_serves_through_an_outage_until_it_expires(bench: Bench, kind: str) -> None:
    credential = bench.make(kind)
    asking = Asking(bench.azure, life_s=7200)
    old = await asking.headers(credential)
    bench.azure.fault = "unavailable"
    for after_s in (2800, 3000, 3500):
        assert await asking.headers(credential, after_s) == old
        await asyncio.sleep(0.05)
    with pytest.raises(UpstreamError) as caught:
        await asking.headers(credential, 3700)
    assert caught.value.phase == "credential"
    assert not await credential.ready(time.time() + 3701) or credential.personal
    bench.azure.fault = ""
    assert await asking.headers(credential, 3700 + 400) != old
    await credential.aclose()


FAULTS = ("garbage", "list", "split", "endless", "huge", "redirect", "throttled", "unavailable", "invalid_client")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["managed", "client_secret", "obo-secret"])
async def test_a_fault_becomes_one_error_without_a_word_of_the_authority(
    bench: Bench, kind: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    credential = bench.make(kind)
    asking = Asking(bench.azure)
    if kind != "managed":
        await asking.headers(credential)  # discovery is behind us: the fault is the token endpoint's
        credential = bench.make(kind)
        await Asking(bench.azure, BOB).headers(credential)
        credential.rejected(asking.subject, time.time() + 100)
    bench.azure.fault = fault
    if kind == "client_secret":
        credential.rejected(asking.subject, time.time())
    with pytest.raises(UpstreamError) as caught:
        await asking.headers(credential)
    assert caught.value.phase == "credential"
    for told in (str(caught.value), caught.value.detail, repr(caught.value), caplog.text):
        assert "planted" not in told and "secret" not in told.lower().replace("client_secret", "")
    await credential.aclose()


@pytest.mark.parametrize("kind", ["client_secret", "obo-secret"])
async def test_a_token_endpoint_on_another_host_gets_no_secret(bench: Bench, kind: str) -> None:
    bench.azure.fault = "elsewhere"
    credential = bench.make(kind)
    with pytest.raises(UpstreamError):
        await Asking(bench.azure).headers(credential)
    assert bench.azure.asked == []
    await credential.aclose()


async def test_an_authority_whose_certificate_is_not_trusted_gets_no_secret(bench: Bench) -> None:
    credential = bench.make("client_secret", ca_file=None)
    with pytest.raises(UpstreamError, match="could not be asked"):
        await Asking(bench.azure).headers(credential)
    assert bench.azure.asked == []
    await credential.aclose()


async def test_the_authority_is_left_alone_for_as_long_as_it_asked(bench: Bench) -> None:
    credential = bench.make("client_secret")
    asking = Asking(bench.azure)
    bench.azure.faults += ["", "throttled"]  # none for discovery: it takes no fault
    bench.azure.faults = ["throttled"]
    for after_s in (0, 1, 6.9):
        with pytest.raises(UpstreamError):
            await asking.headers(credential, after_s)
    assert bench.azure.faults == [] and bench.asked == 0  # one throttled question, no other
    assert claims_of(await asking.headers(credential, 7.1))["oid"] == GATEWAY
    await credential.aclose()


async def test_failures_are_asked_about_ever_more_rarely(bench: Bench) -> None:
    credential = bench.make("managed")
    asking = Asking(bench.azure)
    bench.azure.faults = ["unavailable"] * 100
    for after_s in range(60):
        with pytest.raises(UpstreamError):
            await asking.headers(credential, after_s)
    assert 5 <= 100 - len(bench.azure.faults) <= 9  # 1, 2, 4, 8, 16, 30 seconds apart
    await credential.aclose()


@pytest.mark.parametrize("kind", ["managed", "client_secret", "obo-secret"])
async def test_a_caller_who_leaves_does_not_take_the_others_along(bench: Bench, kind: str) -> None:
    credential = bench.make(kind)
    bench.azure.delay_s = 0.1
    asking = Asking(bench.azure)
    first = asyncio.create_task(asking.headers(credential))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(asking.headers(credential))
    await asyncio.sleep(0.01)
    first.cancel()
    assert claims_of(await second)["aud"] == RESOURCE
    assert bench.asked == 1
    with pytest.raises(asyncio.CancelledError):
        await first
    await credential.aclose()


@pytest.mark.parametrize("kind", ["static", *AZURE])
async def test_nothing_secret_is_printed_logged_or_raised(bench: Bench, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    credential = bench.make(kind)
    asking = Asking(bench.azure)
    headers = await asking.headers(credential)
    shown = [repr(credential), str(vars(credential)) if hasattr(credential, "__dict__") else ""]
    if kind != "static":
        bench.azure.fault = "invalid_client"
        credential.rejected(asking.subject, time.time())
        try:
            await asking.headers(credential)
        except UpstreamError as error:
            shown += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    text = "\n".join([*shown, caplog.text, *(str(vars(record)) for record in caplog.records)])
    secrets = [bench.key.decode(), bench.azure.secrets[GATEWAY], asking.token, bench.token_file.read_text()]
    secrets += [headers[0][1].decode().removeprefix("Bearer "), *bench.azure.issued]
    assert [s[:20] for s in secrets if s in text] == []
    await credential.aclose()


@pytest.mark.parametrize("kind", AZURE)
async def test_a_token_the_backend_rejected_is_replaced_but_not_over_and_over(bench: Bench, kind: str) -> None:
    credential = bench.make(kind)
    asking = Asking(bench.azure)
    first = await asking.headers(credential)
    credential.rejected(asking.subject, time.time())
    second = await asking.headers(credential)
    assert second != first
    for _ in range(20):
        credential.rejected(asking.subject, time.time() + 1)
        assert await asking.headers(credential) == second
    assert bench.asked == 2
    await credential.aclose()


# --- where the proof comes from ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["workload", "obo-workload"])
async def test_the_federated_token_is_read_anew_when_its_file_was_replaced(bench: Bench, kind: str) -> None:
    credential = bench.make(kind)
    await Asking(bench.azure).headers(credential)
    bench.token_file.write_text(bench.azure.federated(serial="two") + "\n")
    asking = Asking(bench.azure, BOB)
    credential.rejected(asking.subject, time.time())
    await asking.headers(credential)
    serials = [jwt.decode(form["client_assertion"], options={"verify_signature": False})["jti"] for form in bench.azure.asked]
    assert serials == ["one", "two"]
    await credential.aclose()


@pytest.mark.parametrize("content", [None, "", "a" * 20_000, "\u20ac"])
async def test_a_federated_token_file_that_cannot_be_used_is_an_error_in_our_words(bench: Bench, content: str | None) -> None:
    bench.token_file.unlink() if content is None else bench.token_file.write_text(content, encoding="utf-8")
    credential = bench.make("workload")
    with pytest.raises(UpstreamError, match="federated token file"):
        await Asking(bench.azure).headers(credential)
    assert bench.azure.asked == []
    await credential.aclose()


async def test_a_service_account_token_for_another_audience_is_no_proof(bench: Bench) -> None:
    bench.token_file.write_text(bench.azure.federated(audience="gateway"))
    credential = bench.make("workload")
    with pytest.raises(UpstreamError, match="invalid_client"):
        await Asking(bench.azure).headers(credential)
    await credential.aclose()


async def test_a_replaced_secret_is_used_without_a_restart(bench: Bench) -> None:
    credential = bench.make("client_secret")
    asking = Asking(bench.azure)
    await asking.headers(credential)
    bench.azure.secrets[GATEWAY] = made_secret()
    credential.rejected(asking.subject, time.time())
    assert claims_of(await asking.headers(credential))["oid"] == GATEWAY
    await credential.aclose()


async def test_a_certificate_of_another_key_is_no_proof(bench: Bench) -> None:
    bench.azure.certificate()  # registered in place of ours
    credential = bench.make("client_certificate")
    with pytest.raises(UpstreamError, match="invalid_client"):
        await Asking(bench.azure).headers(credential)
    await credential.aclose()


@pytest.mark.parametrize("curve", ["P-256", "Ed25519"])
@pytest.mark.parametrize("kind", ["client_certificate", "obo-certificate"])
async def test_a_certificate_that_cannot_sign_an_assertion_is_an_error_in_our_words(bench: Bench, kind: str, curve: str) -> None:
    """Entra ID takes assertions signed by RSA alone; what the SDK raises for other keys is none of its own errors."""
    bench.pem = other_certificate(curve)
    credential = bench.make(kind)
    for _ in range(2):
        with pytest.raises(UpstreamError) as caught:
            await Asking(bench.azure).headers(credential)
        assert caught.value.phase == "credential" and bench.azure.counts.get("token", 0) == 0
    await credential.aclose()


def other_certificate(curve: str) -> bytes:
    key: Any = ec.generate_private_key(ec.SECP256R1()) if curve == "P-256" else ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(now).not_valid_after(now + timedelta(1)).sign(key, hashes.SHA256() if curve == "P-256" else None)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return bytes(private + made.public_bytes(serialization.Encoding.PEM))


async def test_an_unknown_managed_identity_is_an_error(bench: Bench) -> None:
    credential = bench.make("managed-user", client_id=CALLING_APP)
    with pytest.raises(UpstreamError, match="invalid_request"):
        await Asking(bench.azure).headers(credential)
    await credential.aclose()


async def test_the_metadata_service_is_link_local_or_loopback(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://metadata.example")
    credential = bench.make("managed")
    with pytest.raises(UpstreamError, match="could not be asked"):
        await Asking(bench.azure).headers(credential)
    await credential.aclose()


@pytest.mark.parametrize("scope", [SCOPE, "https://ai.azure.com/.default"])
@pytest.mark.parametrize("kind", ["managed", "client_secret", "obo-secret"])
async def test_the_token_is_for_the_scope_of_settings(bench: Bench, kind: str, scope: str) -> None:
    credential = bench.make(kind, scope=scope)
    assert claims_of(await Asking(bench.azure).headers(credential))["aud"] == scope.removesuffix("/.default")
    await credential.aclose()


# --- on behalf of ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PERSONAL)
async def test_two_people_never_share_a_token(bench: Bench, kind: str) -> None:
    credential = bench.make(kind)
    people = [Asking(bench.azure, oid) for oid in (ALICE, BOB) for _ in range(3)]  # three sign-ins each
    order = people * 10
    random.Random(5).shuffle(order)
    got = await asyncio.gather(*(one.headers(credential) for one in order))
    for one, headers in zip(order, got, strict=True):
        assert claims_of(headers)["oid"] == one.subject.subject_id.partition("/")[2]
    assert len(set(got)) == 6 == bench.asked
    await credential.aclose()


async def test_the_same_person_in_another_tenant_of_ours_gets_another_entry(bench: Bench) -> None:
    credential = bench.make("obo-secret")
    asking = Asking(bench.azure)
    first = await asking.headers(credential)
    elsewhere = Asking(bench.azure)
    elsewhere.token, elsewhere.caller = asking.token, asking.caller
    elsewhere.subject = replace(asking.subject, tenant="other")
    assert await elsewhere.headers(credential) != first
    assert bench.asked == 2
    await credential.aclose()


async def test_headers_of_another_request_are_never_exchanged(bench: Bench) -> None:
    credential = bench.make("obo-secret")
    alice, bob = Asking(bench.azure), Asking(bench.azure, BOB)
    for caller in (bob.caller, Caller(""), None):
        with pytest.raises(UpstreamError, match="not the one that was verified"):
            await credential.headers(alice.subject, caller, time.time())
    assert bench.azure.asked == []
    await credential.aclose()


@pytest.mark.parametrize("kind", [SubjectKind.APPLICATION, SubjectKind.SERVICE_ACCOUNT, SubjectKind.KEY])
async def test_only_people_can_be_spoken_for(bench: Bench, kind: SubjectKind) -> None:
    credential = bench.make("obo-secret")
    asking = Asking(bench.azure)
    asking.subject = replace(asking.subject, kind=kind)
    with pytest.raises(Refusal) as caught:
        await asking.headers(credential)
    assert caught.value.kind is POLICY_DENIED and bench.azure.asked == []
    await credential.aclose()


async def test_people_of_another_directory_are_not_spoken_for(bench: Bench) -> None:
    credential = bench.make("obo-secret")
    with pytest.raises(Refusal) as caught:
        await Asking(bench.azure, tid=OTHER_TENANT).headers(credential)
    assert caught.value.kind is POLICY_DENIED and bench.azure.asked == []
    await credential.aclose()


async def test_an_entry_dies_with_the_callers_token(bench: Bench) -> None:
    credential = bench.make("obo-secret")
    assert isinstance(credential, OnBehalfOf)
    asking = Asking(bench.azure, life_s=600)
    await asking.headers(credential)
    assert len(credential) == 1
    with pytest.raises(Refusal) as caught:
        await asking.headers(credential, 601)
    assert caught.value.kind is INVALID_TOKEN and caught.value.challenge == "Bearer"
    assert len(credential) == 0
    short = [Asking(bench.azure, oid, life_s=600) for oid in (ALICE, BOB)]
    for one in short:
        await one.headers(credential)
    await Asking(bench.azure, life_s=3600).headers(credential, 700)  # whoever comes later finds the dead swept away
    assert len(credential) == 1
    await credential.aclose()


async def test_the_entries_are_bounded(bench: Bench) -> None:
    made = bench.make("obo-secret")
    assert isinstance(made, OnBehalfOf)
    credential = OnBehalfOf("b", made._exchanger, Flights(), lambda: 0.5, directory=TENANT, capacity=3)
    people = [Asking(bench.azure) for _ in range(5)]
    for one in people:
        await one.headers(credential)
    assert len(credential) == 3
    await people[-1].headers(credential)
    assert bench.asked == 5
    await people[0].headers(credential)
    assert bench.asked == 6
    await credential.aclose()


@pytest.mark.parametrize("able", [True, False])
async def test_what_the_authority_demands_of_a_person_is_a_challenge_or_403(bench: Bench, able: bool) -> None:
    credential = bench.make("obo-secret")
    bench.azure.conditional.add(ALICE)
    asking = Asking(bench.azure, xms_cc=["cp1"] if able else None)
    for _ in range(3):
        with pytest.raises(Refusal) as caught:
            await asking.headers(credential)
        assert caught.value.kind is (INVALID_TOKEN if able else POLICY_DENIED)
    assert bench.asked == 1  # the demand is remembered for a moment
    if able:
        challenge = caught.value.challenge or ""
        assert 'error="insufficient_claims"' in challenge and f'authorization_uri="{bench.azure.url}/common' in challenge
        sent = challenge.partition('claims="')[2].partition('"')[0]
        assert base64.b64decode(sent).decode() == DEMANDED and json.loads(base64.b64decode(sent))
    assert claims_of(await Asking(bench.azure, BOB).headers(credential))["oid"] == BOB
    bench.azure.conditional.clear()
    assert claims_of(await Asking(bench.azure).headers(credential))["oid"] == ALICE  # signed in again: a new token
    await credential.aclose()


async def test_missing_consent_is_403_with_the_code_in_private(bench: Bench) -> None:
    credential = bench.make("obo-secret")
    bench.azure.unconsented.add(ALICE)
    with pytest.raises(Refusal) as caught:
        await Asking(bench.azure).headers(credential)
    assert caught.value.kind is POLICY_DENIED
    assert "AADSTS65001" in caught.value.detail and "AADSTS" not in caught.value.message
    await credential.aclose()


async def test_a_token_the_authority_did_not_sign_is_403_and_forwarded_to_nobody_else(bench: Bench) -> None:
    credential = bench.make("obo-secret")
    asking = Asking(bench.azure)
    forged = jwt.encode(jwt.decode(asking.token, options={"verify_signature": False}), rsa_key("forger"), algorithm="RS256")
    asking.caller = Caller(forged)
    asking.subject = replace(asking.subject, token_digest=hashlib.sha256(forged.encode()).digest())
    with pytest.raises(Refusal) as caught:
        await asking.headers(credential)
    assert caught.value.kind is POLICY_DENIED and "AADSTS50013" in caught.value.detail
    await credential.aclose()


@pytest.mark.parametrize("kind", ["client_secret", "obo-secret"])
async def test_the_sdk_keeps_nothing_of_its_own(bench: Bench, kind: str) -> None:
    """Access, refresh and id tokens, and answers that refused: all would outlive what they were kept for."""
    credential: Any = bench.make(kind)
    asking = Asking(bench.azure)
    await asking.headers(credential)
    bench.azure.unconsented.add(BOB)
    if credential.personal:
        with pytest.raises(Refusal):
            await Asking(bench.azure, BOB).headers(credential)
        client = credential._exchanger
    else:
        client = credential._acquire.__self__
    sdk = client._made
    assert sdk.token_cache._cache == {}
    assert dict(sdk.http_client._expiring_mapping._mapping) == {}
    await credential.aclose()
