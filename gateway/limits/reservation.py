"""May this much be taken, all of it at once? One decision over every limit of a subject: taken together or not at all.

Sans-I/O and without asynchrony, so that it is atomic in one process; `providers/redis` makes the same decision in one script.
A refusal takes nothing. What can never fit is the request's fault (400), a rate is 429, a spent quota is 403.
"""

from __future__ import annotations

import math

import msgspec

from gateway.evidence import Lease
from gateway.limits.bucket import Rate, full_in_s, give_back, left, take, wait_s
from gateway.refusals import INVALID_REQUEST, QUOTA_EXCEEDED, RATE_LIMITED, Refusal

LEASE_TTL_S = 960.0  # longer than the longest exchange: a lease that outlives it belongs to a process that died
MIN_SLOT_WAIT_S = 0.5  # a concurrency slot comes back when somebody finishes: nobody knows when


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What one exchange wants, with the numbers of its tier. `day`: days since the epoch, UTC, for the quota."""

    tenant: str
    subject: str
    tier: str
    requests_per_minute: int
    burst: int
    tokens_per_minute: int
    concurrent: int
    daily_tokens: int | None
    tokens: int
    lease_id: str
    day: int

    @property
    def key(self) -> tuple[str, str, str]:
        """The account. A tuple: joined text would let `a/b`, `c` and `a`, `b/c` share one."""
        return (self.tenant, self.subject, self.tier)

    @property
    def requests(self) -> Rate:
        return Rate(float(self.burst), self.requests_per_minute / 60)

    @property
    def token_rate(self) -> Rate:
        return Rate(float(self.tokens_per_minute), self.tokens_per_minute / 60)


class Account:
    """The counters of one subject in one tier."""

    __slots__ = ("day", "leases", "requests_tat_s", "tokens_tat_s", "used")

    def __init__(self) -> None:
        self.requests_tat_s = -math.inf
        self.tokens_tat_s = -math.inf
        self.leases: dict[str, float] = {}  # id -> expiry
        self.day = 0
        self.used = 0

    def idle(self, now_s: float) -> bool:
        """Return whether forgetting the account would change no decision."""
        return not self.leases and self.used == 0 and self.requests_tat_s <= now_s and self.tokens_tat_s <= now_s


def reserve(account: Account, charge: Charge, now_s: float) -> Lease:
    """Take everything or raise `Refusal` with nothing taken."""
    for stale in [lease for lease, expiry in account.leases.items() if expiry <= now_s]:
        del account.leases[stale]
    used = account.used if account.day == charge.day else 0
    requests, tokens = charge.requests, charge.token_rate
    request_wait_s = wait_s(requests, account.requests_tat_s, 1, now_s)
    token_wait_s = wait_s(tokens, account.tokens_tat_s, charge.tokens, now_s)
    if math.isinf(token_wait_s):
        raise impossible()
    if charge.daily_tokens is not None and used + charge.tokens > charge.daily_tokens:
        raise Refusal(QUOTA_EXCEEDED, detail="daily tokens", headers=shown(account, charge, now_s))
    wait = max(request_wait_s, token_wait_s)
    if wait > 0:
        which = "requests" if request_wait_s >= token_wait_s else "tokens"
        raise Refusal(RATE_LIMITED, retry_after_s=wait, detail=which, headers=shown(account, charge, now_s))
    if len(account.leases) >= charge.concurrent:
        raise Refusal(RATE_LIMITED, retry_after_s=MIN_SLOT_WAIT_S, detail="concurrency", headers=shown(account, charge, now_s))
    account.requests_tat_s = take(requests, account.requests_tat_s, 1, now_s)
    account.tokens_tat_s = take(tokens, account.tokens_tat_s, charge.tokens, now_s)
    account.leases[charge.lease_id] = now_s + LEASE_TTL_S
    account.day, account.used = charge.day, used + charge.tokens
    return lease_of(charge, now_s, account.requests_tat_s, account.tokens_tat_s)


def impossible() -> Refusal:
    """Return the refusal of a request larger than its limit will ever allow."""
    return Refusal(INVALID_REQUEST, message="the request can never fit the token limit: ask for less output", param="max_tokens")


def lease_of(charge: Charge, now_s: float, requests_tat_s: float, tokens_tat_s: float, *, degraded: bool = False) -> Lease:
    """Return the lease with what is left after it."""
    return Lease(
        id=charge.lease_id,
        keys=charge.key,
        reserved_tokens=charge.tokens,
        granted_at_s=now_s,
        expires_at_s=now_s + LEASE_TTL_S,
        limit_requests=charge.requests_per_minute,
        remaining_requests=left(charge.requests, requests_tat_s, now_s),
        reset_requests_s=full_in_s(requests_tat_s, now_s),
        limit_tokens=charge.tokens_per_minute,
        remaining_tokens=left(charge.token_rate, tokens_tat_s, now_s),
        reset_tokens_s=full_in_s(tokens_tat_s, now_s),
        degraded=degraded,
    )


def shown(account: Account, charge: Charge, now_s: float) -> tuple[tuple[str, str], ...]:
    """Return the rate-limit headers of a subject as it stands, for answers that took nothing."""
    values = (
        ("requests", charge.requests_per_minute, charge.requests, account.requests_tat_s),
        ("tokens", charge.tokens_per_minute, charge.token_rate, account.tokens_tat_s),
    )
    headers: list[tuple[str, str]] = []
    for unit, limit, rate, tat_s in values:
        headers += [
            (f"x-ratelimit-limit-{unit}", str(limit)),
            (f"x-ratelimit-remaining-{unit}", str(left(rate, tat_s, now_s))),
            (f"x-ratelimit-reset-{unit}", f"{full_in_s(tat_s, now_s):.3f}"),
        ]
    return tuple(headers)


def settle(account: Account, lease: Lease, tokens: int, now_s: float) -> None:
    """Replace the reservation by what was used and free the slot. Idempotent: a lease that is gone changes nothing."""
    if account.leases.pop(lease.id, None) is None:
        return
    rate = Rate(float(lease.limit_tokens), lease.limit_tokens / 60)
    unused = lease.reserved_tokens - tokens
    if unused >= 0:
        account.tokens_tat_s = give_back(rate, account.tokens_tat_s, unused)
    else:
        account.tokens_tat_s = take(rate, account.tokens_tat_s, -unused, now_s)
    account.used = max(0, account.used - unused)
