"""Every misconfiguration of a sink is one line that says what to do, and the SDKs are asked for only by who needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.settings import AuditSink, SettingsFaults, load
from gateway.settings_sinks import sink_faults

GUID = "11111111-2222-4333-8444-555555555555"
RULE = "dcr-" + "0a" * 16
BLOB: dict[str, Any] = {
    "name": "b",
    "type": "append_blob",
    "container": "evidence",
    "endpoint": "https://a.blob.example",
    "identity": "managed",
}
LOGS: dict[str, Any] = {
    "name": "l",
    "type": "logs_ingestion",
    "endpoint": "https://e.example",
    "rule": RULE,
    "stream": "Custom-Gateway",
    "identity": "managed",
}
PLACE: dict[str, Any] = {"name": "d", "type": "directory", "directory": "/evidence"}


def faults(base: dict[str, Any], installed: bool = True, **changed: Any) -> list[tuple[str, str]]:
    return list(sink_faults(AuditSink(**{**base, **changed}), "/audit", lambda _: installed))


@pytest.mark.parametrize("base", [BLOB, LOGS, PLACE, {**BLOB, "endpoint": None, "identity": None, "connection": "env:C"}])
def test_a_whole_sink_has_no_fault(base: dict[str, Any]) -> None:
    assert faults(base) == []


@pytest.mark.parametrize(
    ("base", "changed", "key", "says"),
    [
        (PLACE, {"directory": None}, "directory", "needs `directory`"),
        (PLACE, {"directory": "/audit"}, "directory", "inside the log's own"),
        (PLACE, {"directory": "/audit/shipped"}, "directory", "inside the log's own"),
        (PLACE, {"container": "evidence"}, "container", "means nothing for type `directory`"),
        (PLACE, {"identity": "managed"}, "identity", "means nothing"),
        (PLACE, {"batch_records": 0}, "batch_records", "from 1 to 10000"),
        (PLACE, {"batch_bytes": 5_000_000}, "batch_bytes", "from 65536 to 3900000"),
        (PLACE, {"interval_s": 0.0}, "interval_s", "must be from"),
        (BLOB, {"container": "Evidence"}, "container", "lower-case"),
        (BLOB, {"container": "a--b"}, "container", "single hyphens"),
        (BLOB, {"endpoint": "http://a.blob.example"}, "endpoint", "must be https"),
        (BLOB, {"endpoint": "https://a.blob.example/evidence"}, "endpoint", "without a path"),
        (BLOB, {"endpoint": None}, "endpoint", "either `endpoint` with an `identity`, or `connection`"),
        (BLOB, {"connection": "env:C"}, "endpoint", "either"),
        (BLOB, {"identity": None}, "identity", "needs an `identity`"),
        (BLOB, {"identity": "on_behalf_of"}, "identity", "no caller to speak for"),
        (BLOB, {"rule": RULE}, "rule", "means nothing"),
        (LOGS, {"rule": "my-rule"}, "rule", "immutable id"),
        (LOGS, {"stream": "Gateway"}, "stream", "Custom-"),
        (LOGS, {"stream": None}, "stream", "needs `stream`"),
        (LOGS, {"identity": None}, "identity", "needs an `identity`"),
    ],
)
def test_a_fault_says_what_to_do(base: dict[str, Any], changed: dict[str, Any], key: str, says: str) -> None:
    found = faults(base, **changed)
    assert any(where == key and says in message for where, message in found), found
    assert all("\n" not in message and not message.endswith(".") for _, message in found)


def test_the_sdk_is_missed_only_where_it_is_asked_for() -> None:
    assert faults(PLACE, installed=False) == []
    for base in (BLOB, LOGS):
        assert [m for _, m in faults(base, installed=False)] == [
            f"type `{base['type']}`: the azure extra is not installed: pip install 'secure-inference-gateway[azure]'"
        ]


def test_a_namespace_that_is_not_there_is_an_extra_that_is_missing() -> None:
    def absent(module: str) -> bool:
        raise ModuleNotFoundError(module)

    assert "extra is not installed" in next(iter(sink_faults(AuditSink(**LOGS), "/audit", absent)))[1]


def test_faults_come_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        MINIMAL + '\n[[audit_sinks]]\nname = "one"\ntype = "directory"\ndirectory = "/elsewhere"\n'
        '\n[[audit_sinks]]\nname = "one"\ntype = "logs_ingestion"\nrule = "x"\nstream = "Custom-S"\nendpoint = "https://e.example"\n'
        'identity = "managed"\n'
    )
    with pytest.raises(SettingsFaults) as caught:
        load(file, {})
    lines = file.read_text().splitlines()
    said = {f.message: f.line for f in caught.value.faults}
    (rule,) = [m for m in said if "immutable id" in m]
    assert lines[said[rule] - 1] == 'rule = "x"'
    (twice,) = [m for m in said if "stand once" in m]
    assert said[twice] > lines.index("[[audit_sinks]]") + 4


MINIMAL = """
[policies]
directory = "policies"
[audit]
directory = "audit"
key = "env:KEY"
pepper = "env:PEPPER"
origin = "gateway.example/a"
[[issuers]]
name = "i"
type = "oidc"
issuer = "https://i.example"
audiences = ["a"]
[[tenants]]
id = "t"
issuer = "i"
[[backends]]
name = "b"
url = "https://b.example/v1"
[[routes]]
model = "m"
backends = ["b"]
operations = ["chat.completions"]
"""


def test_application_insights_is_a_reference(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(MINIMAL + '[telemetry]\nappinsights = "InstrumentationKey=x"\n')
    with pytest.raises(SettingsFaults, match=r"telemetry.appinsights` must be a reference"):
        load(file, {})
