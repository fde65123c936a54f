"""What an exchange costs, and which token counts are believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.prices import TokenPrice, cost_microusd, settle_usage
from gateway.evidence import Usage

COUNTS = st.integers(0, 10**7)


@given(COUNTS, COUNTS, st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_cost_never_disappears_in_rounding(tokens_in: int, tokens_out: int, price_in: float, price_out: float) -> None:
    cost = cost_microusd({"m": TokenPrice(price_in, price_out)}, "m", Usage(input_tokens=tokens_in, output_tokens=tokens_out))
    exact = tokens_in * price_in + tokens_out * price_out
    assert cost * 1000 >= int(exact) and (cost - 1) * 1000 <= exact


def test_an_unpriced_route_costs_nothing_and_a_priced_one_at_least_one() -> None:
    usage = Usage(input_tokens=1, output_tokens=0)
    assert cost_microusd({}, "m", usage) == 0
    assert cost_microusd({"m": TokenPrice(0.5, 0)}, "m", usage) == 1


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (None, Usage(input_tokens=5, output_tokens=7, counted=True)),
        ((9, 8), Usage(input_tokens=9, output_tokens=8)),
        ((-9, -8), Usage(input_tokens=5, output_tokens=3, counted=True)),
    ],
)
def test_usage(reported: tuple[int, int] | None, usage: Usage) -> None:
    assert settle_usage(reported, 5, 7, 28, 100) == usage


def test_missing_usage_is_never_nothing() -> None:
    assert settle_usage(None, 0, 0, 0, 10).input_tokens == 1


def test_a_report_below_what_left_is_not_believed() -> None:
    usage = settle_usage((1, 0), 500, 700, 2800, 1024)
    assert usage.output_tokens == 350 and usage.counted


def test_a_report_beyond_what_was_possible_is_not_believed() -> None:
    usage = settle_usage((2**39, 2**39), 500, 700, 2800, 1024)
    assert usage.input_tokens <= 2500 and usage.output_tokens <= 3000 and usage.counted
