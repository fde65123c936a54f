from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.retry import BudgetRules, RetryBudget


def test_the_first_requests_can_fail_over():
    budget = RetryBudget()
    budget.earn()
    assert budget.spend()
    assert budget.spend()
    assert not budget.spend()


def test_when_everything_fails_attempts_stay_within_a_fifth_more():
    budget = RetryBudget()
    repeats = 0
    for _ in range(1000):
        budget.earn()
        repeats += budget.spend()
    assert 140 <= repeats <= 150


def test_good_times_save_up_no_storm():
    budget = RetryBudget()
    for _ in range(100_000):
        budget.earn()
    repeats = 0
    for _ in range(100):
        budget.earn()
        repeats += budget.spend()
    assert repeats <= 20


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=400), st.floats(0.01, 0.5), st.floats(1, 20), st.floats(0, 5))
def test_repeats_never_exceed_the_ratio_or_the_loan(wishes, ratio, cap, loan):
    budget = RetryBudget(BudgetRules(ratio=ratio, cap=cap, loan=loan))
    requests = repeats = 0
    for wish in wishes:
        budget.earn()
        requests += 1
        repeats += sum(budget.spend() for _ in range(wish))
        assert repeats <= max(loan, ratio * requests) + 1e-6
