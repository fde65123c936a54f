"""Spans: the convention's names, a link for the client's trace, nothing that identifies anyone."""

from __future__ import annotations

import pytest

from gateway.evidence import Usage
from gateway.exchange import Exchange
from gateway.refusals import BACKEND_UNAVAILABLE, Refusal
from gateway.telemetry import gen_ai


def finished() -> Exchange:
    exchange = Exchange("gw", "11111111-2222-4333-8444-555555555555", "t", "127.0.0.1", 1_700_000_000.0, 5.0)
    exchange.operation, exchange.model_label, exchange.backend, exchange.outcome = "chat.completions", "assistant", "models", "finished"
    exchange.client_trace = "0af7651916cd43dd8448eb211c80319c"
    exchange.usage = Usage(input_tokens=3, output_tokens=5)
    exchange.timings["total"] = 0.25
    return exchange


def test_names_are_the_conventions_names() -> None:
    released = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {value for name, value in vars(released).items() if name.startswith("GEN_AI_") and isinstance(value, str)}
    assert set(gen_ai.NAMES) <= known


def test_a_span_bears_numbers_and_names_only() -> None:
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from gateway.providers.otel.traces import Spans

    exporter = memory.InMemorySpanExporter()
    spans = Spans("", 0.5, iter([0.4, 0.9, 0.9]).__next__, exporter=exporter)
    spans.record(finished())  # drawn
    spans.record(finished())  # not drawn
    failed = finished()
    failed.refusal = Refusal(BACKEND_UNAVAILABLE)
    spans.record(failed)  # kept: the fault is not the caller's
    spans.close()
    first, second = exporter.get_finished_spans()
    assert first.name == "chat assistant"
    assert first.attributes["gen_ai.usage.output_tokens"] == 5
    assert first.end_time - first.start_time == 250_000_000
    assert format(first.links[0].context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert first.parent is None
    assert second.attributes["error.type"] == "backend_unavailable"
    assert not any("subject" in key for key in first.attributes)
