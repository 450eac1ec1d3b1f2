"""Whether a certainty means what it says: right answers by certainty, and the answers that a precision leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rave_mlx.evaluate.result import Result

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Bounds of the bins of certainty: fine where a threshold is wanted."""
PRECISIONS = (0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Bin:
    """Answers whose certainty lies in [low, high), the last bin closed.

    Attributes:
        low, high: bounds.
        count: answers in it.
        certainty: their mean certainty.
        right: share that is right (`Result.right`).
    """

    low: float
    high: float
    count: int
    certainty: float
    right: float


@dataclass(frozen=True)
class Threshold:
    """The lowest certainty from which on answers are right often enough.

    Attributes:
        precision: share that shall be right.
        certainty: the threshold; None where no answers reach that precision.
        coverage: share of all answers at or above it.
    """

    precision: float
    certainty: float | None
    coverage: float


@dataclass(frozen=True)
class Reliability:
    """What certainties of some answers are worth.

    Attributes:
        count: answers.
        bins: those that hold answers, ascending.
        error: expected calibration error (Naeini et al. 2015): mean distance of certainty and right share over bins.
        thresholds: one for each of `PRECISIONS`.
    """

    count: int
    bins: tuple[Bin, ...]
    error: float
    thresholds: tuple[Threshold, ...]


def reliability(results: Sequence[Result]) -> Reliability:
    """Figures of some results; there must be at least one."""
    found = [(result.certainty, result.right) for result in results]
    bins = []
    for low, high in pairwise(EDGES):
        inside = [(c, right) for c, right in found if low <= c and (c < high or high == EDGES[-1])]
        if inside:
            mean = sum(c for c, _ in inside) / len(inside)
            bins.append(Bin(low, high, len(inside), mean, sum(right for _, right in inside) / len(inside)))
    error = sum(b.count * abs(b.certainty - b.right) for b in bins) / len(found)
    return Reliability(len(found), tuple(bins), error, tuple(_threshold(found, wanted) for wanted in PRECISIONS))


def _threshold(found: Sequence[tuple[float, bool]], precision: float) -> Threshold:
    """The threshold that keeps most answers; those of one certainty stay together."""
    ordered = sorted(found, key=lambda pair: -pair[0])
    best, right = Threshold(precision, None, 0.0), 0
    for number, (certainty, is_right) in enumerate(ordered, 1):
        right += is_right
        last_of_its_value = number == len(ordered) or ordered[number][0] < certainty
        if last_of_its_value and right / number >= precision:
            best = Threshold(precision, certainty, number / len(ordered))
    return best


def as_table(found: Reliability) -> str:
    """The figures for people."""
    lines = [f"{'certainty':>14} {'answers':>8} {'mean':>6} {'right':>6}"]
    for b in found.bins:
        lines.append(f"{f'{b.low:.2f} to {b.high:.2f}':>14} {b.count:8} {b.certainty:6.3f} {b.right:6.3f}")
    lines.append(f"calibration error {found.error:.3f} over {found.count} answers")
    lines.append("")
    lines.append(f"{'right in':>10} {'from certainty':>15} {'share of answers':>17}")
    for t in found.thresholds:
        certainty = "-" if t.certainty is None else f"{t.certainty:.3f}"
        lines.append(f"{f'{t.precision:.0%}':>10} {certainty:>15} {f'{t.coverage:.0%}':>17}")
    return "\n".join(lines)
