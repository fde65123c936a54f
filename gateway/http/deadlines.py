"""By when must this connection have read or written something? Two deadlines on one timer, armed lazily.

A deadline that moves into the future is a number assigned; the timer that fires early re-arms itself. So an ordinary request on a
kept connection pays for no timer at all.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

_COARSE_S = 0.002  # clocks of event loops tick in milliseconds


class Deadlines:
    """The read and the write deadline of one connection. Times are the loop's; each expiry is reported once."""

    __slots__ = ("_at_s", "_loop", "_read_by_s", "_read_expired", "_timer", "_write_by_s", "_write_expired")

    def __init__(self, loop: asyncio.AbstractEventLoop, read_expired: Callable[[], None], write_expired: Callable[[], None]) -> None:
        self._loop = loop
        self._read_expired = read_expired
        self._write_expired = write_expired
        self._read_by_s = self._write_by_s = self._at_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def read_until(self, at_s: float) -> None:
        """Set the read deadline; `math.inf` takes it away."""
        self._read_by_s = at_s
        if at_s < self._at_s:
            self._arm()

    def write_until(self, at_s: float) -> None:
        """Set the write deadline; `math.inf` takes it away."""
        self._write_by_s = at_s
        if at_s < self._at_s:
            self._arm()

    def stop(self) -> None:
        self._read_by_s = self._write_by_s = math.inf
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at_s = min(self._read_by_s, self._write_by_s)
        if self._at_s < math.inf:
            self._timer = self._loop.call_at(self._at_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._at_s = math.inf
        now_s = self._loop.time() + _COARSE_S
        if now_s >= self._write_by_s:
            self._write_by_s = math.inf
            self._write_expired()
        if now_s >= self._read_by_s:
            self._read_by_s = math.inf
            self._read_expired()
        if self._timer is None:
            self._arm()
