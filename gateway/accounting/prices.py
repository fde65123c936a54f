"""What does an exchange cost? Integer micro-USD from token counts and the prices in settings; an unpriced model costs 0.

Prices belong to the route that was resolved, never to a name the caller chose.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.evidence import Usage


class TokenPrice(msgspec.Struct, frozen=True):
    """Micro-USD for a thousand tokens of each direction."""

    input: float
    output: float


def cost_microusd(prices: Mapping[str, TokenPrice], route: str, usage: Usage) -> int:
    """Return the cost, rounded up: a cost never disappears in rounding."""
    price = prices.get(route)
    if price is None:
        return 0
    exact = usage.input_tokens * price.input + usage.output_tokens * price.output
    return -int(-exact // 1000)


FLOOR_CHARS = 8  # no tokenizer in use packs more text into a token on average
SLACK = 256


def settle_usage(reported: tuple[int, int] | None, counted_input: int, counted_output: int, output_chars: int, ceiling: int) -> Usage:
    """Return what is charged: the backend's report where it is plausible, else our own count, never zero.

    SECURITY: a report far above what the request could cost would lock its caller out; one far below what was delivered would
    be free. Both are clamped, and the usage says that it was counted.
    """
    if reported is None:
        return Usage(input_tokens=max(1, counted_input), output_tokens=counted_output, counted=True)
    given_input, given_output = max(0, reported[0]), max(0, reported[1])
    # No request is without a prompt: a report that leaves it out says nothing of it.
    input_tokens = min(given_input, counted_input * 4 + SLACK) if given_input else max(1, counted_input)
    output_tokens = min(max(given_output, output_chars // FLOOR_CHARS), max(ceiling, counted_output) * 2 + SLACK)
    clamped = (input_tokens, output_tokens) != (given_input, given_output)
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, counted=clamped)
