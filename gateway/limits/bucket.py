"""How much of a rate is left? The generic cell rate algorithm (ITU-T I.371): exact, no windows, two numbers of state.

Sans-I/O, whole microseconds: a cost is rounded up and what is given back is rounded down, so rounding can deny a microsecond
early and never grants one. A bucket is its `tat`, the theoretical arrival time: how far the future is already spoken for.

Giving back. Unused units may be returned only as far as time has not returned them already: a reservation that was
covered by a full minute of refill is gone, and returning it again would grant it twice. What may come back is the least backlog
(`tat` - now) since the reservation. It is not tracked; a bound from below is: since `tat` falls by returns alone, the backlog
never was less than the mark left by the reservation, less what was returned since, less now. Erring to that side is strict.
"""

from __future__ import annotations

MINUTE_US = 60_000_000


def left(full_in_us: int, capacity: int, per_minute: int) -> int:
    """Return the whole units that fit a bucket which is full again in `full_in_us`."""
    units = (-(-capacity * MINUTE_US // per_minute) - full_in_us) * per_minute // MINUTE_US
    return units if units > 0 else 0


class Bucket:
    """One rate of one account: `capacity` units at once, `per_minute` units flowing back in a minute, both at least 1."""

    __slots__ = ("returned_us", "tat_us")

    def __init__(self) -> None:
        self.tat_us = 0
        self.returned_us = 0  # in all, ever: what makes marks comparable

    def wait_us(self, units: int, capacity: int, per_minute: int, now_us: int) -> int:
        """Return how long until `units` fit, 0 or less when they fit now. INVARIANT: they fit an empty bucket."""
        ahead_us = self.tat_us - now_us
        span_us = -(-units * MINUTE_US // per_minute) + (-capacity * MINUTE_US // per_minute)
        return span_us + ahead_us if ahead_us > 0 else span_us

    def take(self, units: int, per_minute: int, now_us: int) -> int:
        """Take `units` and return the mark that `give_back` asks for.

        INVARIANT: call only when `wait_us` is not above 0, or to charge what was used beyond a reservation.
        """
        tat_us = self.tat_us
        self.tat_us = tat_us = (tat_us if tat_us > now_us else now_us) - (-units * MINUTE_US // per_minute)
        return tat_us + self.returned_us

    def give_back(self, units: int, per_minute: int, mark_us: int, now_us: int) -> None:
        """Return `units` of the reservation that left `mark_us`, as far as time has not returned them."""
        back_us = min(units * MINUTE_US // per_minute, mark_us - self.returned_us - now_us)
        if back_us > 0:
            self.tat_us -= back_us
            self.returned_us += back_us

    def full_in_us(self, now_us: int) -> int:
        """Return the time until the bucket is full."""
        ahead_us = self.tat_us - now_us
        return ahead_us if ahead_us > 0 else 0
