"""Settings: one tree, every fault at once with its line, and no insecure choice by omission."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import MAX_SETTINGS_BYTES, Settings, SettingsFaults, host_port, load
from gateway.settings_bounds import is_loopback

GOOD = """
[server]
data = "127.0.0.1:8080"
[policies]
directory = "policies"
[audit]
directory = "audit"
key = "file:audit.key"
pepper = "env:PEPPER"
origin = "gateway.example/log"
[[issuers]]
name = "company"
type = "oidc"
issuer = "https://login.example"
audiences = ["api://gateway"]
[[tenants]]
id = "one"
issuer = "company"
[[backends]]
name = "models"
url = "https://models.example/v1"
[[routes]]
model = "assistant"
backends = ["models"]
operations = ["chat.completions"]
"""


def loaded(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ or {})


def faults(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[tuple[int, str]]:
    with pytest.raises(SettingsFaults) as no:
        loaded(tmp_path, text, environ)
    return [(fault.line, fault.message) for fault in no.value.faults]


def line_of(text: str, start: str, nth: int = 1) -> int:
    return [n for n, line in enumerate(text.split("\n"), 1) if line.startswith(start)][nth - 1]


def test_a_small_file_is_enough_and_defaults_are_safe(tmp_path: Path) -> None:
    made = loaded(tmp_path, GOOD)
    assert made.keys.enabled is False and made.limits.store == "memory" and made.telemetry.scrapers == ()
    assert all(is_loopback(host_port(getattr(made.server, name))[0]) for name in ("data", "control", "ops"))
    with pytest.raises(AttributeError):
        made.server.data = "0.0.0.0:80"  # type: ignore[misc]


def test_all_faults_at_once_with_their_lines(tmp_path: Path) -> None:
    text = GOOD.replace('directory = "policies"', "directory = 5").replace('origin = "gateway.example/log"', "")
    text = text.replace('type = "oidc"', 'type = "oauth"').replace("[server]", '[server]\ncolour = "red"') + "[odd]\nx = 1\n"
    found = faults(tmp_path, text)
    assert [line for line, _ in found] == sorted(line for line, _ in found)
    assert {line for line, _ in found} == {
        line_of(text, "colour"), line_of(text, "directory = 5"), line_of(text, "[audit]"), line_of(text, "type ="), line_of(text, "[odd]"),
    }  # fmt: skip
    said = " ".join(message for _, message in found)
    for word in ("`colour`", "`policies.directory`", "`origin`", "`issuers.type`", "[odd]"):
        assert word in said


@pytest.mark.parametrize("section", ["policies", "audit", "issuers", "tenants", "backends", "routes"])
def test_a_section_that_is_missing_is_named(tmp_path: Path, section: str) -> None:
    head = f"[[{section}]]" if f"[[{section}]]" in GOOD else f"[{section}]"
    before, _, after = GOOD.partition(head)
    rest = after.split("\n[", 1)
    text = before + ("[" + rest[1] if len(rest) == 2 else "")
    assert any(f"[{section}] is missing" in message for _, message in faults(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('data = "127.0.0.1:8080"', 'data = "0.0.0.0:8080"', "plaintext beyond loopback"),
        ('data = "127.0.0.1:8080"', 'data = "[::]:8080"', "plaintext beyond loopback"),
        ('data = "127.0.0.1:8080"', 'data = "gateway.example:8080"', "plaintext beyond loopback"),
        ('data = "127.0.0.1:8080"', 'data = "8080"', "must be host:port"),
        ('data = "127.0.0.1:8080"', 'data = "127.0.0.1:99999"', "must be host:port"),
        ("https://models.example/v1", "http://models.example/v1", "plaintext is for loopback only"),
        ("https://models.example/v1", "http://127.0.0.1.evil.example/v1", "plaintext is for loopback only"),
        ("https://models.example/v1", "ftp://models.example/v1", "must be http(s)"),
        ("https://models.example/v1", "https://user@models.example/v1", "must be http(s)"),
        ("https://models.example/v1", "https://models.example/v1?key=1", "must be http(s)"),
        ("file:audit.key", "0123456789abcdef", "must be a reference"),
        ("env:PEPPER", "secret", "must be a reference"),
        ("env:PEPPER", "env:A B", "must be a reference"),
        ('url = "https', 'credential = "sk-abc"\nurl = "https', "must be a reference"),
        ('url = "https', 'kind = "azure"\nurl = "https', "needs `api_version`"),
        ('backends = ["models"]', "backends = []", "has no backend"),
        ('backends = ["models"]', 'backends = ["other"]', "unknown backend `other`"),
        ('issuer = "company"', 'issuer = "other"', "unknown issuer `other`"),
        ('type = "oidc"\nissuer = "https://login.example"', 'type = "entra"', "needs `directories`"),
        ('issuer = "https://login.example"\n', "", "`issuer` is missing"),
        ('audiences = ["api://gateway"]', "audiences = []", "`audiences` is empty"),
        ('model = "assistant"', 'model = "../assistant"', "is not a name"),
        ("[[routes]]", '[limits]\nstore = "redis"\n[[routes]]', "needs `url`"),
        ("[[routes]]", '[network.zones]\noffice = ["10.0.0.300/8"]\n[[routes]]', "is not a network"),
        ("[[routes]]", '[server.terminator]\nname = "x"\npeers = []\n[[routes]]', "needs `peers`"),
        ("[[routes]]", "[inspection]\nner = 1\n[[routes]]", "`inspection.ner`"),
        ('[policies]\ndirectory = "policies"', "policies = 5", "must be a table"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    found = faults(
        tmp_path, text if not text.startswith("\n[server]") or "policies = 5" not in text else "policies = 5\n" + text.replace(new, "")
    )
    assert any(said in message for _, message in found), found
    assert not any("sk-abc" in message or "0123456789abcdef" in message for _, message in found)


def test_names_stand_once(tmp_path: Path) -> None:
    again = GOOD[GOOD.index("[[routes]]") :]
    ((line, message),) = faults(tmp_path, GOOD + again)
    assert "stands twice" in message and line == line_of(GOOD + again, 'model = "assistant"', 2)


@pytest.mark.parametrize("text", ["[server", "a = 1\na = 2\n", "\ufeff[server]\n", "x = \x00"])
def test_what_is_not_toml_is_one_fault(tmp_path: Path, text: str) -> None:
    ((_, message),) = faults(tmp_path, text)
    assert message.startswith("is not TOML")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsFaults, match="cannot be read"):
        load(tmp_path / "absent.toml", {})
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (MAX_SETTINGS_BYTES + 1))
    with pytest.raises(SettingsFaults, match="larger"):
        load(large, {})
    large.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsFaults, match="not UTF-8"):
        load(large, {})


def test_the_environment_overrides_scalars(tmp_path: Path) -> None:
    environ = {
        "GATEWAY__SERVER__MAX_EXCHANGES": "7", "GATEWAY__INSPECTION__NER": "false", "GATEWAY__SERVER__DRAIN_S": "1.5",
        "GATEWAY__SERVER__INSTANCE": "42", "PATH": "/bin",
    }  # fmt: skip
    made = loaded(tmp_path, GOOD, environ)
    assert (made.server.max_exchanges, made.inspection.ner, made.server.drain_s, made.server.instance) == (7, False, 1.5, "42")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GATEWAY__SERVER__MAX_EXCHANGES", "many", "`server.max_exchanges`"),
        ("GATEWAY__SERVER__COLOUR", "red", "unknown key `colour`"),
        ("GATEWAY__SERVER__DATA", "0.0.0.0:1", "plaintext beyond loopback"),
    ],
)
def test_the_environment_is_checked_alike(tmp_path: Path, name: str, value: str, said: str) -> None:
    assert any(said in message for _, message in faults(tmp_path, GOOD, {name: value}))


@pytest.mark.parametrize(
    "name", ["GATEWAY__SEVER__MAX_EXCHANGES", "GATEWAY__SERVER", "GATEWAY__SERVER__TLS__KEY", "GATEWAY__BACKENDS__URL"]
)
def test_a_misspelt_override_is_an_error(tmp_path: Path, name: str) -> None:
    ((_, message),) = faults(tmp_path, GOOD, {name: "7"})
    assert name in message


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
     ("localhost.evil.example", False), ("127.1", False), ("", False)],
)  # fmt: skip
def test_what_counts_as_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_listeners() -> None:
    assert host_port("[::1]:80") == ("::1", 80)
    for wrong in ("", ":80", "x", "x:", "x:70000", "x:-1"):
        with pytest.raises(ValueError):
            host_port(wrong)


def test_relative_paths_stand_beside_the_file_wherever_the_command_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = '[keys]\nfile = "keys.jsonl"\n[server.tls]\ncertificate = "tls/a.pem"\nkey = "/etc/a.key"\n'
    text = GOOD.replace("env:PEPPER", "file:secrets/pepper").replace("file:audit.key", "file:/run/audit.key") + more
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = loaded(tmp_path, text)
    assert (made.policies.directory, made.audit.directory) == (str(tmp_path / "policies"), str(tmp_path / "audit"))
    assert (made.audit.key, made.audit.pepper) == ("file:/run/audit.key", f"file:{tmp_path / 'secrets' / 'pepper'}")
    assert made.keys.file == str(tmp_path / "keys.jsonl")
    assert made.server.tls is not None
    assert (made.server.tls.certificate, made.server.tls.key) == (str(tmp_path / "tls" / "a.pem"), "/etc/a.key")
    monkeypatch.chdir(tmp_path)
    assert load(Path("gateway.toml"), {}).policies.directory == "policies"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GATEWAY__SERVER__COLOUR", "red", "unknown key `colour` in [server]"),
        ("GATEWAY__SERVER__MAX_BODY_BYTES", "many", "`server.max_body_bytes`: expected `int`, got `str`"),
        ("GATEWAY__LIMITS__REPLICAS", "0", "`limits.replicas` must be from 1"),
        ("GATEWAY__AUDIT__KEY", "0123456789abcdef", "`audit.key` must be a reference"),
    ],
)
def test_a_fault_of_the_environment_names_the_variable(tmp_path: Path, variable: str, value: str, said: str) -> None:
    with pytest.raises(SettingsFaults) as no:
        loaded(tmp_path, GOOD, {variable: value})
    (fault,) = no.value.faults
    assert str(fault).startswith(f"the environment's `{variable}`: {said}")
