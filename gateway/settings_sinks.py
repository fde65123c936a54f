"""Is an audit sink in settings complete, and does each of its keys mean something? Faults as (key, message); no network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from gateway.settings_identity import EXTRA, extra_installed, origin_fault

SinkType = Literal["directory", "append_blob", "logs_ingestion"]
MODULES: Final[Mapping[str, str]] = {"append_blob": "azure.storage.blob", "logs_ingestion": "azure.monitor.ingestion"}
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "directory": ("directory",),
    "append_blob": ("container",),
    "logs_ingestion": ("endpoint", "rule", "stream"),
}
_MAY: Final[Mapping[str, tuple[str, ...]]] = {
    "directory": (),
    "append_blob": ("endpoint", "connection", "ca_file"),
    "logs_ingestion": ("ca_file",),
}
_ONLY: Final = ("directory", "endpoint", "container", "connection", "rule", "stream", "ca_file")
_CONTAINER: Final = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_RULE: Final = re.compile(r"dcr-[0-9a-f]{32}")
_STREAM: Final = re.compile(r"Custom-[A-Za-z0-9_.-]{1,100}|Microsoft-[A-Za-z0-9_.-]{1,100}")
# For each number: the least and the most that make sense.
_RANGES: Final = {
    "interval_s": (0.05, 3600.0),
    "timeout_s": (1.0, 600.0),
    "checkpoint_s": (1.0, 86_400.0),
    "batch_records": (1, 10_000),
    "batch_bytes": (65_536, 3_900_000),  # a block of an append blob takes 4 MiB, the envelope and the checkpoint included
}


def sink_faults(item: Any, log: str, installed: Callable[[str], bool] = extra_installed) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for an `AuditSink`. `log` is the log's own directory."""
    kind: str = item.type
    for key in _NEEDS[kind]:
        if not getattr(item, key):
            yield key, f"type `{kind}` needs `{key}`"
    for key in _ONLY:
        if getattr(item, key) is not None and key not in (*_NEEDS[kind], *_MAY[kind]):
            yield key, f"`{key}` means nothing for type `{kind}`"
    for key, (least, most) in _RANGES.items():
        if not least <= getattr(item, key) <= most:
            yield key, f"`{key}` must be from {least} to {most}"
    if kind in MODULES and not has(MODULES[kind], installed):
        yield "type", f"type `{kind}`: {EXTRA}"
    yield from {"directory": _directory_faults, "append_blob": _blob_faults, "logs_ingestion": _ingestion_faults}[kind](item, log)


def has(module: str, installed: Callable[[str], bool] = extra_installed) -> bool:
    """Return whether a module, which may lie deep in a namespace, can be imported."""
    try:
        return installed(module)
    except ModuleNotFoundError:  # not even the namespace it would lie in
        return False


def _directory_faults(item: Any, log: str) -> Iterator[tuple[str, str]]:
    if item.identity is not None:
        yield "identity", "`identity` means nothing for type `directory`"
    if item.directory and (Path(item.directory) == Path(log) or Path(log) in Path(item.directory).parents):
        yield "directory", "`directory` lies inside the log's own: a second place must be another one"


def _blob_faults(item: Any, _: str) -> Iterator[tuple[str, str]]:
    if item.container and not _CONTAINER.fullmatch(item.container):
        yield "container", "`container` must be 3 to 63 lower-case letters, digits and single hyphens"
    if (item.endpoint is None) == (item.connection is None):
        yield "endpoint", "type `append_blob` needs either `endpoint` with an `identity`, or `connection`"
    elif item.endpoint is not None and item.identity is None:
        yield "identity", "`endpoint` needs an `identity`: `managed`, `workload`, `client_secret` or `client_certificate`"
    if item.connection is not None and item.identity is not None:
        yield "identity", "`connection` and `identity` exclude each other"
    yield from _endpoint_faults(item)


def _ingestion_faults(item: Any, _: str) -> Iterator[tuple[str, str]]:
    if item.identity is None:
        yield "identity", "type `logs_ingestion` needs an `identity`: `managed`, `workload`, `client_secret` or `client_certificate`"
    if item.rule and not _RULE.fullmatch(item.rule):
        yield "rule", "`rule` must be the immutable id of the data collection rule, such as dcr- and 32 hex digits, not its name"
    if item.stream and not _STREAM.fullmatch(item.stream):
        yield "stream", "`stream` must be a stream of the rule: `Custom-...` or `Microsoft-...`"
    yield from _endpoint_faults(item)


def _endpoint_faults(item: Any) -> Iterator[tuple[str, str]]:
    if item.endpoint is not None and (fault := origin_fault(item.endpoint)):
        yield "endpoint", f"`endpoint` {fault}"
    if item.identity == "on_behalf_of":
        yield "identity", "a sink has no caller to speak for: `on_behalf_of` means nothing here"


def connection_fault(text: str) -> str:
    """Return what is wrong with a storage connection string, "" if nothing is. Never repeats a part of it."""
    # SECURITY: the SDK reads keys whatever their case, so what is judged here must be what is used there.
    pairs = [part.partition("=") for part in text.strip().strip(";").split(";")]
    parts = {key.upper(): value for key, _, value in pairs}
    if len(parts) != len(pairs):
        return "is no storage connection string: a key stands in it twice"
    if not ({"ACCOUNTNAME", "ACCOUNTKEY"} <= set(parts) or "SHAREDACCESSSIGNATURE" in parts):
        return "is no storage connection string: it needs AccountName and AccountKey, or SharedAccessSignature"
    endpoint = parts.get("BLOBENDPOINT", "")
    scheme = urlsplit(endpoint).scheme if endpoint else parts.get("DEFAULTENDPOINTSPROTOCOL", "https")
    if scheme.lower() != "https" and (urlsplit(endpoint).hostname or "") not in ("127.0.0.1", "localhost", "::1"):
        return "is plaintext beyond loopback: use https"
    return ""


def application_insights_fault(text: str) -> str:
    """Return what is wrong with an Application Insights connection string, "" if nothing is. Never repeats a part of it."""
    parts = {key.lower(): value for key, _, value in (part.partition("=") for part in text.strip().strip(";").split(";"))}
    if not re.fullmatch(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", parts.get("instrumentationkey", "")):
        return "is no Application Insights connection string: it needs an InstrumentationKey that is a GUID"
    endpoint = urlsplit(parts.get("ingestionendpoint", ""))
    if not endpoint.hostname:
        return "needs its IngestionEndpoint: without one, spans would go to the public default"
    if endpoint.scheme != "https" and endpoint.hostname not in ("127.0.0.1", "localhost", "::1"):
        return "is plaintext beyond loopback: use https"
    return ""
