"""A gateway whose every secret lies in a vault: rotated, refused, throttled and gone, without a restart and without a word of a value."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

pytest.importorskip("msal", reason="the azure extra is not installed")
pytest.importorskip("azure.keyvault.secrets", reason="the azure extra is not installed")

from azure_authority import AzureAuthority
from backend_thread import BackendThread, whole
from key_vault_emulator import KeyVaultEmulator
from scripted_backend import Exchange, answer
from served_gateway import ServedGateway
from wire import eventually


def planted() -> str:
    return "planted-" + uuid.uuid4().hex


class Vaulted:
    def __init__(self, served: ServedGateway, vault: KeyVaultEmulator) -> None:
        self.served = served
        self.vault = vault
        self.accepted = {planted()}
        self.values = [*self.accepted, os.urandom(32).hex(), os.urandom(32).hex()]
        for name, value in zip(("models-key", "audit-key", "pepper"), self.values, strict=True):
            vault.put(name, value)
        served.backend.script = self._answer

    async def _answer(self, exchange: Exchange) -> None:
        fields = dict(line.lower().split(": ", 1) for line in exchange.head.decode().split("\r\n")[1:] if ": " in line)
        good = fields.get("authorization", "").removeprefix("bearer ") in self.accepted
        await exchange.say(answer(200 if good else 401, whole() if good else b"{}"))

    def rotate(self, name: str) -> str:
        value = planted() if name == "models-key" else os.urandom(32).hex()
        self.values.append(value)
        self.vault.put(name, value)
        return value

    def settings(self, **changes: str) -> str:
        references = {"key": "keyvault:my-vault/audit-key", "pepper": "keyvault:my-vault/pepper"} | changes
        credential = references.pop("credential", "keyvault:my-vault/models-key")
        more = f"[secrets]\nrefresh_s = 10\ntimeout_s = 2\nstart_s = 3\nca_file = \"{self.vault.ca_file}\"\n{self.served.identity()}"
        more += f'[secrets.vault_url]\nmy-vault = "{self.vault.url}"\n'
        return str(self.served.write(**references, more=more, backend_lines=f'credential = "{credential}"'))


@pytest.fixture(scope="module")
def vaulted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vaulted]:
    with AzureAuthority() as azure, BackendThread() as backend, KeyVaultEmulator() as vault:
        served = ServedGateway(azure, backend, tmp_path_factory.mktemp("vaulted"))
        made = Vaulted(served, vault)
        made.settings()
        served.start()
        try:
            yield made
        finally:
            served.stop()


def test_it_starts_from_the_vault_with_a_token_for_vaults(vaulted: Vaulted) -> None:
    assert vaulted.served.ask().status == 200
    bearer = next(r.headers["authorization"] for r in vaulted.vault.seen if "authorization" in r.headers)
    claims = jwt.decode(bearer.removeprefix("Bearer "), options={"verify_signature": False})
    assert claims["aud"] == "https://vault.azure.net"


def test_a_key_replaced_in_the_vault_is_used_without_a_restart(vaulted: Vaulted) -> None:
    new = vaulted.rotate("models-key")
    before = vaulted.served.process.pid
    vaulted.accepted = {new}  # the backend has let go of the old one: our 401 is the news
    eventually(lambda: vaulted.served.ask().status == 200, 15.0)
    assert vaulted.served.ask().status == 200 and vaulted.served.process.poll() is None and vaulted.served.process.pid == before
    assert '"event":"secret changed"' in vaulted.served.log


def test_the_last_good_values_serve_through_an_outage_and_their_age_shows(vaulted: Vaulted) -> None:
    vaulted.vault.fault = "unavailable"

    def noticed() -> bool:
        return 'gateway_secret_healthy{reference="keyvault:my-vault/models-key"} 0.0' in vaulted.served.metrics()

    try:
        assert eventually(noticed, 20.0), vaulted.served.metrics()
        assert vaulted.served.ask().status == 200
        assert "the last good value goes on" in vaulted.served.log
    finally:
        vaulted.vault.fault = ""
    assert eventually(lambda: not noticed(), 60.0)


def test_a_new_signing_key_waits_for_the_next_start(vaulted: Vaulted) -> None:
    vaulted.rotate("audit-key")
    assert eventually(lambda: "takes effect at the next start" in vaulted.served.log, 20.0)
    assert '"setting":"audit.key"' in vaulted.served.log and vaulted.served.ask().status == 200


def test_nothing_of_a_value_is_in_log_metrics_or_answers(vaulted: Vaulted) -> None:
    reply = vaulted.served.ask()
    text = vaulted.served.log + vaulted.served.metrics() + reply.body.decode() + str(reply.headers)
    assert len(vaulted.values) > 2 and not any(value in text for value in vaulted.values)


def test_check_live_names_every_secret_that_cannot_be_had_in_one_line_each(vaulted: Vaulted, tmp_path: Path) -> None:
    folder = tmp_path
    checked = Vaulted.__new__(Vaulted)
    checked.served = ServedGateway(vaulted.served.azure, vaulted.served.backend, folder)
    checked.vault = vaulted.vault
    good = checked.settings()
    done = checked.served.command("check", "-c", good, "--live")
    assert (done.returncode, done.stdout) == (0, "no fault\n"), done.stderr
    bad = checked.settings(pepper="keyvault:my-vault/unknown", credential="keyvault:my-vault/models-key/" + "0" * 32)
    done = checked.served.command("check", "-c", bad, "--live")
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 2, done.stderr
    assert all("the vault holds no such secret or version" in line for line in lines)
    assert "(for audit.pepper)" in done.stderr and "(for backends.credential)" in done.stderr
    served = checked.served.command("serve", "-c", bad)
    assert served.returncode == 1 and served.stderr.count("holds no such secret") == 2
