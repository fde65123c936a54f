"""What is a span of an exchange called, and which attributes may it bear? The names of OpenTelemetry's GenAI conventions we use.

Kept in one table because the conventions are still in development; a test compares it with the released package where it is
installed. Never content, never an identity.
"""

from __future__ import annotations

from gateway.exchange import Exchange

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
NAMES = (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL, REQUEST_MAX_TOKENS, USAGE_INPUT_TOKENS, USAGE_OUTPUT_TOKENS)
_OPERATIONS = {"chat.completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}


def span_name(exchange: Exchange) -> str:
    """Return `{operation} {model}`."""
    return f"{_OPERATIONS.get(exchange.operation, exchange.operation)} {exchange.model_label}".strip()


def attributes(exchange: Exchange) -> dict[str, str | int | bool]:
    """Return the attributes of a finished exchange."""
    found: dict[str, str | int | bool] = {
        OPERATION_NAME: _OPERATIONS.get(exchange.operation, exchange.operation),
        PROVIDER_NAME: exchange.backend or "none",
        REQUEST_MODEL: exchange.model_label,
        REQUEST_MAX_TOKENS: exchange.output_ceiling,
        "gateway.request_id": exchange.request_id,
        "gateway.outcome": exchange.outcome,
        "gateway.stream": exchange.stream,
        "http.response.status_code": exchange.status or 200,
    }
    if exchange.usage is not None:
        found |= {USAGE_INPUT_TOKENS: exchange.usage.input_tokens, USAGE_OUTPUT_TOKENS: exchange.usage.output_tokens}
    if exchange.refusal is not None:
        found["error.type"] = exchange.refusal.kind.code
    if exchange.index is not None:
        found["gateway.audit_index"] = exchange.index
    return found
