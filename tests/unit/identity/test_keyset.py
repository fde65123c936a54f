"""Rows 1 to 7 of the fault matrix: what outages, rotations, withdrawals and garbage at an issuer may and may not do."""

from __future__ import annotations

import asyncio
import json

import pytest
from issuer_fixture import AUDIENCE, FakeClock, FakeDocuments, FakeIssuer, public_jwk, rsa_key

from gateway.identity.issuers import IssuerConfig, IssuerKind, trust
from gateway.identity.jwks import KeySetInvalid
from gateway.identity.keyset import MAX_DOCUMENT, KeySets, Timing, keys_url


def generic() -> FakeIssuer:
    return FakeIssuer(IssuerKind.OIDC)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_1_down_at_start_is_not_ready_and_recovers() -> None:
    issuer = generic()
    good = issuer.source.documents.pop(issuer.keys_url())
    keysets = issuer.keysets()
    assert keysets.ready() == {issuer.iss: False}
    assert await keysets.refresh() == {issuer.iss: False}
    assert keysets.current(issuer.iss) is None
    assert keysets.status()[issuer.iss].failures == 1
    issuer.source.documents[issuer.keys_url()] = good
    issuer.clock.now += 2.0  # the first retry
    keysets.start_due()
    await settle()
    assert keysets.ready() == {issuer.iss: True}
    assert keysets.status()[issuer.iss].failures == 0


async def test_2_down_later_keeps_the_last_good_set_for_24_hours_and_no_longer() -> None:
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    held = keysets.current(issuer.iss)
    issuer.source.documents.clear()
    for _ in range(60):
        issuer.clock.now += 1439.0
        keysets.start_due()
        await settle()
        assert keysets.current(issuer.iss) is held
    assert keysets.status()[issuer.iss].failures > 1
    issuer.clock.now = 1000.0 + 86_400.5
    assert keysets.current(issuer.iss) is None
    assert keysets.ready() == {issuer.iss: False}


async def test_2_retries_back_off_to_30_seconds() -> None:
    issuer = generic()
    issuer.source.documents.clear()
    keysets = issuer.keysets()
    for _ in range(600):
        keysets.start_due()
        await settle()
        issuer.clock.now += 1.0
    assert 20 <= keysets.status()[issuer.iss].fetches <= 25


