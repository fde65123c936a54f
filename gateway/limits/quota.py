"""How many tokens are left of today? A fixed window of one UTC day; what is used when it ends is forgotten.

Sans-I/O. `day` counts days since the epoch. SECURITY: what began yesterday and asks today is charged to today, else each such
straggler would make today's use forgotten. A day further back means that the clock was set back, and begins anew.
"""

from __future__ import annotations


class Quota:
    """The tokens one account used on the last day it asked."""

    __slots__ = ("day", "used")

    def __init__(self) -> None:
        self.day = 0
        self.used = 0

    def used_on(self, day: int) -> int:
        return self.used if self.day == day or self.day == day + 1 else 0

    def take(self, day: int, tokens: int) -> None:
        self.used = self.used_on(day) + tokens
        if self.day != day + 1:
            self.day = day

    def settle(self, day: int, unused: int) -> None:
        """Replace a reservation of `day` by what was used: `unused` is negative when it was more.

        A reservation of a day that is over has nothing to return to; returning it to the new day would raise its quota.
        """
        if self.day == day:
            self.used = max(0, self.used - unused)
