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


def settle_usage(reported: tuple[int, int] | None, counted_input: int, counted_output: int) -> Usage:
    """Return what is charged: the backend's report where it is plausible, else our own count, never zero.

    A report below what we saw leave is not believed: `counted_output` is then charged.
    """
    if reported is None:
        return Usage(input_tokens=max(1, counted_input), output_tokens=counted_output, counted=True)
    return Usage(input_tokens=max(0, reported[0]), output_tokens=max(0, reported[1]), counted=False)
