"""May a failed attempt be made again elsewhere? A retry budget: decisions only.

Each request earns a fraction of a second attempt; each second attempt spends a whole one. When everything fails, the load on
the backends grows by that fraction and no more, so a bad minute cannot feed on itself (Google SRE, chapter 22; Envoy's
retry_budget). The first few attempts are a loan, paid back before anything is saved.

INVARIANT: over the budget's life, repeats <= max(loan, ratio x requests). In any run of n requests, repeats <= ratio x n + cap.
"""

from __future__ import annotations

import msgspec


class BudgetRules(msgspec.Struct, frozen=True, kw_only=True):
    """With these defaults attempts stay <= 1.2 x requests in every run of a hundred requests or more."""

    ratio: float = 0.15
    cap: float = 5.0  # savings from good times: a storm may spend these on top
    loan: float = 2.0  # so that the very first requests can fail over


class RetryBudget:
    __slots__ = ("_balance", "_debt", "_rules")

    def __init__(self, rules: BudgetRules | None = None) -> None:
        self._rules = rules or BudgetRules()
        self._balance = self._rules.loan
        self._debt = self._rules.loan

    @property
    def balance(self) -> float:
        return self._balance

    def earn(self) -> None:
        """Count one request."""
        earned = self._rules.ratio
        if self._debt > 0:
            paid = min(self._debt, earned)
            self._debt -= paid
            earned -= paid
        if earned:
            self._balance = min(self._rules.cap, self._balance + earned)

    def spend(self) -> bool:
        """Take one repeated attempt if there is one. False: surface the failure instead."""
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True
