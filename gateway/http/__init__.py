"""The only place that knows ASGI."""
