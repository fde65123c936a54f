"""Adapters to OpenTelemetry; need the otel extra."""
