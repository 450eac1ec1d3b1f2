"""How far figures of a sample can be trusted: bootstrap intervals over pages, McNemar's exact test."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
_AT_A_TIME = 1000


def mean_interval(values: Sequence[float], pages: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of a mean, by drawing pages with all their questions anew (cluster bootstrap, percentiles).

    Answers about one page are right or wrong together, so intervals over single answers would be too narrow.

    Args:
        values: one an answer.
        pages: the page that each is about.
        seed: of the random draws; the same seed gives the same interval.

    Returns:
        The lower and the upper end.
    """
    _, which = np.unique(np.asarray(pages), return_inverse=True)
    sums = np.bincount(which, np.asarray(values, np.float64))
    counts = np.bincount(which).astype(np.float64)
    rng = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    for _ in range(RESAMPLES // _AT_A_TIME):
        drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_AT_A_TIME)
        means.append((drawn @ sums) / (drawn @ counts))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact p-value of McNemar's test.

    Args:
        only_first: questions that the first alone got right.
        only_second: questions that the second alone got right.

    Returns:
        How likely a split at least as uneven is where both are equally good; 1 where they never differ.
    """
    count = only_first + only_second
    tail = sum(comb(count, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << count))
