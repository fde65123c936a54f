from __future__ import annotations

from typing import Any

import pytest

from gateway.limits.concurrency import Held, Slots
from gateway.limits.quota import Quota
from gateway.limits.reservation import Account, Charge, Numbers, reserve, settle
from gateway.providers.local.counters import MemoryCounters
from gateway.refusals import INVALID_REQUEST, OVERLOADED, QUOTA_EXCEEDED, RATE_LIMITED, Refusal


def charge(**changed: Any) -> Charge:
    fields: dict[str, Any] = {
        "tenant": "acme", "subject": "s", "tier": "small", "requests_per_minute": 60, "burst": 5, "tokens_per_minute": 600,
        "concurrent": 2, "daily_tokens": 1000, "tokens": 100, "lease_id": "l1", "day": 7,
    }  # fmt: skip
    return Charge(**(fields | changed))


def no(account: Account, asked: Charge, now_s: float = 0.0) -> Refusal:
    with pytest.raises(Refusal) as refused:
        reserve([account], asked, now_s)
    return refused.value


def test_the_refusal_that_lasts_longest_is_the_one_told() -> None:
    account = Account()
    reserve([account], charge(tokens=600), 0.0)
    assert no(account, charge(tokens=601)).kind is INVALID_REQUEST
    assert no(account, charge(tokens=500, lease_id="l2")).kind is QUOTA_EXCEEDED
    refused = no(account, charge(tokens=100, lease_id="l2"))
    assert (refused.kind, refused.detail, refused.retry_after_s) == (RATE_LIMITED, "tokens", 10.0)
    reserve([account], charge(tokens=50, lease_id="l2"), 30.0)
    assert no(account, charge(tokens=1, lease_id="l3"), 30.0).detail == "concurrency"


def test_the_longer_wait_of_two_rates_is_the_one_told() -> None:
    account = Account()
    for number in range(5):
        reserve([account], charge(tokens=110, concurrent=9, lease_id=str(number)), 0.0)
    refused = no(account, charge(tokens=60, concurrent=9), 0.0)
    assert (refused.detail, refused.retry_after_s) == ("requests", 1.0)
    refused = no(account, charge(tokens=100, concurrent=9), 0.0)
    assert (refused.detail, refused.retry_after_s) == ("tokens", 5.0)


def test_usage_beyond_the_reservation_is_taken_even_below_zero() -> None:
    account = Account()
    reserve([account], charge(tokens=100), 0.0)
    settle(account, "l1", 900, 0.0)
    assert account.quota.used_on(7) == 900
    assert no(account, charge(tokens=1)).retry_after_s == pytest.approx(30.1)


def test_a_negative_usage_counts_as_none() -> None:
    account = Account()
    reserve([account], charge(tokens=100), 0.0)
    settle(account, "l1", -5000, 0.0)
    assert account.quota.used_on(7) == 0 and account.tokens.full_in_us(0) == 0


def test_a_reservation_of_yesterday_returns_nothing_to_today() -> None:
    account = Account()
    reserve([account], charge(tokens=500, day=7, lease_s=900.0), 0.0)
    reserve([account], charge(tokens=300, day=8, lease_id="l2"), 60.0)
    settle(account, "l1", 0, 61.0)
    assert account.quota.used_on(8) == 300
    settle(account, "l2", 100, 62.0)
    assert account.quota.used_on(8) == 100


def test_a_denial_by_the_tenant_takes_nothing_from_the_subject() -> None:
    whole = Numbers(requests_per_minute=60, burst=60, tokens_per_minute=100, concurrent=50, daily_tokens=None)
    subject, tenant = Account(), Account()
    reserve([subject, tenant], charge(tenant_numbers=whole), 0.0)
    with pytest.raises(Refusal):
        reserve([subject, tenant], charge(tenant_numbers=whole, lease_id="l2"), 0.0)
    assert len(subject.slots) == 1 and subject.quota.used_on(7) == 100
    assert subject.tokens.full_in_us(0) == 10_000_000


def test_a_share_is_never_nothing() -> None:
    share = Numbers(requests_per_minute=2, burst=1, tokens_per_minute=900, concurrent=2, daily_tokens=2).share(3)
    assert share == Numbers(requests_per_minute=1, burst=1, tokens_per_minute=300, concurrent=1, daily_tokens=1)


def test_expired_slots_do_not_count_and_are_not_freed_twice() -> None:
    slots = Slots()
    slots.hold("a", Held(100, 0, 1, 1, 0))
    slots.hold("b", Held(200, 0, 1, 1, 0))
    assert slots.full(2, 99) and not slots.full(2, 100)
    assert slots.free("a", 100) is None
    assert slots.free("b", 150) is not None and slots.free("b", 150) is None


def test_a_quota_forgets_yesterday() -> None:
    quota = Quota()
    quota.take(1, 10)
    assert (quota.used_on(1), quota.used_on(2)) == (10, 0)
    quota.take(2, 3)
    assert (quota.used_on(0), quota.used_on(1), quota.used_on(2)) == (0, 3, 3)  # who began yesterday is charged to today


async def test_memory_forgets_only_what_limits_nobody() -> None:
    store = MemoryCounters(2)
    quick = {"daily_tokens": None, "tokens": 1, "lease_s": 1.0}
    await store.reserve(charge(subject="a", **quick), 0.0)
    await store.reserve(charge(subject="b", lease_id="l2"), 0.0)  # has used up some of today's quota
    with pytest.raises(Refusal) as refused:
        await store.reserve(charge(subject="c", lease_id="l3"), 0.5)
    assert refused.value.kind is OVERLOADED
    await store.reserve(charge(subject="c", lease_id="l3", **quick), 2.5)  # `a` is idle by then, though `b` came before
    with pytest.raises(Refusal):
        await store.reserve(charge(subject="d", lease_id="l4"), 2.6)
    await store.reserve(charge(subject="e", lease_id="l5", day=8), 5000.0)
    assert len(store) == 2


async def test_memory_forgets_neither_account_of_the_charge_in_hand() -> None:
    store = MemoryCounters(2)
    whole = Numbers(requests_per_minute=60, burst=60, tokens_per_minute=600, concurrent=50, daily_tokens=None)
    await store.reserve(charge(subject="old", daily_tokens=None, tokens=1, lease_s=1.0), 0.0)
    lease = await store.reserve(charge(subject="new", lease_id="l2", tenant_numbers=whole), 100.0)
    assert len(store) == 2 and store.held() == 1
    await store.settle(lease, 0, 100.0)
    assert store.held() == 0


async def test_held_counts_live_exchanges_once() -> None:
    store = MemoryCounters()
    leases = [await store.reserve(charge(subject=str(n), lease_id=str(n)), 0.0) for n in range(5)]
    assert store.held() == 5
    for lease in leases:
        await store.settle(lease, 1, 0.0)
    assert store.held() == 0
