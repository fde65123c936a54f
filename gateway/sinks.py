"""Where does evidence go beside the log? The sinks and shippers that settings name, and the traces' exporter. Asks nobody."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gateway.assembly import identity_config
from gateway.audit.log import CheckpointSink, file_sink, stdout_sink
from gateway.audit.shipper import Shipper
from gateway.audit.shipping import Bounds
from gateway.ports import EvidenceSink
from gateway.providers.azure.append_blobs import AppendBlobs
from gateway.providers.azure.application_insights import span_exporter
from gateway.providers.azure.logs_ingestion import SCOPE as MONITOR
from gateway.providers.azure.logs_ingestion import LogsIngestion
from gateway.providers.azure.sdk_credential import SdkCredential
from gateway.providers.azure.token_keeper import Flights
from gateway.providers.azure.upstream_identity import application_credential
from gateway.providers.local.evidence_directory import EvidenceDirectory
from gateway.providers.local.secrets import Secret, SecretMissing
from gateway.providers.otel.traces import Spans
from gateway.settings import Audit, AuditSink, Settings
from gateway.settings_sinks import application_insights_fault, connection_fault

STORAGE: Final = "https://storage.azure.com/.default"
Reveal = Callable[[str], Secret]


def checkpoint_sinks(audit: Audit) -> list[CheckpointSink]:
    """Return where each second's checkpoint goes."""
    sinks = [file_sink(Path(audit.checkpoint_file))] if audit.checkpoint_file else []
    return [*sinks, stdout_sink()] if audit.checkpoint_stdout else sinks


def connection_string(sink: AuditSink, secret: Reveal) -> str:
    """Return the storage connection string of a sink. Raises `SecretMissing`, naming the reference and what is wrong, never a value."""
    reference = sink.connection or ""
    text = secret(reference).reveal().decode("utf-8", "replace")
    if fault := connection_fault(text):
        raise SecretMissing(f"audit sink `{sink.name}`: `{reference}` {fault}")
    return text


def application_insights(reference: str, secret: Reveal) -> str:
    """Return the connection string of Application Insights. Raises `SecretMissing` as `connection_string` does."""
    text = secret(reference).reveal().decode("utf-8", "replace")
    if fault := application_insights_fault(text):
        raise SecretMissing(f"`telemetry.appinsights`: `{reference}` {fault}")
    return text.strip()


def evidence_sink(sink: AuditSink, secret: Reveal, flights: Flights) -> EvidenceSink:
    """Return one sink. Raises `SecretMissing`, `ImportError` without the `azure` extra, `OSError` for an unreadable CA file."""
    hourly = sink.period == "hour"
    if sink.type == "directory":
        return EvidenceDirectory(Path(sink.directory or ""), hourly=hourly, checkpoint_s=sink.checkpoint_s)
    where: dict[str, Any]
    sdk: dict[str, Any] = {"read_timeout": sink.timeout_s}
    if sink.ca_file:
        sdk["connection_verify"] = sink.ca_file
    if sink.type == "logs_ingestion":
        scope = sink.scope or MONITOR
        where = {"endpoint": sink.endpoint or "", "rule": sink.rule or "", "stream": sink.stream or ""}
        return LogsIngestion(**where, **_credential(sink, scope, secret, flights), scope=scope, **sdk)
    if sink.connection:
        where = {"connection": connection_string(sink, secret)}
    else:
        where = {"endpoint": sink.endpoint, **_credential(sink, sink.scope or STORAGE, secret, flights)}
    return AppendBlobs(container=sink.container or "", hourly=hourly, checkpoint_s=sink.checkpoint_s, **where, **sdk)


def _credential(sink: AuditSink, scope: str, secret: Reveal, flights: Flights) -> dict[str, Any]:
    """Return the credential for an SDK's client, and what forgets its token when the service does not take it."""
    config = identity_config(f"audit sink {sink.name}", sink, secret, scope=scope)
    identity = application_credential(config, flights, random.random)
    return {"credential": SdkCredential(identity), "rejected": lambda now_s: identity.rejected(None, now_s)}


def shippers(settings: Settings, verifier_key: str, secret: Reveal) -> list[Shipper]:
    """Return one shipper a sink, not yet started. Raises as `evidence_sink` does."""
    flights = Flights(2)
    return [
        Shipper(
            item.name,
            evidence_sink(item, secret, flights),
            Path(settings.audit.directory),
            verifier_key,
            interval_s=item.interval_s,
            timeout_s=item.timeout_s,
            bounds=Bounds(item.batch_records, item.batch_bytes),
        )
        for item in settings.audit_sinks
    ]


def spans(settings: Settings, secret: Reveal) -> Spans | None:
    """Return the exporter of traces, None where settings name no place. Raises `SecretMissing`, `ImportError` without the extra."""
    telemetry = settings.telemetry
    exporters = []
    if telemetry.appinsights:
        exporters.append(span_exporter(application_insights(telemetry.appinsights, secret)))
    if not exporters and not telemetry.otlp_endpoint:
        return None
    return Spans(telemetry.otlp_endpoint, telemetry.sample, random.random, exporters=exporters)
