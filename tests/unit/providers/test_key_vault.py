"""Key Vault through the real SDK against a vault of ours over TLS: the challenge, versions, and every way it can refuse or fail."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("azure.keyvault.secrets.aio", reason="the azure extra is not installed")

import aiohttp
from azure.core.pipeline.transport import AioHttpTransport
from key_vault_emulator import TENANT, KeyVaultEmulator
from sdk_tokens import CountingCredential

from gateway.ports import SecretMissing, SecretUnavailable, UpstreamError
from gateway.providers.azure.key_vault import KeyVaultSecrets
from gateway.providers.secret_keeper import SecretFaults, SecretKeeper

REFERENCE = "keyvault:my-vault/redis"


@pytest.fixture
def vault() -> Iterator[KeyVaultEmulator]:
    with KeyVaultEmulator() as running:
        running.put("redis", "planted-value")
        yield running


@pytest.fixture(autouse=True)
async def goodbyes(vault: KeyVaultEmulator) -> AsyncIterator[None]:
    """aiohttp says goodbye to TLS peers after its sessions were closed; one that hangs must be let go first."""
    yield
    vault.stopping.set()
    await asyncio.sleep(0.1)


@pytest.fixture
async def source(vault: KeyVaultEmulator) -> AsyncIterator[KeyVaultSecrets]:
    made = made_source(vault, CountingCredential())
    yield made
    await made.aclose()


def made_source(vault: KeyVaultEmulator, credential: Any, **more: Any) -> KeyVaultSecrets:
    more = {"refresh_s": 300.0, "timeout_s": 1.0, "connection_verify": vault.ca_file} | more
    return KeyVaultSecrets(credential, lambda name: vault.url, **more)


def keeper_of(source: KeyVaultSecrets) -> SecretKeeper:
    return SecretKeeper({"keyvault": source}, draw=random.random, mono_s=time.monotonic, wall_s=time.time)


async def test_the_vault_is_asked_without_a_token_first_and_names_what_it_wants(vault: KeyVaultEmulator) -> None:
    credential = CountingCredential()
    source = made_source(vault, credential)
    secret = await source.fetch(REFERENCE)
    assert secret.reveal() == b"planted-value" and secret.version == vault.secrets["redis"][-1]["version"]
    assert "authorization" not in vault.seen[0].headers and vault.seen[1].headers["authorization"] == "Bearer token-1"
    ((scopes, options),) = credential.asked
    assert scopes == (f"https://0.0.1:{vault.port}/.default",)
    assert options["enable_cae"] is True and options["tenant_id"] == TENANT
    await source.fetch(REFERENCE)
    assert vault.challenges == 1, "the challenge is remembered"
    await source.aclose()


async def test_latest_and_pinned_versions(vault: KeyVaultEmulator, source: KeyVaultSecrets) -> None:
    first = vault.secrets["redis"][0]["version"]
    second = vault.put("redis", "newer")
    assert (await source.fetch(REFERENCE)).version == second
    pinned = await source.fetch(f"{REFERENCE}/{first}")
    assert pinned.reveal() == b"planted-value" and pinned.version == first


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("throttled", SecretUnavailable, "answered 429 Throttled"),
        ("busy", SecretUnavailable, "answered 429 Throttled"),
        ("unavailable", SecretUnavailable, "answered 503 ServiceUnavailable"),
        ("forbidden", SecretMissing, "grant it the role Key Vault Secrets User"),
        ("firewall", SecretMissing, "the vault's firewall does not let this address in"),
        ("garbage", SecretUnavailable, "answered 200"),
        ("list", SecretUnavailable, "does not speak as one"),
        ("empty", SecretUnavailable, "the vault's answer is no secret"),
        ("binary", SecretUnavailable, "answered 200"),
        ("redirect", SecretUnavailable, "answered 302"),
        ("hang", SecretUnavailable, "did not answer within 1 s"),
    ],
)
async def test_what_each_fault_is_told_as(
    vault: KeyVaultEmulator, source: KeyVaultSecrets, fault: str, kind: type[Exception], told: str
) -> None:
    await source.fetch(REFERENCE)
    asked = vault.reads()
    vault.fault = fault
    began_s = time.monotonic()
    with pytest.raises(kind) as no:
        await source.fetch(REFERENCE)
    assert time.monotonic() - began_s < 3.0
    assert told in str(no.value) and REFERENCE in str(no.value) and "planted" not in str(no.value) and "names" not in str(no.value)
    assert vault.reads() == asked + 1, "the SDK does not try again by itself"
    assert no.value.__cause__ is None and (no.value.__suppress_context__ or no.value.__context__ is None)


async def test_the_time_a_throttled_vault_asks_for_is_kept(vault: KeyVaultEmulator, source: KeyVaultSecrets) -> None:
    vault.fault = "throttled"
    with pytest.raises(SecretUnavailable) as no:
        await source.fetch(REFERENCE)
    assert no.value.retry_after_s == 7.0
    vault.fault = "busy"
    with pytest.raises(SecretUnavailable) as no:
        await source.fetch(REFERENCE)
    assert no.value.retry_after_s == 0.0


async def test_a_disabled_secret_an_unknown_one_and_an_unknown_version(vault: KeyVaultEmulator, source: KeyVaultSecrets) -> None:
    vault.disable("redis")
    with pytest.raises(SecretMissing, match="the secret is disabled"):
        await source.fetch(REFERENCE)
    for reference in ("keyvault:my-vault/unknown", REFERENCE + "/" + "0" * 32):
        with pytest.raises(SecretMissing, match="holds no such secret or version"):
            await source.fetch(reference)
    with pytest.raises(SecretMissing, match="must be keyvault:vault/secret"):
        await source.fetch("keyvault:my-vault/redis/../../keys/x")


async def test_a_vault_nobody_listens_for_and_one_with_another_certificate(vault: KeyVaultEmulator) -> None:
    away = KeyVaultSecrets(CountingCredential(), lambda _: "https://127.0.0.1:9", refresh_s=300.0, connection_verify=vault.ca_file)
    with pytest.raises(SecretUnavailable, match="cannot be reached"):
        await away.fetch(REFERENCE)
    await away.aclose()
    other = KeyVaultSecrets(CountingCredential(), lambda _: vault.url, refresh_s=300.0)
    with pytest.raises(SecretUnavailable, match="cannot be reached"):
        await other.fetch(REFERENCE)
    assert not vault.seen, "nothing is said to whom the system's authorities do not vouch for"
    await other.aclose()


async def test_a_challenge_for_another_domain_gets_no_token(vault: KeyVaultEmulator) -> None:
    """SECURITY: else whoever answers in the vault's place chooses for whom our token is made."""
    credential = CountingCredential()
    vault.resource = "https://evil.example"
    source = made_source(vault, credential)
    with pytest.raises(SecretUnavailable, match="it may be no vault of this domain"):
        await source.fetch(REFERENCE)
    assert credential.asked == [] and vault.reads() == 0
    await source.aclose()


