"""Identities in settings: each misconfiguration is one fault, at its line, that says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.settings import SettingsFaults, load
from gateway.settings_identity import EXTRA, Identity, completed, extra_installed, identity_faults, origin_fault

TENANT = "11111111-2222-4333-8444-555555555555"
CLIENT = "77777777-6666-4555-8444-333333333333"
PERSONAL = "9188040d-6c67-4c5b-b112-36a304b66dad"
WEBHOOK = {
    "AZURE_CLIENT_ID": CLIENT,
    "AZURE_TENANT_ID": TENANT,
    "AZURE_FEDERATED_TOKEN_FILE": "/var/run/secrets/azure/tokens/azure-identity-token",
    "AZURE_AUTHORITY_HOST": "https://login.microsoftonline.us/",
}
BASE = """
[policies]
directory = "policies"
[audit]
directory = "audit"
key = "file:audit.key"
pepper = "env:PEPPER"
origin = "gateway.example/log"
[[issuers]]
name = "entra"
type = "entra"
directories = ["11111111-2222-4333-8444-555555555555"]
audiences = ["api://gateway"]
# issuer
[[tenants]]
id = "one"
issuer = "entra"
[[backends]]
name = "models"
url = "https://models.example/v1"
# backend
[[routes]]
model = "assistant"
backends = ["models"]
operations = ["chat.completions"]
# end
"""
WHO = f'identity_client_id = "{CLIENT}"\nidentity_tenant = "{TENANT}"\n'
SECRET = WHO + 'client_secret = "env:S"\n'

needs_extra = pytest.mark.skipif(not extra_installed("msal"), reason="the azure extra is not installed")


def backend(text: str) -> str:
    return BASE.replace("# backend\n", text)


def faults(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[tuple[int, str]]:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    try:
        load(file, environ or {})
    except SettingsFaults as found:
        return [(fault.line, fault.message) for fault in found.faults]
    return []


def line_of(text: str, start: str) -> int:
    return next(number for number, line in enumerate(text.split("\n"), 1) if line.startswith(start))


@needs_extra
@pytest.mark.parametrize(
    "text",
    [
        'identity = "managed"\n',
        f'identity = "managed"\nidentity_client_id = "{CLIENT}"\nscope = "https://ai.azure.com/.default"\n',
        f'identity = "client_secret"\n{SECRET}',
        f'identity = "client_secret"\n{SECRET}authority = "https://login.microsoftonline.us"\nscope = "api://x/.default"\n',
        f'identity = "client_certificate"\n{WHO}client_certificate = "file:/c.pem"\n',
        f'identity = "workload"\n{WHO}federated_token_file = "/t"\n',
        f'identity = "on_behalf_of"\n{SECRET}',
        f'identity = "on_behalf_of"\n{WHO}client_certificate = "env:CERTIFICATE"\n',
        f'identity = "on_behalf_of"\n{WHO}federated_token_file = "/t"\n',
    ],
)
def test_what_is_complete_has_no_fault(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, backend(text)) == []


@needs_extra
def test_the_webhooks_environment_completes_a_workloads_identity_and_no_other(tmp_path: Path) -> None:
    assert faults(tmp_path, backend('identity = "workload"\n'), WEBHOOK) == []
    made = completed(Identity(identity="workload"), WEBHOOK)
    assert (made.identity_client_id, made.identity_tenant, made.authority) == (CLIENT, TENANT, "https://login.microsoftonline.us")
    assert completed(Identity(identity="workload", identity_tenant="other"), WEBHOOK).identity_tenant == "other"
    other = Identity(identity="client_secret")
    assert completed(other, WEBHOOK) is other


@needs_extra
@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ('identity = "magic"\n', "identity", "must be one of `managed`, `workload`, `client_secret`, `client_certificate`, `on_behalf_of`"),
        ('identity = "managed"\ncredential = "env:K"\n', "identity", "exclude each other"),
        ('scope = "https://x/.default"\n', "scope", "nothing without `identity`"),
        (SECRET, "client_secret", "nothing without `identity`"),
        ('identity = "managed"\nclient_secret = "env:S"\n', "client_secret", "nothing for identity `managed`"),
        (f'identity = "managed"\nidentity_tenant = "{TENANT}"\n', "identity_tenant", "nothing for identity `managed`"),
        ('identity = "managed"\nauthority = "https://login.microsoftonline.us"\n', "authority", "the host knows its own"),
        ('identity = "managed"\nidentity_client_id = "mine"\n', "identity_client_id", "lower-case GUID"),
        ('identity = "managed"\nscope = "https://cognitiveservices.azure.com"\n', "scope", "end in `/.default`"),
        ('identity = "managed"\nscope = "a b/.default"\n', "scope", "end in `/.default`"),
        (f'identity = "client_secret"\n{WHO}', "identity", "needs `client_secret`"),
        (f'identity = "client_secret"\n{WHO}client_secret = "hunter2"\n', "client_secret", "must be a reference"),
        (f'identity = "client_secret"\n{SECRET}federated_token_file = "/t"\n', "federated_token_file", "nothing for identity"),
        (f'identity = "client_secret"\n{SECRET.replace(TENANT, "common")}', "identity_tenant", "never a name or `common`"),
        (f'identity = "client_secret"\n{SECRET}authority = "http://login.example"\n', "authority", "must be https"),
        (f'identity = "client_secret"\n{SECRET}authority = "https://login.example/x"\n', "authority", "without a path"),
        (f'identity = "client_certificate"\n{WHO}client_certificate = "-----BEGIN"\n', "client_certificate", "must be a reference"),
        ('identity = "workload"\n', "identity", "the environment's `AZURE_CLIENT_ID`"),
        (f'identity = "on_behalf_of"\n{WHO}', "identity", "exactly one of"),
        (f'identity = "on_behalf_of"\n{SECRET}federated_token_file = "/t"\n', "identity", "exactly one of"),
        (f'identity = "on_behalf_of"\n{SECRET.replace(TENANT, CLIENT)}', "identity_tenant", "nobody to speak for"),
    ],
)
def test_each_mistake_is_said_at_its_line(tmp_path: Path, text: str, key: str, said: str) -> None:
    whole = backend(text)
    found = faults(tmp_path, whole)
    assert (line_of(whole, f"{key} ="), True) in [(line, said in message) for line, message in found], found
    assert not any("hunter2" in message for _, message in found)


def test_the_extra_is_asked_for_only_where_settings_need_it() -> None:
    def without(module: str) -> bool:
        return module != "msal"

    assert list(identity_faults(Identity(), {}, without)) == []
    assert list(identity_faults(Identity(identity="managed"), {}, without)) == [("identity", f"identity `managed`: {EXTRA}")]


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ('guests = "perhaps"\n', "guests", "guests"),
        ('groups_overage = "resolve"\n', "groups_overage", "needs [directory]"),
        ('applications = ["my app"]\n', "applications", "lower-case GUID"),
        ('authority = "https://login.example/"\n', "authority", "without a path"),
        ('sts_authority = "http://sts.example"\n', "sts_authority", "must be https"),
    ],
)
def test_rules_for_callers_are_checked(tmp_path: Path, text: str, key: str, said: str) -> None:
    whole = BASE.replace("# issuer\n", text)
    assert [(line, said in message) for line, message in faults(tmp_path, whole)] == [(line_of(whole, f"{key} ="), True)]


@pytest.mark.parametrize(("value", "said"), [("common", "never `common`"), (PERSONAL, "anyone is in it"), (TENANT.upper() + "A", "GUID")])
def test_directories_are_guids_and_never_everybodys(tmp_path: Path, value: str, said: str) -> None:
    whole = BASE.replace(f'directories = ["{TENANT}"]', f'directories = ["{value}"]')
    assert [(line, said in message) for line, message in faults(tmp_path, whole)] == [(line_of(whole, "directories ="), True)]


@pytest.mark.parametrize("name", ["a|b", "a/b", "A", "a b", "a\\nb"])
def test_a_tenant_that_could_look_like_another_is_refused(tmp_path: Path, name: str) -> None:
    """Policies and roles part tenant, issuer and subject by `|` and `/`."""
    whole = BASE.replace('id = "one"', f'id = "{name}"')
    assert [line for line, _ in faults(tmp_path, whole)] == [line_of(whole, "id =")]


def test_an_issuer_that_holds_the_separator_is_refused(tmp_path: Path) -> None:
    plain = 'type = "oidc"\nissuer = "https://login.example/a|b"\n'
    whole = BASE.replace(f'type = "entra"\ndirectories = ["{TENANT}"]\n', plain)
    assert [(line, "`|`" in message) for line, message in faults(tmp_path, whole)] == [(line_of(whole, 'issuer = "https'), True)]


def test_keys_of_entra_mean_nothing_for_other_issuers(tmp_path: Path) -> None:
    whole = BASE.replace('type = "entra"\n', 'type = "oidc"\nissuer = "https://login.example"\nguests = "allow"\n')
    whole = whole.replace(f'directories = ["{TENANT}"]\n', "")
    assert [(line, "for Entra" in message) for line, message in faults(tmp_path, whole)] == [(line_of(whole, "guests ="), True)]


@needs_extra
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs an `identity`"),
        (f'identity = "on_behalf_of"\n{SECRET}', "needs an `identity`"),
        ('identity = "managed"\nurl = "http://graph.example/v1.0"\n', "must be https"),
    ],
)
def test_the_directory_is_asked_as_the_gateway_itself_over_tls(tmp_path: Path, text: str, said: str) -> None:
    found = faults(tmp_path, BASE + "[directory]\n" + text)
    assert any(said in message for _, message in found), found
    resolve = BASE.replace("# issuer\n", 'groups_overage = "resolve"\n')
    assert faults(tmp_path, resolve + '[directory]\nidentity = "managed"\n') == []


@needs_extra
def test_check_looks_into_the_files_of_identities(tmp_path: Path) -> None:
    """One line a mistake, with file and line, from the command itself."""
    (tmp_path / "c.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    text = f'identity = "client_certificate"\n{WHO}client_certificate = "file:{tmp_path}/c.pem"\nidentity_ca_file = "{tmp_path}/none.pem"\n'
    text += '[[backends]]\nname = "second"\nurl = "https://b.example"\nidentity = "workload"\n'
    text += f'{WHO}federated_token_file = "{tmp_path}/none"\n'
    file = tmp_path / "gateway.toml"
    whole = backend(text)
    file.write_text(whole)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "-c", str(file), "--json"], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PEPPER": "x" * 32},
    )  # fmt: skip
    found = [one for one in json.loads(done.stdout)["faults"] if str(file) in one]
    assert done.returncode == 1
    unread = "cannot be read"
    for key, said in (("client_certificate", "one private key"), ("identity_ca_file", unread), ("federated_token_file", unread)):
        at = f"{file}:{line_of(whole, f'{key} =')}: "
        assert [one for one in found if one.startswith(at) and said in one], found


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://login.microsoftonline.com", True),
        ("https://localhost:8443", True),
        ("http://login.example", False),
        ("https://login.example/", False),
        ("https://user@login.example", False),
        ("https://login.example?x", False),
        ("https://", False),
        ("https://[::1", False),
        ("https://login.example:0", False),
        ("", False),
    ],
)
def test_an_origin_is_nothing_but_scheme_host_and_port(url: str, good: bool) -> None:
    assert (origin_fault(url) == "") is good
