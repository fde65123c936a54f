from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.breaker import Breaker, BreakerRules, Outcome, State

RULES = BreakerRules(consecutive_faults=5, min_calls=20, fault_ratio=0.5, window_s=10, open_s=5, open_growth=2, open_cap_s=12, probe_s=30)


def call(breaker: Breaker, outcome: Outcome, now_s: float) -> None:
    ticket = breaker.admit(now_s)
    assert ticket is not None
    breaker.report(ticket, outcome, now_s)


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(5):
        call(breaker, Outcome.FAULT, now_s)
    assert breaker.state(now_s) is State.OPEN
    return breaker


def test_five_faults_in_a_row_open_it_and_four_do_not():
    breaker = Breaker(RULES)
    for _ in range(4):
        call(breaker, Outcome.FAULT, 0.0)
    call(breaker, Outcome.SUCCESS, 0.0)
    assert breaker.state(0.0) is State.CLOSED
    assert opened().admit(1.0) is None


def test_half_of_many_calls_failing_opens_it_though_never_in_a_row():
    breaker = Breaker(RULES)
    for turn in range(20):
        assert breaker.state(turn * 0.1) is State.CLOSED
        call(breaker, Outcome.FAULT if turn % 2 else Outcome.SUCCESS, turn * 0.1)
    assert breaker.state(2.0) is State.OPEN


def test_old_faults_are_forgotten():
    breaker = Breaker(RULES)
    for turn in range(19):
        call(breaker, Outcome.FAULT if turn % 2 == 0 else Outcome.SUCCESS, 0.0)
    for turn in range(30):
        call(breaker, Outcome.SUCCESS, 11.0)
    for _ in range(4):
        call(breaker, Outcome.FAULT, 11.5)
    assert breaker.state(11.5) is State.CLOSED


def test_cancellations_and_rate_limits_never_open_it():
    breaker = Breaker(RULES)
    for _ in range(1000):
        call(breaker, Outcome.NEUTRAL, 0.0)
    assert breaker.state(0.0) is State.CLOSED


def test_a_neutral_outcome_does_not_break_a_row_of_faults():
    breaker = Breaker(RULES)
    for _ in range(4):
        call(breaker, Outcome.FAULT, 0.0)
        call(breaker, Outcome.NEUTRAL, 0.0)
    call(breaker, Outcome.FAULT, 0.0)
    assert breaker.state(0.0) is State.OPEN


def test_half_open_admits_exactly_one_probe():
    breaker = opened()
    assert breaker.retry_after_s(1.0) == 4.0
    assert breaker.admit(4.999) is None
    tickets = [breaker.admit(5.0) for _ in range(20)]
    assert sum(ticket is not None for ticket in tickets) == 1
    breaker.report(tickets[0], Outcome.SUCCESS, 5.1)
    assert breaker.state(5.1) is State.CLOSED
    assert all(breaker.admit(5.1) is not None for _ in range(20))


def test_a_failed_probe_opens_it_for_longer_up_to_a_cap_and_a_good_time_makes_it_short_again():
    breaker, now, spans = opened(), 0.0, []
    for _ in range(4):
        wait = breaker.retry_after_s(now)
        spans.append(wait)
        now += wait
        call(breaker, Outcome.FAULT, now)
    assert spans == [5.0, 10.0, 12.0, 12.0]
    now += breaker.retry_after_s(now)
    call(breaker, Outcome.SUCCESS, now)
    now += 20
    call(breaker, Outcome.SUCCESS, now)
    for _ in range(5):
        call(breaker, Outcome.FAULT, now)
    assert breaker.retry_after_s(now) == 5.0


def test_a_cancelled_probe_frees_its_place_and_decides_nothing():
    breaker = opened()
    probe = breaker.admit(5.0)
    breaker.report(probe, Outcome.NEUTRAL, 5.1)
    assert breaker.state(5.1) is State.HALF_OPEN
    assert breaker.admit(5.1) is not None


def test_a_lost_probe_does_not_keep_the_backend_out_and_does_not_count_when_it_returns():
    breaker = opened()
    lost = breaker.admit(5.0)
    assert breaker.admit(34.9) is None
    second = breaker.admit(35.0)
    assert second is not None
    breaker.report(lost, Outcome.FAULT, 35.1)
    assert breaker.state(35.1) is State.HALF_OPEN
    breaker.report(second, Outcome.SUCCESS, 35.2)
    assert breaker.state(35.2) is State.CLOSED


def test_late_reports_from_before_it_opened_change_nothing():
    breaker = Breaker(RULES)
    late = [breaker.admit(0.0) for _ in range(10)]
    for _ in range(5):
        call(breaker, Outcome.FAULT, 0.0)
    for ticket in late[:5]:
        breaker.report(ticket, Outcome.SUCCESS, 1.0)
    assert breaker.state(1.0) is State.OPEN
    call(breaker, Outcome.SUCCESS, 5.0)
    for ticket in late[5:]:
        breaker.report(ticket, Outcome.FAULT, 6.0)
    assert breaker.state(6.0) is State.CLOSED


def test_a_ticket_counts_once():
    breaker = Breaker(RULES)
    ticket = breaker.admit(0.0)
    for _ in range(10):
        breaker.report(ticket, Outcome.FAULT, 0.0)
    assert breaker.state(0.0) is State.CLOSED


def test_a_good_start_closes_it_before_the_stream_has_ended():
    breaker = opened()
    probe = breaker.admit(5.0)
    rest = breaker.good_start(probe, 5.1)
    assert breaker.state(5.1) is State.CLOSED
    breaker.report(rest, Outcome.FAULT, 6.0)
    for _ in range(4):
        call(breaker, Outcome.FAULT, 6.0)
    assert breaker.state(6.0) is State.OPEN


def test_ordinary_calls_keep_their_ticket_through_a_good_start():
    breaker = Breaker(RULES)
    ticket = breaker.admit(0.0)
    assert breaker.good_start(ticket, 0.1) is ticket


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_never_two_live_probes_and_never_wedged(seed):
    chance = random.Random(seed)
    breaker, now, out = Breaker(RULES), 0.0, []
    for _ in range(300):
        now += chance.random() * 2
        half_open = breaker.state(now) is State.HALF_OPEN
        ticket = breaker.admit(now)
        if ticket is not None:
            if half_open:
                assert breaker.admit(now) is None
            out.append(ticket)
        if out and chance.random() < 0.8:
            breaker.report(out.pop(chance.randrange(len(out))), chance.choice(list(Outcome)), now)
    now += RULES.open_cap_s + RULES.probe_s
    assert breaker.admit(now) is not None
