"""Our histogram shows what the library's own would."""

from __future__ import annotations

import random

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gateway.telemetry.distribution import Distribution

BUCKETS = (0.001, 0.01, 0.1, 1, 10)


def samples(registry: CollectorRegistry) -> list[str]:
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)


def test_it_shows_what_the_librarys_own_shows() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Distribution("a_seconds", "A.", ["x", "y"], buckets=BUCKETS, registry=ours)
    other = Histogram("a_seconds", "A.", ["x", "y"], buckets=BUCKETS, registry=theirs)
    source = random.Random(1)
    for _ in range(500):
        value = source.choice([*BUCKETS, 0.0, 50.0, source.random()])
        labels = (source.choice("ab"), "c")
        mine.observe(value, labels)
        other.labels(*labels).observe(value)
    assert samples(ours) == samples(theirs)


def test_a_metric_without_labels_is_there_from_the_start() -> None:
    registry = CollectorRegistry()
    Distribution("b_seconds", "B.", [], buckets=BUCKETS, registry=registry)
    assert 'b_seconds_bucket{le="+Inf"} 0.0' in samples(registry)


def test_other_labels_than_declared_are_a_mistake() -> None:
    metric = Distribution("c_seconds", "C.", ["x"], buckets=BUCKETS, registry=CollectorRegistry())
    with pytest.raises(ValueError, match="labels"):
        metric.observe(1.0, ("a", "b"))


def test_two_metrics_of_one_name_are_refused() -> None:
    registry = CollectorRegistry()
    Distribution("d_seconds", "D.", [], buckets=BUCKETS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Distribution("d_seconds", "D.", [], buckets=BUCKETS, registry=registry)
