"""Spans reach Application Insights' ingestion endpoint through the real exporter, and nothing else leaves."""

from __future__ import annotations

import gzip
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gateway.exchange import Exchange
from gateway.providers.azure.application_insights import _OFF, span_exporter
from gateway.providers.local.secrets import Secret, SecretMissing
from gateway.providers.otel.traces import Spans
from gateway.settings_sinks import application_insights_fault, connection_fault
from gateway.sinks import application_insights

KEY = "00000000-0000-0000-0000-00000000abcd"


class Ingestion:
    """What answers `/v2.1/track`, or refuses as told."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.status = 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("content-length", "0")))
                data = gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data
                service.paths.append(self.path)
                items = json.loads(data)
                if service.status == 200:
                    service.items += items
                body = json.dumps({"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []}).encode()
                self.send_response(service.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def connection(self) -> str:
        return f"InstrumentationKey={KEY};IngestionEndpoint=http://127.0.0.1:{self.server.server_address[1]}/"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def ingestion(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ingestion]:
    pytest.importorskip("azure.monitor.opentelemetry.exporter")
    for name in _OFF:
        monkeypatch.setenv(name, "")  # put back as it was when the test ends
    made = Ingestion()
    yield made
    made.stop()


def finished() -> Exchange:
    exchange = Exchange("gateway-0", "r-1", "ab" * 16, "192.0.2.1", 1_790_000_000.0, 5.0)
    exchange.operation = "chat.completions"
    exchange.outcome = "finished"
    exchange.status = 200
    exchange.timings["total"] = 0.25
    return exchange


def test_a_span_arrives_as_a_request(ingestion: Ingestion) -> None:
    spans = Spans(None, 1.0, lambda: 0.0, exporters=[span_exporter(ingestion.connection)])
    spans.record(finished())
    spans.close()
    (item,) = ingestion.items
    assert item["iKey"] == KEY and item["data"]["baseType"] == "RequestData"
    assert item["data"]["baseData"]["duration"].endswith("00:00:00.250")
    assert item["tags"]["ai.cloud.role"] == "inference-gateway"
    assert set(ingestion.paths) == {"/v2.1/track"}


def test_nothing_is_kept_on_disk_and_no_statistics_are_sent(ingestion: Ingestion) -> None:
    """SECURITY: the exporter would by default write failed batches to a shared temporary folder and report to its maker."""
    exporter = span_exporter(ingestion.connection)
    assert exporter.storage is None
    assert exporter._should_collect_stats() is False and exporter._should_collect_customer_sdkstats() is False
    exporter.shutdown()


def test_a_service_that_is_away_costs_spans_and_nothing_else(ingestion: Ingestion, caplog: pytest.LogCaptureFixture) -> None:
    ingestion.status = 503
    spans = Spans(None, 1.0, lambda: 0.0, exporters=[span_exporter(ingestion.connection)])
    with caplog.at_level(logging.DEBUG, "gateway"):
        spans.record(finished())
        spans.close()
    assert ingestion.paths and not ingestion.items
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no Application Insights connection string"),
        ("InstrumentationKey=not-a-guid;IngestionEndpoint=https://x.example/", "no Application Insights connection string"),
        (f"InstrumentationKey={KEY}", "needs its IngestionEndpoint"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=http://x.example/", "plaintext beyond loopback"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=https://x.example/;LiveEndpoint=https://y.example/", ""),
    ],
)
def test_connection_strings_are_judged(text: str, fault: str) -> None:
    said = application_insights_fault(text)
    assert (fault in said) if fault else said == ""
    assert KEY not in said


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("AccountName=a", "no storage connection string"),
        ("DefaultEndpointsProtocol=http;AccountName=a;AccountKey=k", "plaintext"),
        ("AccountName=a;AccountKey=k;BlobEndpoint=http://blob.example/a", "plaintext"),
        ("AccountName=a;AccountKey=k;BlobEndpoint=http://127.0.0.1:1/a", ""),
        ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=k;EndpointSuffix=core.windows.net", ""),
        ("BlobEndpoint=https://a.example;SharedAccessSignature=sv", ""),
        # The SDK reads keys whatever their case: none of these may slip past as something else.
        ("AccountName=a;AccountKey=k;blobendpoint=http://blob.example/a", "plaintext"),
        ("AccountName=a;AccountKey=k;BLOBENDPOINT=http://blob.example/a", "plaintext"),
        ("AccountName=a;AccountKey=k;defaultendpointsprotocol=http", "plaintext"),
        ("AccountName=a;AccountKey=k;BlobEndpoint=https://a.example;blobendpoint=http://blob.example/a", "twice"),
        ("accountname=a;accountkey=k;defaultEndpointsProtocol=HTTPS", ""),
    ],
)
def test_storage_connection_strings_are_judged(text: str, fault: str) -> None:
    said = connection_fault(text)
    assert (fault in said) if fault else said == ""


@pytest.mark.parametrize("key", ["BlobEndpoint", "blobendpoint", "BLOBendPOINT"])
def test_the_sdk_reads_keys_whatever_their_case(key: str) -> None:
    container = pytest.importorskip("azure.storage.blob.aio").ContainerClient
    client = container.from_connection_string(f"AccountName=a;AccountKey=a2V5;{key}=http://blob.example/a", "evidence")
    assert client.url.startswith("http://blob.example/"), "the SDK changed: the case of keys may matter now"


def test_a_fault_names_the_reference_and_never_the_value() -> None:
    with pytest.raises(SecretMissing) as caught:
        application_insights("env:CONNECTION", lambda _: Secret(f"InstrumentationKey={KEY};Password=hush".encode()))
    assert "env:CONNECTION" in str(caught.value) and "hush" not in str(caught.value) and KEY not in str(caught.value)
