"""How are values spread? A histogram for one event loop: an observation is a look-up and two additions, without a lock.

The library's own takes a lock for each bucket and sum, and looks its labels up under another; six of those are a twentieth of a
whole exchange. Exposition format: Prometheus text, cumulative buckets with `le` inclusive.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Distribution(Collector):
    """One metric, a row of counts for each set of labels. Not shared between threads."""

    def __init__(self, name: str, says: str, labels: Sequence[str], *, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self.name = name
        self._says = says
        self._labelnames = tuple(labels)
        self._bounds = tuple(float(bound) for bound in buckets)
        self._shown = (*(str(floatToGoString(bound)) for bound in self._bounds), "+Inf")  # type: ignore[no-untyped-call]
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        if not self._labelnames:
            self._begin(())
        registry.register(self)

    def observe(self, value: float, labels: tuple[str, ...] = ()) -> None:
        """Count one value. Raises `ValueError` for another number of labels."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._begin(labels)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def _begin(self, labels: tuple[str, ...]) -> list[int]:
        if len(labels) != len(self._labelnames):
            raise ValueError("the labels do not fit the metric")
        self._sums[labels] = 0.0
        counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
        return counts

    def describe(self) -> Iterable[HistogramMetricFamily]:
        return [HistogramMetricFamily(self.name, self._says, labels=self._labelnames)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self.name, self._says, labels=self._labelnames)
        for labels, counts in self._counts.items():
            total, buckets = 0, []
            for shown, count in zip(self._shown, counts, strict=True):
                total += count
                buckets.append((shown, total))
            family.add_metric(labels, buckets, sum_value=self._sums[labels])
        yield family
