from __future__ import annotations

from gateway.limits.bucket import MINUTE_US, Bucket, left


def test_a_whole_burst_fits_and_then_one_unit_at_a_time() -> None:
    bucket = Bucket()
    for _ in range(20):
        assert bucket.wait_us(1, 20, 20, 5) <= 0
        bucket.take(1, 20, 5)
    assert bucket.wait_us(1, 20, 20, 5) == 3_000_000
    assert bucket.wait_us(1, 20, 20, 3_000_005) == 0
    assert bucket.full_in_us(5) == MINUTE_US


def test_a_long_silence_saves_no_more_than_the_capacity() -> None:
    bucket = Bucket()
    bucket.take(5, 60, 0)
    later = 10 * MINUTE_US
    for _ in range(10):
        assert bucket.wait_us(1, 10, 60, later) <= 0
        bucket.take(1, 60, later)
    assert bucket.wait_us(1, 10, 60, later) == 1_000_000


def test_a_clock_that_goes_back_grants_nothing() -> None:
    bucket = Bucket()
    bucket.take(10, 60, 50_000_000)
    assert bucket.wait_us(1, 10, 60, 0) > 50_000_000


def test_what_is_left_is_whole_units_and_never_negative() -> None:
    assert left(0, 10, 60) == 10
    assert left(500_000, 10, 60) == 9
    assert left(10_000_000, 10, 60) == 0
    assert left(99_000_000, 10, 60) == 0


def test_unused_units_come_back_at_once() -> None:
    bucket = Bucket()
    mark_us = bucket.take(600, 600, 0)
    bucket.give_back(500, 600, mark_us, 0)
    assert left(bucket.full_in_us(0), 600, 600) == 500


def test_units_that_time_returned_do_not_come_back_twice() -> None:
    # Ten tokens reserved, unused; a second later time has returned them. Somebody empties the bucket; then they are given back.
    bucket = Bucket()
    mark_us = bucket.take(10, 600, 0)
    bucket.take(600, 600, 1_000_000)
    bucket.give_back(10, 600, mark_us, 1_000_000)
    assert left(bucket.full_in_us(1_000_000), 600, 600) == 0


def test_one_return_does_not_pay_for_another() -> None:
    # Two reservations behind one another, both unused: together they return what was taken and no more.
    bucket = Bucket()
    marks = [bucket.take(100, 600, 0), bucket.take(100, 600, 0)]
    for mark_us in marks:
        bucket.give_back(100, 600, mark_us, 0)
    assert bucket.full_in_us(0) == 0
    assert bucket.wait_us(600, 600, 600, 0) == 0 and bucket.wait_us(601, 600, 600, 0) > 0


def test_a_return_lowers_the_marks_of_those_that_still_wait() -> None:
    # 100 and 50 reserved; the 100 are given back; five seconds refill the 50; the bucket is emptied; nothing is left to return.
    bucket = Bucket()
    large, small = bucket.take(100, 600, 0), bucket.take(50, 600, 0)
    bucket.give_back(100, 600, large, 0)
    bucket.take(600, 600, 5_000_000)
    bucket.give_back(50, 600, small, 5_000_000)
    assert left(bucket.full_in_us(5_000_000), 600, 600) == 0
