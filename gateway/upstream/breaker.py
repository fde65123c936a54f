"""Is a backend worth asking just now? A circuit breaker over a sliding window: decisions only, `now_s` is an argument.

Theory of operation
-------------------
*Closed*: everyone is admitted. Outcomes are counted in slices of time; a slice older than the window is forgotten. The
breaker opens when faults come in an unbroken row, or when they are a large part of a window that holds enough calls to
judge. *Open*: nobody is admitted until the open time has passed. *Half open*: ONE caller is admitted as a probe; its good
answer closes the breaker, its fault opens it again for longer (up to a cap), and everyone else is turned away meanwhile.

What an outcome means is the caller's knowledge, in three classes. A *fault* is the backend's doing: it could not be reached,
answered 5xx, timed out, broke off, spoke nonsense. A *success* is an answer. *Neutral* is everything that says nothing about
its health: the client went away, the request itself was wrong, or a rate limit spoke (a 429 of a provisioned deployment is
by design, not a fault). Were cancellations counted, any client could take a backend from everyone by hanging up.

Each admission carries a ticket that names the period it was given in. A report from an earlier period is ignored: a slow
answer to a question of last minute neither closes nor opens today's breaker. A probe that is never reported is given up
after a while, so that a lost ticket cannot keep a backend out for good. A neutral probe leaves the breaker half open and
frees the place for the next one.

INVARIANT: at most one live probe. INVARIANT: a ticket counts once.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Outcome(StrEnum):
    SUCCESS = "success"
    FAULT = "fault"
    NEUTRAL = "neutral"


class BreakerRules(msgspec.Struct, frozen=True, kw_only=True):
    consecutive_faults: int = 5  # Envoy's consecutive_5xx default
    fault_ratio: float = 0.5  # resilience4j's failureRateThreshold
    min_calls: int = 20  # below it a ratio is chance
    window_s: float = 10.0
    slices: int = 10
    open_s: float = 5.0
    open_growth: float = 2.0
    open_cap_s: float = 60.0
    probe_s: float = 120.0  # longer than any time to the first byte


class Ticket:
    """Leave to make one call. Reported once; later reports are ignored."""

    __slots__ = ("period", "spent")

    def __init__(self, period: int) -> None:
        self.period = period
        self.spent = False


class Breaker:
    """One backend's breaker. Not shared between threads; every time is monotonic seconds and never decreases."""

    __slots__ = (
        "_calls",
        "_faults",
        "_open_s",
        "_opened",
        "_period",
        "_probe",
        "_probe_until_s",
        "_row",
        "_rules",
        "_slice",
        "_state",
        "_until_s",
    )

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self._rules = rules or BreakerRules()
        self._state = State.CLOSED
        self._period = 0
        self._row = 0
        self._opened = 0  # times in a row without having been well in between
        self._until_s = 0.0
        self._open_s = 0.0
        self._probe: Ticket | None = None
        self._probe_until_s = 0.0
        self._slice = 0
        self._calls = [0] * self._rules.slices
        self._faults = [0] * self._rules.slices

    def state(self, now_s: float) -> State:
        if self._state is State.OPEN and now_s >= self._until_s:
            return State.HALF_OPEN
        return self._state

    def retry_after_s(self, now_s: float) -> float:
        """Return how long until a call might be admitted; 0 when one may be now."""
        if self._state is State.OPEN:
            return max(0.0, self._until_s - now_s)
        if self._state is State.HALF_OPEN and self._probe is not None:
            return max(0.0, min(self._rules.open_s, self._probe_until_s - now_s))
        return 0.0

    def admit(self, now_s: float) -> Ticket | None:
        """Return a ticket, or None while the backend should be left alone. Every ticket must be reported."""
        if self._state is State.CLOSED:
            return Ticket(self._period)
        if self._state is State.OPEN:
            if now_s < self._until_s:
                return None
            self._state = State.HALF_OPEN
            self._probe = None
        if self._probe is not None and now_s < self._probe_until_s:
            return None
        self._period += 1  # a probe that was given up must not count when it comes back after all
        self._probe = Ticket(self._period)
        self._probe_until_s = now_s + self._rules.probe_s
        return self._probe

    def good_start(self, ticket: Ticket, now_s: float) -> Ticket:
        """Say that a good answer has begun; return the ticket for its end.

        A probe has then done its work: waiting for the end of a long stream would keep a healthy backend half open.
        """
        if ticket is not self._probe:
            return ticket
        self.report(ticket, Outcome.SUCCESS, now_s)
        return Ticket(self._period)

    def report(self, ticket: Ticket, outcome: Outcome, now_s: float) -> None:
        """Count what became of an admitted call. Idempotent by ticket."""
        if ticket.spent or ticket.period != self._period:
            ticket.spent = True
            return
        ticket.spent = True
        if self._state is State.HALF_OPEN:
            self._probed(outcome, now_s)
        elif self._state is State.CLOSED and outcome is not Outcome.NEUTRAL:
            self._count(outcome is Outcome.FAULT, now_s)

    def _probed(self, outcome: Outcome, now_s: float) -> None:
        self._probe = None
        if outcome is Outcome.SUCCESS:
            self._state = State.CLOSED
            self._clear()
        elif outcome is Outcome.FAULT:
            self._trip(now_s)

    def _count(self, fault: bool, now_s: float) -> None:
        rules = self._rules
        at = int(now_s * rules.slices / rules.window_s)
        if at != self._slice:
            for passed in range(self._slice + 1, min(at, self._slice + rules.slices) + 1):
                self._calls[passed % rules.slices] = 0
                self._faults[passed % rules.slices] = 0
            if at - self._slice > rules.slices:
                self._calls = [0] * rules.slices
                self._faults = [0] * rules.slices
            self._slice = at
        place = at % rules.slices
        self._calls[place] += 1
        if not fault:
            self._row = 0
            if self._opened and now_s - self._until_s >= self._open_s:
                self._opened = 0  # well for as long as it was shut out: the next opening starts small again
            return
        self._row += 1
        self._faults[place] += 1
        calls, faults = sum(self._calls), sum(self._faults)
        if self._row >= rules.consecutive_faults or (calls >= rules.min_calls and faults >= rules.fault_ratio * calls):
            self._trip(now_s)

    def _trip(self, now_s: float) -> None:
        rules = self._rules
        exponent = min(self._opened, 64)
        self._open_s = min(rules.open_cap_s, rules.open_s * rules.open_growth**exponent)
        self._opened += 1
        self._until_s = now_s + self._open_s
        self._state = State.OPEN
        self._period += 1
        self._clear()

    def _clear(self) -> None:
        self._row = 0
        self._calls = [0] * self._rules.slices
        self._faults = [0] * self._rules.slices
