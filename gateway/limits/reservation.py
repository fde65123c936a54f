"""May this much be taken, all of it at once? One decision over every limit of a subject and of its tenant: all or nothing.

Sans-I/O and without asynchrony, so that it is atomic in one process; `providers/redis` makes the same decision in one script.
A refusal takes nothing. What can never fit is the request's fault (400), a rate is 429, a spent quota is 403.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.evidence import Lease
from gateway.limits.bucket import Bucket, left
from gateway.limits.concurrency import Held, Slots
from gateway.limits.quota import Quota
from gateway.refusals import INVALID_REQUEST, QUOTA_EXCEEDED, RATE_LIMITED, Refusal

LEASE_TTL_S = 960.0  # longer than the longest exchange: a lease that outlives it belongs to a process that died
MIN_SLOT_WAIT_S = 0.5  # a concurrency slot comes back when somebody finishes: nobody knows when

Headers = tuple[tuple[str, str], ...]


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What one account may take. All at least 1; `daily_tokens` None means that there is no daily quota."""

    requests_per_minute: int
    burst: int
    tokens_per_minute: int
    concurrent: int
    daily_tokens: int | None

    def share(self, replicas: int) -> Numbers:
        """Return one replica's part, for when replicas cannot ask each other."""
        return Numbers(
            requests_per_minute=max(1, self.requests_per_minute // replicas),
            burst=max(1, self.burst // replicas),
            tokens_per_minute=max(1, self.tokens_per_minute // replicas),
            concurrent=max(1, self.concurrent // replicas),
            daily_tokens=None if self.daily_tokens is None else max(1, self.daily_tokens // replicas),
        )


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
    tenant_numbers: Numbers | None = None  # limits of the whole tenant beside the subject's; None: it has none
    lease_s: float = LEASE_TTL_S
    param: str = "max_tokens"  # what to lower when the request can never fit

    @property
    def key(self) -> tuple[str, str, str]:
        """The subject's account. A tuple: joined text would let `a/b`, `c` and `a`, `b/c` share one."""
        return (self.tenant, self.subject, self.tier)

    @property
    def numbers(self) -> Numbers:
        return Numbers(
            requests_per_minute=self.requests_per_minute,
            burst=self.burst,
            tokens_per_minute=self.tokens_per_minute,
            concurrent=self.concurrent,
            daily_tokens=self.daily_tokens,
        )

    def limits(self) -> tuple[Numbers, ...]:
        """Return the numbers of each account charged: the subject's, then the tenant's where it has limits of its own."""
        return (self.numbers,) if self.tenant_numbers is None else (self.numbers, self.tenant_numbers)


class Account:
    """The counters of one subject in one tier, or of one tenant."""

    __slots__ = ("quota", "quota_counts", "requests", "slots", "tokens")

    def __init__(self) -> None:
        self.requests = Bucket()
        self.tokens = Bucket()
        self.slots = Slots()
        self.quota = Quota()
        self.quota_counts = False  # whether any charge had a quota: without one, what was used today is nothing to remember

    def idle(self, now_us: int, day: int) -> bool:
        """Return whether forgetting the account would change no decision."""
        self.slots.reap(now_us)
        spoken_for = self.requests.tat_us > now_us or self.tokens.tat_us > now_us
        return not spoken_for and not self.slots and not (self.quota_counts and self.quota.used_on(day))


class Standing(msgspec.Struct, frozen=True):
    """How an account stands, for headers."""

    limit_requests: int
    requests_left: int
    requests_full_in_us: int
    limit_tokens: int
    tokens_left: int
    tokens_full_in_us: int


def micros(seconds: float) -> int:
    return int(seconds * 1_000_000)


def reserve(accounts: Sequence[Account], charge: Charge, now_s: float) -> Lease:
    """Take everything from each account or raise `Refusal` with nothing taken. `accounts` stand as `charge.limits()` does."""
    now_us = micros(now_s)
    limits = charge.limits()
    _decide(accounts, limits, charge, now_us)
    expires_us = now_us + micros(charge.lease_s)
    for account, numbers in zip(accounts, limits, strict=True):
        account.requests.take(1, numbers.requests_per_minute, now_us)
        mark_us = account.tokens.take(charge.tokens, numbers.tokens_per_minute, now_us)
        account.quota.take(charge.day, charge.tokens)
        account.quota_counts = account.quota_counts or numbers.daily_tokens is not None
        account.slots.hold(charge.lease_id, Held(expires_us, mark_us, charge.tokens, numbers.tokens_per_minute, account.quota.day))
    return lease_of(charge, standings(accounts, limits, now_us), now_s)


def reserve_alone(account: Account, charge: Charge, now_s: float) -> Lease:
    """Do what `reserve` does for a charge to one account; a property test holds the two to the same outcome.

    The common case: nothing is in the way. Whatever could be is left to `reserve`, refusals with it.
    """
    now_us = int(now_s * 1_000_000)
    tokens, per_minute, daily = charge.tokens, charge.tokens_per_minute, charge.daily_tokens
    if (
        tokens > per_minute
        or (daily is not None and account.quota.used_on(charge.day) + tokens > daily)
        or account.requests.wait_us(1, charge.burst, charge.requests_per_minute, now_us) > 0
        or account.tokens.wait_us(tokens, per_minute, per_minute, now_us) > 0
        or account.slots.full(charge.concurrent, now_us)
    ):
        return reserve([account], charge, now_s)
    account.requests.take(1, charge.requests_per_minute, now_us)
    mark_us = account.tokens.take(tokens, per_minute, now_us)
    account.quota.take(charge.day, tokens)
    if daily is not None:
        account.quota_counts = True
    held_s = charge.lease_s
    account.slots.hold(charge.lease_id, Held(now_us + int(held_s * 1_000_000), mark_us, tokens, per_minute, account.quota.day))
    requests_full_in_us, tokens_full_in_us = account.requests.full_in_us(now_us), account.tokens.full_in_us(now_us)
    return Lease(
        id=charge.lease_id,
        keys=charge.key,
        reserved_tokens=tokens,
        granted_at_s=now_s,
        expires_at_s=now_s + held_s,
        limit_requests=charge.requests_per_minute,
        remaining_requests=left(requests_full_in_us, charge.burst, charge.requests_per_minute),
        reset_requests_s=requests_full_in_us / 1_000_000,
        limit_tokens=per_minute,
        remaining_tokens=left(tokens_full_in_us, per_minute, per_minute),
        reset_tokens_s=tokens_full_in_us / 1_000_000,
    )


def shown(accounts: Sequence[Account], charge: Charge, now_s: float) -> Headers:
    """Return the rate-limit headers of a subject as it stands, for an answer that takes nothing. `accounts` as for `reserve`."""
    return headers(tightest(standings(accounts, charge.limits(), micros(now_s))))


def _decide(accounts: Sequence[Account], limits: Sequence[Numbers], charge: Charge, now_us: int) -> None:
    """Raise the refusal that will last longest, if there is one. Changes nothing but the memory of expired leases."""
    tokens, wait_us, scarce, spent, slot = charge.tokens, 0, "", False, True
    for account, numbers in zip(accounts, limits, strict=True):
        daily = numbers.daily_tokens
        if tokens > numbers.tokens_per_minute or (daily is not None and tokens > daily):
            raise impossible(charge)
        spent = spent or (daily is not None and account.quota.used_on(charge.day) + tokens > daily)
        wait_requests_us = account.requests.wait_us(1, numbers.burst, numbers.requests_per_minute, now_us)
        if wait_requests_us > wait_us:
            wait_us, scarce = wait_requests_us, "requests"
        wait_tokens_us = account.tokens.wait_us(tokens, numbers.tokens_per_minute, numbers.tokens_per_minute, now_us)
        if wait_tokens_us > wait_us:
            wait_us, scarce = wait_tokens_us, "tokens"
        slot = slot and not account.slots.full(numbers.concurrent, now_us)
    if spent or scarce or not slot:
        shown = headers(tightest(standings(accounts, limits, now_us)))
        raise no(spent=spent, scarce=scarce, wait_s=wait_us / 1_000_000, shown=shown)


def impossible(charge: Charge) -> Refusal:
    """Return the refusal of a request larger than its limit will ever allow."""
    return Refusal(INVALID_REQUEST, message="the request can never fit the token limit: ask for less output", param=charge.param)


def no(*, spent: bool, scarce: str, wait_s: float, shown: Headers) -> Refusal:
    """Return the refusal of a request that may fit later: tomorrow, after `wait_s`, or when somebody finishes."""
    if spent:
        return Refusal(QUOTA_EXCEEDED, detail="daily tokens", headers=shown)
    if scarce:
        return Refusal(RATE_LIMITED, retry_after_s=wait_s, detail=scarce, headers=shown)
    return Refusal(RATE_LIMITED, retry_after_s=MIN_SLOT_WAIT_S, detail="concurrency", headers=shown)


def standings(accounts: Sequence[Account], limits: Sequence[Numbers], now_us: int) -> list[Standing]:
    return [
        standing(numbers, account.requests.full_in_us(now_us), account.tokens.full_in_us(now_us))
        for account, numbers in zip(accounts, limits, strict=True)
    ]


def standing(numbers: Numbers, requests_full_in_us: int, tokens_full_in_us: int) -> Standing:
    """Return how an account stands whose buckets are full again after these times."""
    return Standing(
        numbers.requests_per_minute,
        left(requests_full_in_us, numbers.burst, numbers.requests_per_minute),
        requests_full_in_us,
        numbers.tokens_per_minute,
        left(tokens_full_in_us, numbers.tokens_per_minute, numbers.tokens_per_minute),
        tokens_full_in_us,
    )


def tightest(all_of: Sequence[Standing]) -> Standing:
    """Return what will refuse first: of requests and of tokens, the account with the fewest left."""
    first = all_of[0]
    for other in all_of[1:]:
        requests = first if first.requests_left <= other.requests_left else other
        tokens = first if first.tokens_left <= other.tokens_left else other
        first = Standing(
            requests.limit_requests,
            requests.requests_left,
            requests.requests_full_in_us,
            tokens.limit_tokens,
            tokens.tokens_left,
            tokens.tokens_full_in_us,
        )
    return first


def lease_of(charge: Charge, all_of: Sequence[Standing], now_s: float, *, degraded: bool = False) -> Lease:
    """Return the lease with what is left after it."""
    tight = tightest(all_of)
    return Lease(
        id=charge.lease_id,
        keys=charge.key,
        reserved_tokens=charge.tokens,
        granted_at_s=now_s,
        expires_at_s=now_s + charge.lease_s,
        limit_requests=tight.limit_requests,
        remaining_requests=tight.requests_left,
        reset_requests_s=tight.requests_full_in_us / 1_000_000,
        limit_tokens=tight.limit_tokens,
        remaining_tokens=tight.tokens_left,
        reset_tokens_s=tight.tokens_full_in_us / 1_000_000,
        degraded=degraded,
    )


def headers(tight: Standing) -> Headers:
    """Return the rate-limit headers of an answer that took nothing."""
    return (
        ("x-ratelimit-limit-requests", str(tight.limit_requests)),
        ("x-ratelimit-remaining-requests", str(tight.requests_left)),
        ("x-ratelimit-reset-requests", f"{tight.requests_full_in_us / 1_000_000:.3f}"),
        ("x-ratelimit-limit-tokens", str(tight.limit_tokens)),
        ("x-ratelimit-remaining-tokens", str(tight.tokens_left)),
        ("x-ratelimit-reset-tokens", f"{tight.tokens_full_in_us / 1_000_000:.3f}"),
    )


def settle(account: Account, lease_id: str, tokens: int, now_s: float) -> None:
    """Replace the reservation by what was used and free the slot. Idempotent: a lease that is gone changes nothing."""
    now_us = micros(now_s)
    held = account.slots.free(lease_id, now_us)
    if held is None:
        return
    unused = held.tokens - max(0, tokens)
    if unused > 0:
        account.tokens.give_back(unused, held.tokens_per_minute, held.mark_us, now_us)
    elif unused < 0:
        account.tokens.take(-unused, held.tokens_per_minute, now_us)
    account.quota.settle(held.day, unused)