async def test_under_its_real_name_the_challenge_is_checked_by_the_sdk(vault: KeyVaultEmulator) -> None:
    class Here(aiohttp.abc.AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
            assert host == "my-vault.vault.azure.net"
            return [{"hostname": host, "host": "127.0.0.1", "port": vault.port, "family": 2, "proto": 0, "flags": 0}]

        async def close(self) -> None: ...

    import ssl

    class Named(KeyVaultEmulator):
        hosts = ("my-vault.vault.azure.net",)

    with Named() as vault:
        vault.put("redis", "named")
        vault.resource = "https://vault.azure.net"
        tls = ssl.create_default_context(cafile=vault.ca_file)
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Here(), ssl=tls))
        transport = AioHttpTransport(session=session, session_owner=True)
        credential = CountingCredential()
        source = KeyVaultSecrets(credential, lambda name: f"https://{name}.vault.azure.net", refresh_s=300.0, transport=transport)
        assert (await source.fetch(REFERENCE)).reveal() == b"named"
        assert credential.asked[0][0] == ("https://vault.azure.net/.default",)
        await source.aclose()


async def test_a_token_the_vault_does_not_take_is_forgotten_and_the_next_is_used(vault: KeyVaultEmulator) -> None:
    credential = CountingCredential()
    source = made_source(vault, credential, rejected=credential.forget)
    await source.fetch(REFERENCE)
    vault.tokens = {"token-2"}
    with pytest.raises(SecretUnavailable, match="does not accept the identity"):
        await source.fetch(REFERENCE)
    assert (await source.fetch(REFERENCE)).reveal() == b"planted-value"
    await source.aclose()


