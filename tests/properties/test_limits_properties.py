"""No sequence of reservations, settlements and pauses grants more than the limits do."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.limits.bucket import MINUTE_US, Bucket
from gateway.limits.reservation import Account, Charge, Numbers, reserve, reserve_alone, settle
from gateway.providers.local.counters import MemoryCounters
from gateway.refusals import QUOTA_EXCEEDED, RATE_LIMITED, Refusal


@given(
    capacity=st.integers(1, 50),
    per_minute=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3_000_000)), max_size=60),
)
def test_a_bucket_never_over_grants_in_any_window(capacity: int, per_minute: int, steps: list[tuple[int, int]]) -> None:
    bucket, now_us = Bucket(), 0
    granted: list[tuple[int, int]] = []
    for units, pause_us in steps:
        now_us += pause_us
        if units <= capacity and bucket.wait_us(units, capacity, per_minute, now_us) <= 0:
            bucket.take(units, per_minute, now_us)
            granted.append((now_us, units))
    for first in range(len(granted)):
        total = 0
        for at_us, units in granted[first:]:
            total += units
            # One microsecond of slack: capacity rounded up to whole microseconds.
            assert total <= capacity + Fraction(at_us - granted[first][0] + 1, MINUTE_US) * per_minute


@given(capacity=st.integers(1, 50), per_minute=st.integers(1, 10_000), units=st.integers(1, 50), taken=st.integers(0, 60))
def test_a_wait_that_was_announced_is_enough(capacity: int, per_minute: int, units: int, taken: int) -> None:
    bucket = Bucket()
    for _ in range(taken):
        if bucket.wait_us(1, capacity, per_minute, 0) <= 0:
            bucket.take(1, per_minute, 0)
    if units <= capacity:
        wait_us = max(0, bucket.wait_us(units, capacity, per_minute, 0))
        assert bucket.wait_us(units, capacity, per_minute, wait_us) <= 0
        if wait_us:
            assert bucket.wait_us(units, capacity, per_minute, wait_us - 1) > 0


# One unit a second and small numbers: reservations, pauses and returns meet at their borders, where the mistakes are.
_STEPS = st.one_of(
    st.tuples(st.just("pause"), st.integers(1, 6), st.just(0)),
    st.tuples(st.just("reserve"), st.integers(1, 8), st.just(0)),
    st.tuples(st.just("settle"), st.integers(0, 3), st.sampled_from([0, 0, 0, 1, 8])),
)


@settings(max_examples=1000, deadline=None)
@given(capacity=st.integers(3, 8), steps=st.lists(_STEPS, min_size=6, max_size=40))
def test_giving_back_never_lets_more_be_used_than_the_rate_allows(capacity: int, steps: list[tuple[str, int, int]]) -> None:
    """The proof of the mark: what was used, counted when it was granted, keeps to the bucket whatever was reserved beside it."""
    bucket, now_us, per_minute = Bucket(), 0, 60
    grants: list[list[int]] = []  # when, units in the end
    live: list[tuple[int, int, int]] = []  # grant, reserved, mark
    for what, first, second in steps:
        if what == "pause":
            now_us += first * 1_000_000
        elif what == "reserve":
            if first <= capacity and bucket.wait_us(first, capacity, per_minute, now_us) <= 0:
                live.append((len(grants), first, bucket.take(first, per_minute, now_us)))
                grants.append([now_us, first])
        elif live:
            grant, reserved, mark_us = live.pop(first % len(live))
            used = min(second, reserved)
            bucket.give_back(reserved - used, per_minute, mark_us, now_us)
            grants[grant][1] = used
    for start in range(len(grants)):
        total = 0
        for at_us, units in grants[start:]:
            total += units
            assert total <= capacity + Fraction(at_us - grants[start][0] + 1, MINUTE_US) * per_minute


WHOLE = Numbers(requests_per_minute=40, burst=20, tokens_per_minute=900, concurrent=6, daily_tokens=4000)


class Limits(RuleBasedStateMachine):
    """Two subjects of one tenant against a model that only adds up what was granted."""

    @initialize()
    def begin(self) -> None:
        self.now_s = 1000.0
        self.accounts = {"a": Account(), "b": Account(), "": Account()}
        self.live: dict[str, tuple[str, int, float]] = {}
        self.quota = {"a": 0, "b": 0, "": 0}
        self.number = 0

    def charge(self, subject: str, tokens: int) -> Charge:
        self.number += 1
        return Charge(
            tenant="t", subject=subject, tier="x", requests_per_minute=30, burst=10, tokens_per_minute=600, concurrent=3,
            daily_tokens=3000, tokens=tokens, lease_id=str(self.number), day=1, tenant_numbers=WHOLE, lease_s=30.0,
        )  # fmt: skip

    def held(self, subject: str) -> int:
        return sum(expiry > self.now_s for who, _, expiry in self.live.values() if not subject or who == subject)

    @rule(subject=st.sampled_from("ab"), tokens=st.integers(1, 600))
    def ask(self, subject: str, tokens: int) -> None:
        charge = self.charge(subject, tokens)
        accounts = [self.accounts[subject], self.accounts[""]]
        before = [self.state(account) for account in accounts]
        try:
            lease = reserve(accounts, charge, self.now_s)
        except Refusal as no:
            assert no.kind in (RATE_LIMITED, QUOTA_EXCEEDED)
            assert [self.state(account) for account in accounts] == before
            return
        assert self.held(subject) < 3 and self.held("") < 6
        assert self.quota[subject] + tokens <= 3000 and self.quota[""] + tokens <= 4000
        assert 0 <= lease.remaining_tokens <= 600 and 0 <= lease.remaining_requests <= 10
        self.live[lease.id] = (subject, tokens, self.now_s + 30.0)
        for who in (subject, ""):
            self.quota[who] += tokens

    @rule(pick=st.integers(0, 20), used=st.integers(0, 900), times=st.integers(1, 3))
    def finish(self, pick: int, used: int, times: int) -> None:
        if not self.live:
            return
        lease_id = sorted(self.live)[pick % len(self.live)]
        subject, tokens, expiry = self.live.pop(lease_id)
        for _ in range(times):
            for who in (subject, ""):
                settle(self.accounts[who], lease_id, used, self.now_s)
        if expiry > self.now_s:
            for who in (subject, ""):
                self.quota[who] += used - tokens

    @rule(eighths=st.integers(0, 320))  # exact in binary: the model and the limiter agree on every border
    def wait(self, eighths: int) -> None:
        self.now_s += eighths / 8

    @staticmethod
    def state(account: Account) -> tuple[Any, ...]:
        quota = (account.quota.used_on(1),)
        return (account.requests.tat_us, account.tokens.tat_us, account.tokens.returned_us, *quota)

    @invariant()
    def quotas_are_the_sum_of_what_was_granted(self) -> None:
        if not hasattr(self, "quota"):
            return
        for who, account in self.accounts.items():
            assert account.quota.used_on(1) == self.quota[who]


Limits.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestLimits = Limits.TestCase


@given(
    capacity=st.integers(1, 12),
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(0, 20)), max_size=80),
)
async def test_forgetting_accounts_never_lets_a_subject_loose(capacity: int, steps: list[tuple[int, int, int]]) -> None:
    """A small store beside one that never forgets: whatever the small one grants, the large one would."""
    small, large = MemoryCounters(capacity), MemoryCounters()
    now_s, number = 100.0, 0
    for subject, pause_s, tokens in steps:
        now_s += pause_s
        number += 1
        charge = Charge(
            tenant="t", subject=str(subject), tier="x", requests_per_minute=6, burst=2, tokens_per_minute=60, concurrent=2,
            daily_tokens=60 if subject % 3 == 0 else None, tokens=tokens, lease_id=str(number), day=int(now_s) // 60, lease_s=5.0,
        )  # fmt: skip
        try:
            lease = await small.reserve(charge, now_s)
        except Refusal:
            continue
        assert len(small) <= capacity
        await large.reserve(charge, now_s)
        if number % 2:
            await small.settle(lease, tokens, now_s)
            await large.settle(lease, tokens, now_s)


@pytest.mark.parametrize("newcomers", [200])
async def test_a_flood_of_subjects_cannot_lift_anothers_limit(newcomers: int) -> None:
    store = MemoryCounters(20)

    def charge(subject: str, number: int) -> Charge:
        return Charge(
            tenant="t", subject=subject, tier="x", requests_per_minute=1, burst=1, tokens_per_minute=60, concurrent=2,
            daily_tokens=None, tokens=1, lease_id=str(number), day=1,
        )  # fmt: skip

    await store.reserve(charge("victim", 0), 0.0)
    for number in range(1, newcomers):
        try:
            await store.reserve(charge(f"n{number}", number), 1.0)
        except Refusal:
            continue
    with pytest.raises(Refusal) as no:
        await store.reserve(charge("victim", newcomers), 2.0)
    assert no.value.kind is RATE_LIMITED


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40_000_000), st.integers(1, 600), st.sampled_from([None, 2_000]), st.booleans()), min_size=1, max_size=30
    )
)
def test_a_charge_to_one_account_ends_alike_by_the_short_way(steps: list[tuple[int, int, int | None, bool]]) -> None:
    short, long = Account(), Account()
    now_us = 0
    for number, (wait_us, tokens, daily, give_back) in enumerate(steps):
        now_us += wait_us
        charge = Charge(
            tenant="t", subject="s", tier="x", requests_per_minute=7, burst=3, tokens_per_minute=1_000, concurrent=2,
            daily_tokens=daily, tokens=tokens, lease_id=str(number), day=1,
        )  # fmt: skip
        ends: list[Any] = []
        for account, way in ((short, reserve_alone), (long, lambda a, c, s: reserve([a], c, s))):
            try:
                ends.append(way(account, charge, now_us / 1_000_000))
            except Refusal as refusal:
                ends.append((refusal.kind, refusal.retry_after_s, refusal.headers))
            if give_back:
                settle(account, str(number - 1), tokens // 2, now_us / 1_000_000)
        assert ends[0] == ends[1]
