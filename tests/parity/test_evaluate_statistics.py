"""Intervals and tests of paired runs against scipy and statsmodels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rave_mlx.evaluate.compare import by_tag, compare
from rave_mlx.evaluate.result import Result
from rave_mlx.evaluate.statistics import mcnemar

stats = pytest.importorskip("scipy.stats")
tables = pytest.importorskip("statsmodels.stats.contingency_tables")
NAMES = ("text", "table")


def runs(seed=0, count=60):
    """Two runs over the same questions, one about each page: scores in two parts of different weight."""
    rng = np.random.default_rng(seed)
    first, second = [], []
    for page in range(count):
        weights = {"text": float(rng.integers(1, 30)), "table": float(rng.integers(0, 2))}
        for run, quality in ((first, 0.5), (second, 0.65)):
            parts = {name: (weight * float(rng.beta(2 * quality, 1)), weight) for name, weight in weights.items()}
            score = sum(p for p, _ in parts.values()) / sum(w for _, w in parts.values())
            kind = "ab"[page % 2]
            run.append(Result("?", ("x",), "x", {"kind": kind}, False, 0.0, 0, 1, 1.0, 0.5, page, score, parts))
    return list(zip(first, second, strict=True))


def difference(pairs):
    """The benchmark's figure of the second run minus that of the first, written out."""
    of_run = []
    for run in zip(*pairs, strict=True):
        shares = [sum(r.parts[n][0] for r in run) / sum(r.parts[n][1] for r in run) for n in NAMES]
        of_run.append(sum(shares) / len(shares))
    return of_run[1] - of_run[0]


def scipy_interval(pairs):
    """95 % of scipy's paired percentile bootstrap of that difference."""

    def statistic(index):
        return difference([pairs[i] for i in index.astype(int)])

    found = stats.bootstrap((np.arange(len(pairs)),), statistic, vectorized=False, method="percentile",
                            n_resamples=3000, rng=np.random.default_rng(1))  # fmt: skip
    return found.confidence_interval


def test_the_interval_of_a_paired_difference_is_scipys():
    pairs = runs()
    found = compare(pairs)
    assert found.measure == "score"
    assert found.difference == pytest.approx(difference(pairs))
    wanted = scipy_interval(pairs)
    # Ends of 3,000 draws are off by about 3 % of the width.
    near = 0.05 * (wanted.high - wanted.low)
    assert found.interval == pytest.approx((wanted.low, wanted.high), abs=near)


def test_kinds_are_compared_each_for_itself():
    pairs = runs(1)
    assert {name: part.difference for name, part in by_tag(pairs, "kind").items()} == pytest.approx(
        {kind: difference(pairs[n::2]) for n, kind in enumerate("ab")}
    )


def test_pairs_are_drawn_together():
    """Two equal runs differ by nothing in every draw, which unpaired intervals would not show."""
    pairs = [(first, replace(first)) for first, _ in runs(2)]
    assert compare(pairs).interval == (0.0, 0.0)


@pytest.mark.parametrize("counts", [(0, 0), (3, 9), (9, 3), (5, 5), (0, 12), (40, 61)])
def test_mcnemar_is_statsmodels(counts):
    table = [[7, counts[0]], [counts[1], 11]]
    assert mcnemar(*counts) == pytest.approx(float(tables.mcnemar(table, exact=True).pvalue))


def test_mcnemar_counts_answers_of_half_the_score_as_right():
    pairs = runs(3)
    found = compare(pairs)
    right = [(a.score >= 0.5, b.score >= 0.5) for a, b in pairs]
    table = [[right.count((x, y)) for y in (True, False)] for x in (True, False)]
    assert (found.only_first, found.only_second) == (table[0][1], table[1][0])
    assert found.p == pytest.approx(float(tables.mcnemar(table, exact=True).pvalue))