async def test_without_a_token_the_reason_is_told(vault: KeyVaultEmulator) -> None:
    class Refused(CountingCredential):
        async def get_token_info(self, *scopes: str, options: Any = None) -> Any:
            raise UpstreamError("credential", "the authority refused: invalid_client AADSTS7000215")

    source = made_source(vault, Refused())
    with pytest.raises(SecretUnavailable, match="no token for the vault: the authority refused: invalid_client"):
        await source.fetch(REFERENCE)
    await source.aclose()


async def test_the_start_insists_on_a_vault_that_says_later(vault: KeyVaultEmulator) -> None:
    source = made_source(vault, CountingCredential())
    keeper = keeper_of(source)
    vault.retry_after = "1"
    vault.faults = ["throttled", "unavailable"]
    await keeper.load([REFERENCE], patience_s=10.0)
    assert keeper.current(REFERENCE).reveal() == b"planted-value" and vault.reads() == 3
    vault.retry_after = "60"
    vault.faults = ["throttled"]
    vault.put("other", "x")
    with pytest.raises(SecretFaults, match="429"):
        await keeper.load(["keyvault:my-vault/other"], patience_s=5.0)
    await keeper.aclose()


async def test_an_outage_of_the_vault_takes_no_value_away(vault: KeyVaultEmulator) -> None:
    source = made_source(vault, CountingCredential(), timeout_s=0.3)
    keeper = keeper_of(source)
    await keeper.load([REFERENCE])
    for fault in ("unavailable", "hang", "garbage", "forbidden", "redirect"):
        vault.fault = fault
        assert not await keeper.refresh(REFERENCE)
        assert keeper.current(REFERENCE).reveal() == b"planted-value"
    vault.fault = ""
    vault.disable("redis")
    assert not await keeper.refresh(REFERENCE)
    assert keeper.current(REFERENCE).reveal() == b"planted-value"
    assert "disabled" in keeper.standings()[0].fault
    await keeper.aclose()


async def test_the_vault_is_not_asked_by_more_than_a_few_at_once(vault: KeyVaultEmulator) -> None:
    names = [f"secret-{n}" for n in range(30)]
    for name in names:
        vault.put(name, name)
    original = vault.reply

    def slow(request: Any) -> Any:
        time.sleep(0.02)
        return original(request)

    vault.reply = slow  # type: ignore[method-assign]
    keeper = keeper_of(made_source(vault, CountingCredential(), timeout_s=10.0))
    await keeper.load([f"keyvault:my-vault/{name}" for name in names])
    assert vault.most_active <= 8
    await keeper.aclose()


async def test_a_secret_that_is_about_to_expire_is_told_once_a_version(
    vault: KeyVaultEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put("redis", "expiring", expires_s=datetime.now(UTC).timestamp() + 3 * 86_400)
    keeper = keeper_of(made_source(vault, CountingCredential()))
    await keeper.load([REFERENCE])
    await keeper.refresh(REFERENCE)
    told = [r for r in caplog.records if "about to expire" in r.getMessage()]
    assert len(told) == 1 and vars(told[0])["days_left"] == pytest.approx(3.0, abs=0.1)
    await keeper.aclose()


async def test_the_sdk_logs_no_value_and_no_token(vault: KeyVaultEmulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = made_source(vault, CountingCredential())
    await source.fetch(REFERENCE)
    for fault in ("garbage", "forbidden", "unavailable"):
        vault.fault = fault
        with pytest.raises((SecretMissing, SecretUnavailable)):
            await source.fetch(REFERENCE)
    await source.aclose()
    text = "".join(r.getMessage() + str(vars(r)) for r in caplog.records)
    assert "azure" in text and "planted" not in text and "token-1" not in text


async def test_a_proxy_in_the_environment_sees_nothing(
    vault: KeyVaultEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    source = made_source(vault, CountingCredential())
    assert (await source.fetch(REFERENCE)).reveal() == b"planted-value"
    await source.aclose()


async def test_closing_twice_and_in_mid_flight_is_harmless(vault: KeyVaultEmulator) -> None:
    source = made_source(vault, CountingCredential(), timeout_s=5.0)
    keeper = keeper_of(source)
    await keeper.load([REFERENCE])
    vault.fault = "hang"
    asking = asyncio.create_task(keeper.refresh(REFERENCE))
    await asyncio.sleep(0.1)
    await keeper.aclose()
    await keeper.aclose()
    (outcome,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
