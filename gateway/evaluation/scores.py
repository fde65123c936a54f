"""How well do scores separate two kinds of text? Ranking measures and recall at a fixed rate of false positives; numpy alone, pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float]
_JUST_ABOVE = 1e-9  # a threshold stands above the value it is read from, so that ties with it do not count


def average_precision(labels: Sequence[int], scores: Values) -> float:
    """Return the area under precision over recall, in steps (AUPRC); equal scores are taken together. Needs a positive label."""
    truth = np.asarray(labels, dtype=np.float64)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    truth, ranked = truth[order], np.asarray(scores, dtype=np.float64)[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    right = np.cumsum(truth)[last_of_tie]
    precision = right / (last_of_tie + 1)
    recall = right / truth.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def auroc(labels: Sequence[int], scores: Values) -> float:
    """Return the chance that a positive text scores above a negative one, ties half. Needs both kinds."""
    truth = np.asarray(labels) == 1
    ranks = _ranks(scores)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def rank_correlation(first: Values, second: Values) -> float:
    """Return Spearman's rho, 0 where one side does not vary."""
    one, two = _ranks(first), _ranks(second)
    if one.std() == 0 or two.std() == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def threshold(ordinary: Values, rate: float) -> float:
    """Return the least threshold that about `rate` of ordinary texts reach; between two of them the way is interpolated."""
    return float(np.quantile(np.asarray(ordinary, dtype=np.float64), 1.0 - rate)) + _JUST_ABOVE


def share_reaching(scores: Values, at: float) -> float:
    """Return the share of scores at or above a threshold."""
    return float(np.mean(np.asarray(scores, dtype=np.float64) >= at))


def _ranks(values: Values) -> NDArray[np.float64]:
    """Return ranks from 1; equal values share their mean."""
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean = last - (counts - 1) / 2.0
    ranks: NDArray[np.float64] = mean[inverse]
    return ranks
