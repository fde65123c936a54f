"""Sinks are made from settings, with identities of the gateway's own; `gateway check` says in one line what is wrong with each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest
from audit_logs import KEY, ORIGIN, closed
from azure_authority import GATEWAY, TENANT, AzureAuthority
from logs_ingestion_emulator import RULE, STREAM, LogsIngestionEmulator

from gateway.audit.tree import Signer, leaf_hash
from gateway.commands.check import evidence_faults, sink_faults
from gateway.ports import Shipment, SinkRefused, SinkUnavailable
from gateway.providers.azure.token_keeper import Flights
from gateway.providers.local.secrets import Secret, SecretMissing, resolve
from gateway.settings import Audit, AuditSink, Policies, Server, Settings, Telemetry
from gateway.sinks import checkpoint_sinks, connection_string, evidence_sink, shippers, spans


def settings(*sinks: AuditSink, **more: Any) -> Settings:
    audit = Audit(directory="/audit", key="env:K", pepper="env:P", origin=ORIGIN)
    empty: dict[str, Any] = {"issuers": (), "tenants": (), "backends": (), "routes": ()}
    return Settings(server=Server(), policies=Policies(directory="p"), audit=audit, audit_sinks=sinks, **(empty | more))


def shipment(first: int, end: int) -> Shipment:
    records = tuple(closed(f"r{i}", time="2026-09-21T14:13:20.000Z") for i in range(first, end))
    return Shipment(ORIGIN, first, records, Signer(ORIGIN, KEY).sign(end, leaf_hash(b"")))


async def test_a_workspace_sees_the_identity_of_settings_and_one_token(tmp_path: Path) -> None:
    pytest.importorskip("azure.monitor.ingestion")
    with AzureAuthority() as azure, LogsIngestionEmulator() as service:
        service.tokens = None
        item = AuditSink(
            name="sentinel",
            type="logs_ingestion",
            endpoint=service.url,
            rule=RULE,
            stream=STREAM,
            ca_file=service.ca_file,
            identity="client_secret",
            identity_client_id=GATEWAY,
            identity_tenant=TENANT,
            authority=azure.url,
            identity_ca_file=azure.ca_file,
            client_secret="env:SECRET",
        )
        sink = evidence_sink(item, lambda _: Secret(azure.secrets[GATEWAY].encode()), Flights(1))
        await sink.ship(shipment(0, 2))
        await sink.ship(shipment(2, 4))
        await sink.aclose()
        (token,) = service.seen
        claims = jwt.decode(token, options={"verify_signature": False})
        assert GATEWAY in (claims.get("azp"), claims.get("appid"))
        assert azure.asked[0]["scope"].split()[0] == "https://monitor.azure.com/.default"
        assert len(azure.issued) == 1


async def test_a_token_the_service_does_not_take_any_more_is_got_anew(tmp_path: Path) -> None:
    """Revoked before its end: the shipper comes back with another token, not for an hour with the same one."""
    pytest.importorskip("azure.monitor.ingestion")
    with AzureAuthority() as azure, LogsIngestionEmulator() as service:
        service.tokens = None
        item = AuditSink(
            name="sentinel",
            type="logs_ingestion",
            endpoint=service.url,
            rule=RULE,
            stream=STREAM,
            ca_file=service.ca_file,
            identity="client_secret",
            identity_client_id=GATEWAY,
            identity_tenant=TENANT,
            authority=azure.url,
            identity_ca_file=azure.ca_file,
            client_secret="env:SECRET",
        )
        sink = evidence_sink(item, lambda _: Secret(azure.secrets[GATEWAY].encode()), Flights(1))
        await sink.ship(shipment(0, 2))
        service.tokens = []
        with pytest.raises(SinkRefused, match="401"):
            await sink.ship(shipment(2, 4))
        service.tokens = None
        await sink.ship(shipment(2, 4))
        await sink.aclose()
        assert len(azure.issued) == 2 and len(service.seen) >= 2


async def test_an_authority_that_is_away_is_a_sink_that_is_away(tmp_path: Path) -> None:
    pytest.importorskip("azure.monitor.ingestion")
    with AzureAuthority() as azure, LogsIngestionEmulator() as service:
        azure.fault = "unavailable"
        item = AuditSink(
            name="sentinel",
            type="logs_ingestion",
            endpoint=service.url,
            rule=RULE,
            stream=STREAM,
            ca_file=service.ca_file,
            identity="client_secret",
            identity_client_id=GATEWAY,
            identity_tenant=TENANT,
            authority=azure.url,
            identity_ca_file=azure.ca_file,
            client_secret="env:SECRET",
        )
        secret = azure.secrets[GATEWAY]
        sink = evidence_sink(item, lambda _: Secret(secret.encode()), Flights(1))
        with pytest.raises(SinkUnavailable, match="no token") as caught:
            await sink.ship(shipment(0, 2))
        await sink.aclose()
        assert secret not in str(caught.value) and not service.rows


def test_no_sink_needs_nothing() -> None:
    assert shippers(settings(), Signer(ORIGIN, KEY).verifier_key(), lambda _: Secret(b"")) == []
    assert spans(settings(), lambda _: Secret(b"")) is None
    assert checkpoint_sinks(settings().audit) == []


def test_a_connection_that_is_none_is_named_by_its_reference() -> None:
    item = AuditSink(name="blobs", type="append_blob", container="evidence", connection="env:C")
    with pytest.raises(SecretMissing, match="audit sink `blobs`: `env:C` is no storage connection string") as caught:
        connection_string(item, lambda _: Secret(b"AccountName=hush"))
    assert "hush" not in str(caught.value)


def test_check_names_what_settings_cannot_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIN", "AccountName=a;AccountKey=k;BlobEndpoint=http://blob.example/a")
    monkeypatch.setenv("INSIGHTS", "InstrumentationKey=none")
    monkeypatch.delenv("ABSENT", raising=False)
    asked = settings(
        AuditSink(name="gone", type="directory", directory=str(tmp_path / "gone")),
        AuditSink(name="here", type="directory", directory=str(tmp_path)),
        AuditSink(name="plain", type="append_blob", container="evidence", connection="env:PLAIN"),
        AuditSink(name="unset", type="append_blob", container="evidence", connection="env:ABSENT", ca_file=str(tmp_path / "ca.pem")),
        telemetry=Telemetry(appinsights="env:INSIGHTS"),
    )
    said = evidence_faults(asked)
    assert len(said) == 5 and all("\n" not in line for line in said)
    for part in ("`gone`", "plaintext beyond loopback", "`env:ABSENT`", "ca.pem` is no file", "`env:INSIGHTS` is no Application Insights"):
        assert [line for line in said if part in line], part


async def test_check_live_asks_each_sink_once(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    asked = settings(
        AuditSink(name="good", type="directory", directory=str(tmp_path / "good")),
        AuditSink(name="gone", type="directory", directory=str(tmp_path / "gone")),
    )
    assert await sink_faults(asked, resolve) == ["audit sink `gone`: the directory is not there"]