async def test_3_slow_issuer_is_fetched_once_and_holds_up_no_other() -> None:
    slow, fast = generic(), FakeIssuer(IssuerKind.OIDC, issuer="https://fast.example", name="fast")
    slow_source = slow.source
    slow_source.gate = asyncio.Event()

    class Both:
        async def fetch(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
            source = slow_source if url.startswith(slow.iss) else fast.source
            return await source.fetch(url, max_bytes=max_bytes, timeout_s=timeout_s)

    keysets = KeySets(slow.trusted | fast.trusted, Both(), slow.clock, Timing(wait_s=0.05))
    keysets.start_due()
    await settle()
    assert keysets.ready() == {slow.iss: False, fast.iss: True}
    found = await asyncio.gather(*(keysets.find(slow.iss, f"kid-{n}") for n in range(500)), keysets.find(fast.iss, "kid-1"))
    assert found == [False] * 500 + [True]
    assert len(slow_source.fetched) == 1
    slow_source.gate.set()
    await settle()
    assert keysets.ready()[slow.iss]
    await keysets.aclose()


async def test_3_fetch_has_a_deadline_of_its_own() -> None:
    issuer = generic()
    issuer.source.gate = asyncio.Event()
    keysets = issuer.keysets(Timing(timeout_s=0.02))
    assert await keysets.refresh() == {issuer.iss: False}
    assert keysets.status()[issuer.iss].last_fault.startswith("TimeoutError")


async def test_4_rotated_key_is_found_within_one_fetch_right_after_a_background_one() -> None:
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    issuer.jwks = [public_jwk(issuer.key, "kid-2")]
    issuer.source.fetched.clear()
    issuer.clock.now += 0.5
    assert await keysets.find(issuer.iss, "kid-2")
    assert issuer.source.fetched == [issuer.keys_url()]


async def test_4_a_fetch_that_began_before_the_rotation_is_followed_by_one_more() -> None:
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    gate = issuer.source.gate = asyncio.Event()
    old = json.dumps({"keys": issuer.jwks}).encode()
    new = json.dumps({"keys": [public_jwk(issuer.key, "kid-2")]}).encode()
    answers = iter([old, new])
    issuer.source.documents[issuer.keys_url()] = lambda: next(answers)
    issuer.clock.now += 300
    keysets.start_due()
    waiting = [asyncio.create_task(keysets.find(issuer.iss, "kid-2")) for _ in range(5)]
    await settle()
    gate.set()
    assert await asyncio.gather(*waiting) == [True] * 5


async def test_4_thousand_unknown_kids_a_second_cause_one_fetch_in_30_seconds() -> None:
    issuer = generic()
    keysets = issuer.keysets(Timing(refresh_s=10_000))
    await keysets.refresh()
    issuer.source.fetched.clear()
    for second in range(90):
        results = await asyncio.gather(*(keysets.find(issuer.iss, f"kid-{second}-{n}") for n in range(100)))
        assert not any(results)
        issuer.clock.now += 1.0
    assert len(issuer.source.fetched) == 3


async def test_4_a_kid_proven_absent_does_not_use_up_the_next_fetch() -> None:
    issuer = generic()
    keysets = issuer.keysets(Timing(refresh_s=10_000))
    await keysets.refresh()
    assert not await keysets.find(issuer.iss, "stale-client")
    issuer.clock.now += 31
    issuer.source.fetched.clear()
    assert not await keysets.find(issuer.iss, "stale-client")
    assert issuer.source.fetched == []
    issuer.jwks = [public_jwk(issuer.key, "kid-2")]
    assert await keysets.find(issuer.iss, "kid-2")


async def test_4_absence_is_not_remembered_after_a_failed_fetch() -> None:
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    issuer.jwks.append(public_jwk(rsa_key("two"), "kid-2"))
    good = issuer.source.documents[issuer.keys_url()]
    issuer.source.documents[issuer.keys_url()] = TimeoutError()
    assert not await keysets.find(issuer.iss, "kid-2")
    issuer.source.documents[issuer.keys_url()] = good
    issuer.clock.now += 30
    assert await keysets.find(issuer.iss, "kid-2")


async def test_4_waiting_requests_are_bounded() -> None:
    issuer = generic()
    keysets = issuer.keysets(Timing(wait_s=5.0))
    await keysets.refresh()
    issuer.source.gate = asyncio.Event()
    tasks = [asyncio.create_task(keysets.find(issuer.iss, f"kid-{n}")) for n in range(2, 200)]
    await settle()
    assert sum(not task.done() for task in tasks) == 64
    issuer.source.gate.set()
    assert not any(await asyncio.gather(*tasks))


async def test_5_withdrawn_key_is_gone_after_one_refresh_interval() -> None:
    issuer = generic()
    issuer.jwks.append(public_jwk(rsa_key("two"), "kid-2"))
    keysets = issuer.keysets()
    await keysets.refresh()
    issuer.jwks = issuer.jwks[1:]
    issuer.clock.now += 299
    keysets.start_due()
    await settle()
    assert set(keysets.current(issuer.iss).keys) == {"kid-1", "kid-2"}
    issuer.clock.now += 1
    keysets.start_due()
    await settle()
    assert set(keysets.current(issuer.iss).keys) == {"kid-2"}


async def test_5_issuer_that_withdraws_every_key_is_obeyed() -> None:
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    issuer.jwks = []
    assert await keysets.refresh() == {issuer.iss: False}


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>captive portal</html>",
        b"null",
        b"[]",
        b"{}",
        b'{"keys":null}',
        b'{"keys":{}}',
        b'{"keys":["x"]}',
        b'{"keys":[],"keys":[]}',
        b'{"keys":[' + b",".join([b"{}"] * 65) + b"]}",
        b'{"keys":[' + b"[" * 100_000,
        b" " * (MAX_DOCUMENT + 1),
        OSError("a body over the limit"),
        ConnectionResetError(),
        EOFError(),
    ],
    ids=lambda g: repr(g)[:24],
)
async def test_6_cve_2026_48524_garbage_keeps_the_last_good_set(garbage: object) -> None:
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    held = keysets.current(issuer.iss)
    issuer.source.documents[issuer.keys_url()] = garbage
    assert await keysets.refresh() == {issuer.iss: True}
    assert keysets.current(issuer.iss) is held
    assert keysets.status()[issuer.iss].failures == 1


