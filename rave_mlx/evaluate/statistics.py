"""How far figures of a sample can be trusted: bootstrap intervals over pages, McNemar's exact test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
_DRAWN_AT_A_TIME = 1 << 20
"""Pages drawn before they are counted: more would take much memory at once."""
Floats = NDArray[np.float64]


class Points(NamedTuple):
    """Points reached and points possible: (answers, parts) each; their figure is as of `Score.parts`."""

    reached: Floats
    possible: Floats


def ratio_mean(points: Points) -> Floats:
    """The mean over parts of points reached by points possible, summed already: (..., parts) -> (...).

    Parts of which nothing is possible are left out; NaN where that are all.
    """
    there = points.possible > 0
    shares = np.where(there, points.reached, 0.0) / np.where(there, points.possible, 1.0)
    counted = there.sum(axis=-1)
    found: Floats = np.where(counted > 0, shares.sum(axis=-1) / np.maximum(counted, 1), np.nan)
    return found


def ratio_interval(points: Points, pages: Sequence[int], against: Points | None = None, seed: int = 0) -> tuple[
    float, float
]:  # fmt: skip
    """A 95 % interval of a figure, by drawing pages with all their questions anew (cluster bootstrap, percentiles).

    Answers about one page are right or wrong together, so intervals over single answers would be too narrow.

    Args:
        points: of every answer.
        pages: the page that each answer is about.
        against: points of another run; the interval is then that of the difference, this run minus the other, with
            the same pages drawn for both.
        seed: of the random draws; the same seed gives the same interval.

    Returns:
        The lower and the upper end.
    """
    _, which = np.unique(np.asarray(pages), return_inverse=True)
    own, other = _by_page(points, which), None if against is None else _by_page(against, which)
    found: list[Floats] = []
    for drawn in _draws(len(own.reached), seed):
        figures = ratio_mean(Points(drawn @ own.reached, drawn @ own.possible))
        if other is not None:
            figures = figures - ratio_mean(Points(drawn @ other.reached, drawn @ other.possible))
        found.append(figures)
    every = np.concatenate(found)
    low, high = np.quantile(every[~np.isnan(every)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_interval(values: Sequence[float], pages: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of a mean; see `ratio_interval`.

    Args:
        values: one an answer.
        pages: the page that each is about.
        seed: of the random draws; the same seed gives the same interval.

    Returns:
        The lower and the upper end.
    """
    reached = np.asarray(values, np.float64)[:, None]
    return ratio_interval(Points(reached, np.ones_like(reached)), pages, seed=seed)


def _by_page(points: Points, which: NDArray[np.int64]) -> Points:
    """Sums over the answers of each page: (pages, parts)."""
    sums = Points(*(np.zeros((which.max() + 1, table.shape[1])) for table in points))
    for total, table in zip(sums, points, strict=True):
        np.add.at(total, which, table)
    return sums


def _draws(count: int, seed: int) -> Iterator[Floats]:
    """How often each of `count` pages is drawn: (resamples, pages), some resamples at a time."""
    rng = np.random.default_rng(seed)
    some = max(1, min(RESAMPLES, _DRAWN_AT_A_TIME // count))
    for done in range(0, RESAMPLES, some):
        rows = min(some, RESAMPLES - done)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


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
