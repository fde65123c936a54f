"""One suite for every source of secrets: the environment, files, files swapped by a driver, and Key Vault through the real SDK."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.ports import Secret, SecretMissing, SecretSource, SecretUnavailable
from gateway.providers.local.secrets import EnvSecrets, FileSecrets
from gateway.providers.secret_keeper import SecretFaults, SecretKeeper


def planted() -> str:
    return "planted-" + uuid.uuid4().hex


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """A source with a world behind it that a test can change."""

    rotates = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: list[str] = []

    def put(self, name: str, value: str) -> str:
        self.values.append(value)
        return self.store(name, value)

    def store(self, name: str, value: str) -> str:
        raise NotImplementedError

    def take_away(self, name: str) -> None:
        raise NotImplementedError

    def source(self) -> SecretSource:
        raise NotImplementedError

    def close(self) -> None: ...


class EnvRig(Rig):
    rotates = False  # not by itself: nobody changes the environment of a running process

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environ: dict[str, str] = {}

    def store(self, name: str, value: str) -> str:
        self.environ[name.upper().replace("-", "_")] = value
        return "env:" + name.upper().replace("-", "_")

    def take_away(self, name: str) -> None:
        self.environ.pop(name.upper().replace("-", "_"))

    def source(self) -> SecretSource:
        return EnvSecrets(self.environ)


class FileRig(Rig):
    def store(self, name: str, value: str) -> str:
        made = self.folder / f"{name}.new"
        made.write_text(value + "\n")
        made.replace(self.folder / name)
        return f"file:{self.folder / name}"

    def take_away(self, name: str) -> None:
        (self.folder / name).unlink()

    def source(self) -> SecretSource:
        return FileSecrets()


class MountRig(Rig):
    """What the Secrets Store CSI driver and Kubernetes do: files are links through `..data`, which is swapped as a whole."""

    def store(self, name: str, value: str) -> str:
        data = self.folder / "..data"
        made = self.folder / f"..{uuid.uuid4().hex}"
        made.mkdir()
        for other in data.iterdir() if data.exists() else ():
            (made / other.name).write_text(other.read_text())
        (made / name).write_text(value)
        link = self.folder / "..data_tmp"
        link.symlink_to(made.name)
        link.replace(data)
        if not (self.folder / name).is_symlink():
            (self.folder / name).symlink_to(f"..data/{name}")
        return f"file:{self.folder / name}"

    def take_away(self, name: str) -> None:
        (self.folder / "..data" / name).unlink()

    def source(self) -> SecretSource:
        return FileSecrets()


class VaultRig(Rig):
    def __init__(self, folder: Path) -> None:
        pytest.importorskip("azure.keyvault.secrets.aio", reason="the azure extra is not installed")
        pytest.importorskip("aiohttp", reason="the azure extra is not installed")
        from key_vault_emulator import KeyVaultEmulator

        super().__init__(folder)
        self.vault = KeyVaultEmulator()
        self.vault.__enter__()

    def store(self, name: str, value: str) -> str:
        self.vault.put(name, value)
        return f"keyvault:my-vault/{name}"

    def take_away(self, name: str) -> None:
        self.vault.delete(name)

    def source(self) -> SecretSource:
        from sdk_tokens import CountingCredential

        from gateway.providers.azure.key_vault import KeyVaultSecrets

        return KeyVaultSecrets(
            CountingCredential(), lambda _: self.vault.url, refresh_s=300.0, timeout_s=5.0, connection_verify=self.vault.ca_file
        )

    def close(self) -> None:
        self.vault.__exit__(None, None, None)


RIGS = {"env": EnvRig, "file": FileRig, "mount": MountRig, "keyvault": VaultRig}


@pytest.fixture(params=sorted(RIGS))
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = RIGS[request.param](tmp_path)
    yield made
    made.close()


class Counted:
    """A source that counts, waits and fails on request, over a real one."""

    def __init__(self, inner: SecretSource) -> None:
        self.inner = inner
        self.asked = 0
        self.delay_s = 0.0
        self.failing: Exception | None = None

    @property
    def refresh_s(self) -> float:
        return self.inner.refresh_s

    async def fetch(self, reference: str) -> Secret:
        self.asked += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.failing is not None:
            raise self.failing
        return await self.inner.fetch(reference)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Kept:
    def __init__(self, rig: Rig, *, timeout_s: float = 5.0, draw: Callable[[], float] = lambda: 0.5) -> None:
        self.clock = Clock()
        self.source = Counted(rig.source())
        sources = dict.fromkeys(("env", "file", "keyvault"), self.source)
        self.keeper = SecretKeeper(sources, draw=draw, mono_s=self.clock, wall_s=lambda: 1e9, timeout_s=timeout_s)

    async def __aenter__(self) -> Kept:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.keeper.aclose()


async def test_what_a_reference_leads_to_is_known_after_the_start_and_comes_from_memory(rig: Rig) -> None:
    value = planted()
    reference = rig.put("redis", value)
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        assert kept.keeper.current(reference).reveal() == value.encode()
        asked = kept.source.asked
        rig.take_away("redis")
        assert kept.keeper.current(reference).reveal() == value.encode() and kept.source.asked == asked == 1


async def test_what_was_not_loaded_is_missing(rig: Rig) -> None:
    async with Kept(rig) as kept:
        with pytest.raises(SecretMissing, match="was not loaded"):
            kept.keeper.current(rig.put("redis", planted()))


async def test_every_reference_that_leads_nowhere_is_named_at_once(rig: Rig) -> None:
    good = rig.put("good", planted())
    gone = [rig.put(name, planted()) for name in ("first", "second")]
    for name in ("first", "second"):
        rig.take_away(name)
    async with Kept(rig) as kept:
        with pytest.raises(SecretFaults) as no:
            await kept.keeper.load([good, *gone])
    assert len(no.value.faults) == 2 and all(reference in str(no.value) for reference in gone)
    assert not any(value in str(no.value) for value in rig.values)


async def test_a_new_value_is_taken_up_without_a_restart_and_told(rig: Rig) -> None:
    old, new = planted(), planted()
    reference = rig.put("redis", old)
    told: list[bytes] = []
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        kept.keeper.watch(reference, lambda secret: told.append(secret.reveal()))
        first = kept.keeper.current(reference)
        assert await kept.keeper.refresh(reference) and told == [], "the same value is no change"
        rig.put("redis", new)
        assert await kept.keeper.refresh(reference)
        second = kept.keeper.current(reference)
        assert second.reveal() == new.encode() and told == [new.encode()]
        assert not first.version or first.version != second.version
        assert first.reveal() == old.encode(), "whoever holds the old one goes on with it"


async def test_values_are_asked_for_when_their_time_has_come_and_not_before(rig: Rig) -> None:
    reference = rig.put("redis", planted())
    async with Kept(rig, draw=lambda: 0.0) as kept:
        await kept.keeper.load([reference])
        new = planted()
        rig.put("redis", new)
        kept.clock.now_s += kept.source.refresh_s * 0.89
        await kept.keeper.refresh_due()
        assert kept.source.asked == 1
        kept.clock.now_s += max(kept.source.refresh_s * 0.02, 1.0)
        await kept.keeper.refresh_due()
        assert kept.source.asked == (2 if rig.rotates else 1)
        assert (kept.keeper.current(reference).reveal() == new.encode()) is rig.rotates


async def test_the_last_good_value_lives_through_an_outage_and_its_age_is_known(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    value = planted()
    reference = rig.put("redis", value)
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        kept.source.failing = SecretUnavailable(f"`{reference}`: gone for now")
        for _ in range(20):
            kept.clock.now_s += 400.0
            assert not await kept.keeper.refresh(reference)
            assert kept.keeper.current(reference).reveal() == value.encode()
        if rig.rotates:
            (standing,) = kept.keeper.standings()
            assert standing.age_s == 8_000.0 and "gone for now" in standing.fault
        warned = [r for r in caplog.records if "last good value" in r.getMessage()]
        assert len(warned) == 20 and vars(warned[-1])["age_s"] == 8_000
        kept.source.failing = None
        assert await kept.keeper.refresh(reference)
        assert all(standing.age_s == 0.0 and not standing.fault for standing in kept.keeper.standings())


async def test_a_secret_taken_away_is_an_outage_too(rig: Rig) -> None:
    value = planted()
    reference = rig.put("redis", value)
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        rig.take_away("redis")
        assert not await kept.keeper.refresh(reference)
        assert kept.keeper.current(reference).reveal() == value.encode()


async def test_a_source_that_fails_is_left_alone_for_a_growing_while_or_as_long_as_it_asks(rig: Rig) -> None:
    reference = rig.put("redis", planted())
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        kept.source.failing = SecretUnavailable("later")
        asked_at: list[float] = []
        kept.clock.now_s += 1_000.0
        for _ in range(4_000):
            before = kept.source.asked
            await kept.keeper.refresh_due()
            if kept.source.asked > before:
                asked_at.append(kept.clock.now_s)
            kept.clock.now_s += 0.5
        gaps = [b - a for a, b in zip(asked_at, asked_at[1:], strict=False)]
        if not rig.rotates:
            assert not asked_at
            return
        assert 5 < len(asked_at) < 20 and gaps == sorted(gaps) and max(gaps) <= 301.0
        kept.source.failing = SecretUnavailable("later", retry_after_s=900.0)
        kept.clock.now_s += 400.0
        await kept.keeper.refresh_due()
        asked = kept.source.asked
        kept.clock.now_s += 890.0
        await kept.keeper.refresh_due()
        assert kept.source.asked == asked
        kept.clock.now_s += 20.0
        await kept.keeper.refresh_due()
        assert kept.source.asked == asked + 1


async def test_one_flight_however_many_ask(rig: Rig) -> None:
    reference = rig.put("redis", planted())
    async with Kept(rig) as kept:
        kept.source.delay_s = 0.05
        await asyncio.gather(*(kept.keeper.load([reference]) for _ in range(20)), *(kept.keeper.refresh(reference) for _ in range(20)))
        assert kept.source.asked == 1


async def test_whoever_leaves_does_not_take_the_flight_along(rig: Rig) -> None:
    value = planted()
    reference = rig.put("redis", value)
    async with Kept(rig) as kept:
        kept.source.delay_s = 0.1
        leaving = asyncio.create_task(kept.keeper.refresh(reference))
        staying = asyncio.create_task(kept.keeper.refresh(reference))
        await asyncio.sleep(0.02)
        leaving.cancel()
        assert await staying
        assert kept.keeper.current(reference).reveal() == value.encode() and kept.source.asked == 1


async def test_a_source_that_never_answers_is_given_up(rig: Rig) -> None:
    reference = rig.put("redis", planted())
    async with Kept(rig, timeout_s=0.1) as kept:
        kept.source.delay_s = 30.0
        async with asyncio.timeout(5.0):
            with pytest.raises(SecretFaults, match="no answer within"):
                await kept.keeper.load([reference], patience_s=0.0)


async def test_being_refused_with_a_value_asks_for_it_soon_and_never_floods(rig: Rig) -> None:
    reference = rig.put("redis", planted())
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        new = planted()
        rig.put("redis", new)
        for _ in range(100):
            kept.keeper.suspect(reference)
            await kept.keeper.refresh_due()
            kept.clock.now_s += 0.01
        assert kept.source.asked == (2 if rig.rotates else 1)
        assert (kept.keeper.current(reference).reveal() == new.encode()) is rig.rotates
        kept.keeper.suspect("env:UNKNOWN")


async def test_a_value_its_holder_cannot_use_does_not_stop_the_others(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    reference = rig.put("redis", planted())
    told: list[bytes] = []

    def cannot(_: Secret) -> None:
        raise SecretMissing("`x`: holds a character that a header cannot")

    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        kept.keeper.watch(reference, cannot)
        kept.keeper.watch(reference, lambda secret: told.append(secret.reveal()))
        new = planted()
        rig.put("redis", new)
        await kept.keeper.refresh(reference)
        assert told == [new.encode()] and "changed secret cannot be used" in caplog.text


async def test_a_source_that_breaks_its_contract_stops_no_other(rig: Rig) -> None:
    reference = rig.put("redis", planted())
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        kept.source.failing = RuntimeError("planted")
        kept.clock.now_s += 10_000.0
        await kept.keeper.refresh_due()
        assert all("its source failed (RuntimeError)" in standing.fault for standing in kept.keeper.standings())


async def test_the_background_task_takes_up_a_change_by_itself(rig: Rig) -> None:
    reference = rig.put("redis", planted())
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        taken = asyncio.Event()
        kept.keeper.watch(reference, lambda _: taken.set())
        running = asyncio.create_task(kept.keeper.run())
        rig.put("redis", planted())
        await asyncio.sleep(0.02)
        kept.keeper.suspect(reference)
        if rig.rotates:
            await asyncio.wait_for(taken.wait(), 5.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert taken.is_set() is rig.rotates


async def test_values_are_in_no_log_exception_or_repr(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    reference = rig.put("redis", planted())
    told: list[str] = []
    async with Kept(rig) as kept:
        await kept.keeper.load([reference])
        rig.put("redis", planted())
        await kept.keeper.refresh(reference)
        rig.take_away("redis")
        await kept.keeper.refresh(reference)
        secret = kept.keeper.current(reference)
        told += [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", repr([secret]), repr(kept.keeper.standings())]
        told.append(msgspec.json.encode({"s": secret}, enc_hook=str).decode())
        with pytest.raises(TypeError):
            pickle.dumps(secret)
        try:
            await kept.source.inner.fetch(reference)
        except (SecretMissing, SecretUnavailable) as no:
            told += [str(no), repr(no), str(no.__cause__), str(no.args)]
    told += [r.getMessage() + json.dumps({k: str(v) for k, v in vars(r).items()}) for r in caplog.records]
    assert len(rig.values) == 2 and not any(value in text for value in rig.values for text in told)


def test_a_file_that_could_block_or_never_end_is_no_secret(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    (tmp_path / "blank").write_text("  \n")

    async def faults() -> list[str]:
        found: list[Any] = await asyncio.gather(
            *(FileSecrets().fetch(f"file:{tmp_path / name}") for name in ("pipe", "large", "blank", "none")), return_exceptions=True
        )
        return [str(one) for one in found if isinstance(one, SecretMissing)]

    told = asyncio.run(asyncio.wait_for(faults(), 5.0))
    assert [t.rpartition(": ")[2] for t in told] == [
        "is not a regular file",
        "the file is empty or larger than 64 KiB",
        "the file is empty or larger than 64 KiB",
        "No such file or directory",
    ]
