"""Limits in this process's memory: exact for one process, bounded in size.

An account is forgotten only when forgetting it changes no decision; when every place is taken by one that still limits, new
subjects are refused rather than old ones let loose.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.evidence import Lease
from gateway.limits import reservation
from gateway.limits.reservation import Account, Charge, micros
from gateway.refusals import OVERLOADED, Refusal

MAX_ACCOUNTS = 100_000
_LOOKED_AT = 16  # accounts considered for forgetting by one newcomer

Key = tuple[str, ...]  # (tenant, subject, tier), or (tenant,) for the tenant's own account


class MemoryCounters:
    """`ports.CounterStore` over a bounded map of accounts. No call of it ever waits, so each is atomic."""

    def __init__(self, capacity: int = MAX_ACCOUNTS) -> None:
        self._accounts: OrderedDict[Key, Account] = OrderedDict()
        self._capacity = capacity
        self._spent: dict[str, tuple[int, float]] = {}  # tenant -> (day, share of its fullest daily quota); tenants are few

    def __len__(self) -> int:
        return len(self._accounts)

    async def reserve(self, charge: Charge, now_s: float) -> Lease:
        return self.reserve_now(charge, now_s)

    def reserve_now(self, charge: Charge, now_s: float) -> Lease:
        """Do what `reserve` promises, at once."""
        account = self._account(charge.key, charge, now_s)
        if charge.tenant_numbers is None:
            lease = reservation.reserve_alone(account, charge, now_s)
            if charge.daily_tokens is not None:
                self._see_quota(charge, account.quota.used_on(charge.day) / charge.daily_tokens)
            return lease
        accounts = [account, self._account((charge.tenant,), charge, now_s)]
        lease = reservation.reserve(accounts, charge, now_s)
        for account, numbers in zip(accounts, charge.limits(), strict=True):
            if numbers.daily_tokens is not None:
                self._see_quota(charge, account.quota.used_on(charge.day) / numbers.daily_tokens)
        return lease

    def _see_quota(self, charge: Charge, share: float) -> None:
        day, highest = self._spent.get(charge.tenant, (charge.day, 0.0))
        self._spent[charge.tenant] = (charge.day, max(share, highest) if day == charge.day else share)

    def quota_used(self, day: int) -> dict[str, float]:
        """Return, for each tenant with daily quotas, the highest share of one that was reserved on `day`; reservations count whole."""
        return {tenant: share if of == day else 0.0 for tenant, (of, share) in self._spent.items()}

    async def settle(self, lease: Lease, tokens: int, now_s: float) -> None:
        keys = lease.keys
        own, tenants = self._accounts.get(keys), self._accounts.get(keys[:1])
        if own is not None:
            reservation.settle(own, lease.id, tokens, now_s)
        if tenants is not None:
            reservation.settle(tenants, lease.id, tokens, now_s)

    async def standing(self, charge: Charge, now_s: float) -> tuple[tuple[str, str], ...]:
        """Return how the subject of a charge stands, as headers. Takes nothing and remembers nothing."""
        keys: tuple[Key, ...] = (charge.key, (charge.tenant,))
        accounts = [self._accounts.get(key) or Account() for key, _ in zip(keys, charge.limits(), strict=False)]
        return reservation.shown(accounts, charge, now_s)

    def held(self) -> int:
        """Return how many leases subjects hold now."""
        return sum(len(account.slots) for key, account in self._accounts.items() if len(key) > 1)

    async def aclose(self) -> None:
        """Nothing to close."""

    def _account(self, key: Key, charge: Charge, now_s: float) -> Account:
        account = self._accounts.get(key)
        if account is not None:
            self._accounts.move_to_end(key)
            return account
        if len(self._accounts) >= self._capacity:
            self._forget_one(micros(now_s), charge.day, charge.key)
        account = self._accounts[key] = Account()
        return account

    def _forget_one(self, now_us: int, day: int, wanted: Key) -> None:
        """Make room, but not at the cost of `wanted`, which is about to be charged.

        Raises `Refusal` when none of those looked at may be forgotten; the next newcomer looks at others.
        """
        for _ in range(min(_LOOKED_AT, len(self._accounts))):
            key, account = next(iter(self._accounts.items()))
            if key != wanted and account.idle(now_us, day):
                del self._accounts[key]
                return
            self._accounts.move_to_end(key)
        raise Refusal(OVERLOADED, retry_after_s=1.0, detail="limit accounts")
