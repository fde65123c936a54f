"""One OpenTelemetry span an exchange, made when it is over, sampled by us before anything is built.

A client's trace becomes a link, never the parent: nobody outside decides what we record.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from gateway import __version__
from gateway.exchange import Exchange
from gateway.telemetry.gen_ai import attributes, span_name


class Spans:
    """Exports spans in the background: over OTLP/HTTP where there is an `endpoint`, and by each of `exporters`.

    Raises `ImportError` without the `otel` extra (or `appinsights`). `sample`: share of exchanges from 0 to 1; refusals by fault of ours
    are always kept. `draw` is uniform in [0, 1).
    """

    def __init__(
        self, endpoint: str | None, sample: float, draw: Callable[[], float], *, exporter: Any = None, exporters: Sequence[Any] = ()
    ) -> None:
        self._api: Any = importlib.import_module("opentelemetry.trace")
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        resources: Any = importlib.import_module("opentelemetry.sdk.resources")
        used = [*exporters] if exporter is None else [exporter, *exporters]
        if endpoint and exporter is None:
            used.append(
                importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter(endpoint=endpoint)
            )
        resource = resources.Resource.create({"service.name": "inference-gateway", "service.version": __version__})
        self._provider: Any = sdk.TracerProvider(resource=resource)
        for one in used:
            self._provider.add_span_processor(export.BatchSpanProcessor(one))
        self._tracer: Any = self._provider.get_tracer("gateway", __version__)
        self._sample = sample
        self._draw = draw

    def record(self, exchange: Exchange) -> None:
        """Make the span of a finished exchange, or not, by the sample."""
        ours = exchange.refusal is not None and exchange.refusal.kind.status >= 500
        if not ours and self._draw() >= self._sample:
            return
        links = []
        if len(exchange.client_trace) == 32 and int(exchange.client_trace, 16):
            flags = self._api.TraceFlags(0)
            context = self._api.SpanContext(int(exchange.client_trace, 16), 1, True, flags)
            links.append(self._api.Link(context))
        start_ns = int(exchange.started_s * 1e9)
        span = self._tracer.start_span(
            span_name(exchange), kind=self._api.SpanKind.SERVER, links=links, start_time=start_ns, attributes=attributes(exchange)
        )
        if ours:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(end_time=start_ns + int(exchange.timings.get("total", 0.0) * 1e9))

    def close(self) -> None:
        """Export what is left and stop."""
        self._provider.shutdown()
