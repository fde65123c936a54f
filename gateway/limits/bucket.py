"""How much of a rate is left? The generic cell rate algorithm (ITU-T I.371): one number of state, exact, no windows.

Sans-I/O. A bucket is its `tat`, the theoretical arrival time in seconds: how far the future is already spoken for. Capacity is
what may come at once; `per_s` what flows back. Costs may be any non-negative number, so tokens use it as well as requests.
"""

from __future__ import annotations

import math

import msgspec


class Rate(msgspec.Struct, frozen=True):
    """`capacity` units at once, refilled at `per_s` units a second. Both are positive."""

    capacity: float
    per_s: float

    @property
    def depth_s(self) -> float:
        return self.capacity / self.per_s


def wait_s(rate: Rate, tat_s: float, cost: float, now_s: float) -> float:
    """Return how long until `cost` fits: 0 when it fits now, infinity when it never will."""
    if cost > rate.capacity:
        return math.inf
    return max(0.0, max(tat_s, now_s) + cost / rate.per_s - now_s - rate.depth_s)


def take(rate: Rate, tat_s: float, cost: float, now_s: float) -> float:
    """Return the bucket after `cost`. INVARIANT: call only when `wait_s` is 0, or to charge what was used beyond a reservation."""
    return max(tat_s, now_s) + cost / rate.per_s


def give_back(rate: Rate, tat_s: float, cost: float) -> float:
    """Return the bucket with `cost` returned. What has refilled meanwhile is not returned twice: `left` caps at capacity."""
    return tat_s - cost / rate.per_s


def left(rate: Rate, tat_s: float, now_s: float) -> int:
    """Return the whole units that fit now."""
    return max(0, math.floor((rate.depth_s - (max(tat_s, now_s) - now_s)) * rate.per_s + 1e-6))


def full_in_s(tat_s: float, now_s: float) -> float:
    """Return the time until the bucket is full."""
    return max(0.0, tat_s - now_s)
