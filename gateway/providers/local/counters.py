"""Limits in this process's memory: exact for one process, bounded in size.

An account is forgotten only when forgetting it changes no decision; when every slot is taken by one that still limits, new subjects
are refused rather than old ones let loose.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.evidence import Lease
from gateway.limits import reservation
from gateway.limits.reservation import Account, Charge
from gateway.refusals import OVERLOADED, Refusal

MAX_ACCOUNTS = 100_000
_LOOKED_AT = 16  # accounts considered for forgetting by one newcomer


class MemoryCounters:
    """`ports.CounterStore` over a bounded map of accounts."""

    def __init__(self, capacity: int = MAX_ACCOUNTS) -> None:
        self._accounts: OrderedDict[tuple[str, str, str], Account] = OrderedDict()
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._accounts)

    async def reserve(self, charge: Charge, now_s: float) -> Lease:
        account = self._accounts.get(charge.key)
        if account is None:
            account = self._admit(charge.key, now_s)
        self._accounts.move_to_end(charge.key)
        return reservation.reserve(account, charge, now_s)

    async def settle(self, lease: Lease, tokens: int, now_s: float) -> None:
        account = self._accounts.get((lease.keys[0], lease.keys[1], lease.keys[2]))
        if account is not None:
            reservation.settle(account, lease, tokens, now_s)

    def held(self) -> int:
        """Return how many leases are held now."""
        return sum(len(account.leases) for account in self._accounts.values())

    async def aclose(self) -> None:
        """Nothing to close."""

    def _admit(self, key: tuple[str, str, str], now_s: float) -> Account:
        if len(self._accounts) >= self._capacity:
            oldest = [k for k, _ in zip(self._accounts, range(_LOOKED_AT), strict=False)]
            idle = next((k for k in oldest if self._accounts[k].idle(now_s)), None)
            if idle is None:
                raise Refusal(OVERLOADED, retry_after_s=1.0, detail="limit accounts")
            del self._accounts[idle]
        account = self._accounts[key] = Account()
        return account