async def test_7_nothing_reads_the_time_of_day() -> None:
    """A wall clock that jumps changes no timer: the cache knows the monotonic clock alone."""
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    assert keysets.status()[issuer.iss].age_s == 0.0
    issuer.clock.now += 7.0
    assert keysets.status()[issuer.iss].age_s == 7.0


async def test_unchanged_document_keeps_the_same_object() -> None:
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    first = keysets.current(issuer.iss)
    await keysets.refresh()
    assert keysets.current(issuer.iss) is first
    issuer.jwks.append(public_jwk(rsa_key("two"), "kid-2"))
    await keysets.refresh()
    assert keysets.current(issuer.iss) is not first


async def test_discovery_is_asked_again_after_a_failure() -> None:
    """The keys moved: the old address fails, discovery names the new one."""
    issuer = generic()
    keysets = issuer.keysets()
    await keysets.refresh()
    moved = "https://issuer.example/v2/keys"
    issuer.source.documents[moved] = issuer.source.documents.pop(issuer.keys_url())
    issuer.source.documents[issuer.trusted[issuer.iss].discovery_url] = json.dumps({"issuer": issuer.iss, "jwks_uri": moved}).encode()
    await keysets.refresh()
    assert keysets.status()[issuer.iss].failures == 1
    await keysets.refresh()
    assert keysets.status()[issuer.iss].failures == 0


async def test_key_set_by_address_skips_discovery() -> None:
    issuer = FakeIssuer(IssuerKind.OIDC, jwks_url="https://issuer.example/keys")
    keysets = issuer.keysets()
    assert await keysets.refresh() == {issuer.iss: True}
    assert issuer.source.fetched == ["https://issuer.example/keys"]


async def test_run_keeps_fresh_and_stops_clean() -> None:
    issuer = generic()
    keysets = issuer.keysets()
    task = asyncio.create_task(keysets.run())
    await settle()
    assert keysets.ready() == {issuer.iss: True}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://issuer.example/", "jwks_uri": "https://issuer.example/keys"},
        {"issuer": "https://ISSUER.example", "jwks_uri": "https://issuer.example/keys"},
        {"jwks_uri": "https://issuer.example/keys"},
        {"issuer": "https://issuer.example"},
        {"issuer": "https://issuer.example", "jwks_uri": ["https://issuer.example/keys"]},
        {"issuer": "https://issuer.example", "jwks_uri": "http://issuer.example/keys"},
        {"issuer": "https://issuer.example", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "https://issuer.example", "jwks_uri": "ftp://issuer.example/keys"},
        {"issuer": "https://issuer.example", "jwks_uri": "data:application/json,{}"},
        {"issuer": "https://issuer.example", "jwks_uri": "http://127.0.0.1:8080/admin"},
        {"issuer": "https://issuer.example", "jwks_uri": "http://localhost/keys"},
        {"issuer": "https://issuer.example", "jwks_uri": "https://user:pass@issuer.example/keys"},
        {"issuer": "https://issuer.example", "jwks_uri": "https://issuer.example/keys\r\nx: y"},
        {"issuer": "https://issuer.example", "jwks_uri": "https://[::1/keys"},
        {"issuer": "https://issuer.example", "jwks_uri": "https:///keys"},
    ],
)
def test_cve_2026_48522_discovery_document_that_points_elsewhere(document: dict[str, object]) -> None:
    with pytest.raises(KeySetInvalid):
        keys_url(json.dumps(document).encode(), generic().trusted["https://issuer.example"])


async def test_development_issuer_may_be_plain_on_loopback() -> None:
    config = IssuerConfig(name="dev", kind=IssuerKind.DEVELOPMENT, issuer="http://127.0.0.1:8400", audiences=(AUDIENCE,))
    source = FakeDocuments()
    source.documents = {
        "http://127.0.0.1:8400/.well-known/openid-configuration": b'{"issuer":"http://127.0.0.1:8400","jwks_uri":"http://127.0.0.1:8400/keys"}',
        "http://127.0.0.1:8400/keys": json.dumps({"keys": [public_jwk(rsa_key(), "k")]}).encode(),
    }
    keysets = KeySets(trust([config]), source, FakeClock())
    assert await keysets.refresh() == {"http://127.0.0.1:8400": True}


async def test_entra_versions_have_a_set_each() -> None:
    issuer = FakeIssuer()
    keysets = issuer.keysets()
    assert all((await keysets.refresh()).values())
    assert len(keysets.ready()) == 2
