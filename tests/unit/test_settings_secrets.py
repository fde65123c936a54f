"""[secrets] and [content_safety]: every misconfiguration is one line that says what to do, with the line where it stands."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from test_settings import GOOD, faults, loaded

from gateway import settings as tree
from gateway.settings_content_safety import content_safety_faults
from gateway.settings_secrets import REFERENCES, reference_fault, references, secrets_faults, vault_scope, vault_urls, vaults

VAULTED = GOOD.replace('key = "file:audit.key"', 'key = "keyvault:my-vault/audit-key"')
MANAGED = '\n[secrets]\nidentity = "managed"\n'
SAFETY = '\n[content_safety]\nendpoint = "https://one.cognitiveservices.azure.com"\nkey = "env:SAFETY"\n'


def absent(module: str) -> bool:
    return False


def test_a_vault_with_somebody_to_open_it(tmp_path: Path) -> None:
    made = loaded(tmp_path, VAULTED + MANAGED)
    assert list(references(made)) == ["keyvault:my-vault/audit-key", "env:PEPPER"] and vaults(references(made)) == ["my-vault"]
    assert vault_urls(made.secrets)("My-Vault") == "https://my-vault.vault.azure.net"
    assert vault_scope(made.secrets) == "https://vault.azure.net/.default"


def test_vaults_elsewhere(tmp_path: Path) -> None:
    more = MANAGED + 'vault_suffix = "vault.azure.cn"\n[secrets.vault_url]\nmine = "https://10.0.0.7:8443"\n'
    made = loaded(tmp_path, VAULTED + more)
    assert vault_urls(made.secrets)("mine") == "https://10.0.0.7:8443" and vault_urls(made.secrets)("x") == "https://x.vault.azure.cn"
    assert vault_scope(made.secrets) == "https://vault.azure.cn/.default"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (VAULTED, "vault `my-vault` cannot be asked: [secrets] needs an `identity`"),
        (VAULTED + "\n[secrets]\nrefresh_s = 60\n", "vault `my-vault` cannot be asked"),
        (VAULTED + MANAGED + "refresh_s = 5\n", "`refresh_s` must be from 10 to 86400"),
        (VAULTED + MANAGED + "timeout_s = 0.1\n", "`timeout_s` must be from 1.0 to 60.0"),
        (VAULTED + MANAGED + 'vault_suffix = "https://x"\n', "`vault_suffix` must be a domain"),
        (VAULTED + MANAGED + '[secrets.vault_url]\nmine = "http://10.0.0.7"\n', "`vault_url.mine` must be https://host[:port]"),
        (VAULTED + '\n[secrets]\nidentity = "on_behalf_of"\n', "`on_behalf_of` means nothing here"),
        (
            VAULTED + '\n[secrets]\nidentity = "client_secret"\nclient_secret = "keyvault:my-vault/mine"\n',
            "`client_secret` opens the vault and cannot lie in one",
        ),
        (VAULTED + '\n[secrets]\nidentity = "client_secret"\n', "needs `client_secret`"),
        (GOOD.replace("file:audit.key", "keyvault:a_b/c"), "`a_b` is no vault name"),
        (GOOD.replace("file:audit.key", "keyvault:https://x.vault.azure.net/c"), "is no vault name"),
        (GOOD.replace("file:audit.key", "keyvault:my-vault"), "names no secret of the vault"),
        (GOOD.replace("file:audit.key", "keyvault:my-vault/c/latest"), "has a version that is not 32 hex digits"),
        (GOOD.replace("file:audit.key", "plain-text"), "must be a reference"),
        (GOOD + '\n[keys]\nenabled = true\npepper = "plain"\n', "`keys.pepper` must be a reference"),
        (GOOD + '\n[limits]\npassword = "env:X"\n', "`password` means nothing for store `memory`"),
        (GOOD + SAFETY.replace("https", "http"), "[content_safety] `endpoint` must be https://host[:port]"),
        (GOOD + SAFETY.replace(".com", ".com/contentsafety"), "[content_safety] `endpoint` must be https://host[:port]"),
        (GOOD + SAFETY.replace('key = "env:SAFETY"', ""), "needs either `key`, a reference, or an `identity`"),
        (GOOD + SAFETY + 'identity = "managed"\n', "needs either `key`, a reference, or an `identity`"),
        (GOOD + SAFETY.replace("env:SAFETY", "abc"), "`content_safety.key` must be a reference"),
        (GOOD + SAFETY + "deadline_ms = 5\n", "`deadline_ms` must be from 50 to 60000"),
        (GOOD + SAFETY + 'api_version = "latest"\n', "`api_version` must be a version"),
        (GOOD + SAFETY.replace("env:SAFETY", "keyvault:my-vault/safety"), "vault `my-vault` cannot be asked"),
    ],
)
def test_each_misconfiguration_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    found = faults(tmp_path, text)
    matching = [(line, message) for line, message in found if told in message]
    assert len(matching) == 1, found
    assert "\n" not in matching[0][1]


@pytest.mark.parametrize(
    "reference", ["keyvault:a_b/c", "keyvault:https://x.vault.azure.net/c", "keyvault:my-vault", "keyvault:my-vault/c/latest"]
)
def test_a_malformed_reference_is_one_fault_and_no_second_about_its_vault(tmp_path: Path, reference: str) -> None:
    found = faults(tmp_path, GOOD.replace("file:audit.key", reference))
    assert len(found) == 1 and "`audit.key`" in found[0][1], found


def test_a_word_that_is_none_of_the_choices_is_told_the_choices(tmp_path: Path) -> None:
    ((_, told),) = faults(tmp_path, GOOD + '\n[[audit_sinks]]\nname = "x"\ntype = "event_hub"\n')
    assert told == "`audit_sinks.type`: must be one of `directory`, `append_blob`, `logs_ingestion`"
    ((_, told),) = faults(tmp_path, GOOD + '\n[secrets]\nidentity = "hunter2"\n')
    assert "`managed`" in told and "hunter2" not in told


def test_faults_stand_at_their_line(tmp_path: Path) -> None:
    text = VAULTED + MANAGED + "timeout_s = 0.1\n"
    ((line, _),) = faults(tmp_path, text)
    assert text.split("\n")[line - 1] == "timeout_s = 0.1"


def test_the_missing_extra_is_said_only_where_settings_ask_for_it(tmp_path: Path) -> None:
    section = loaded(tmp_path, GOOD + MANAGED).secrets
    assert not [m for _, m in secrets_faults(None, {"env:X": []}, {}, absent)]
    told = [m for _, m in secrets_faults(section, {"keyvault:my-vault/x": []}, {}, absent)]
    assert any("`keyvault:` references: the azure extra is not installed" in m for m in told)
    safety = loaded(tmp_path, GOOD + SAFETY).content_safety
    assert [m for _, m in content_safety_faults(safety, {}, absent)] == [
        "Azure AI Content Safety: the azure extra is not installed: pip install 'secure-inference-gateway[azure]'"
    ]
    assert not list(content_safety_faults(None, {}, absent))


GOOD_ONES = ["env:A_1", "file:/run/secrets/x", "file:relative", "keyvault:abc/x", "keyvault:My-Vault-1/a-B-1/" + "0f" * 16]
VAULT_ONES = ["-abc/x", "a--b/x", "abc-/x", "abc/", "abc/x/", "abc/x/y/z", "a" * 25 + "/x", "ab/x", ""]
BAD_ONES = ["", "env:", "env:1A", "file:", "kv://abc/x", "vault:abc/x", *(f"keyvault:{one}" for one in VAULT_ONES)]


@pytest.mark.parametrize("good", GOOD_ONES)
def test_good_references(good: str) -> None:
    assert reference_fault(good) == ""


@pytest.mark.parametrize("bad", BAD_ONES)
def test_bad_references(bad: str) -> None:
    assert reference_fault(bad)


def test_every_setting_that_looks_like_a_secret_is_resolved_at_the_start() -> None:
    """A key added to settings and forgotten here would never be loaded."""
    telling = {"pepper", "password", "credential", "client_secret", "client_certificate", "connection", "appinsights"}
    classes = {**tree._SINGLE, **tree._MANY}
    for section, cls in classes.items():
        for field in msgspec.structs.fields(cls):
            if field.name in telling:
                assert field.name in REFERENCES[section], f"{section}.{field.name}"
    assert all(key in classes[section].__struct_fields__ for section, keys in REFERENCES.items() for key in keys)


def test_a_pepper_of_keys_that_are_switched_off_is_not_asked_for() -> None:
    off = SimpleNamespace(enabled=False, pepper="env:A")
    assert references({"keys": off}) == {}
    assert list(references({"keys": SimpleNamespace(enabled=True, pepper="env:A")})) == ["env:A"]
