"""The figure of a benchmark: what its own measure makes of all answers together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rave_mlx.evaluate.result import Result, page_numbers
from rave_mlx.evaluate.statistics import Points, ratio_interval, ratio_mean

_WHOLE = ""
"""The part of a benchmark that has only one."""


def is_scored(results: Sequence[Result]) -> bool:
    """Whether all of these answers have a score of a benchmark's own measure."""
    return bool(results) and all(result.score is not None for result in results)


def points_of(results: Sequence[Result]) -> Points:
    """Points of every answer in every part that one of them has; exact ones have a point where there is no score."""
    parts = [_parts(result) for result in results]
    names = list(dict.fromkeys(name for part in parts for name in part))
    table = np.array([[part.get(name, (0.0, 0.0)) for name in names] for part in parts], np.float64)
    return Points(table[..., 0], table[..., 1])


def figure(results: Sequence[Result]) -> float:
    """The benchmark's figure, from 0 to 1; 0 where nothing could be reached."""
    reached, possible = points_of(results)
    found = float(ratio_mean(Points(reached.sum(axis=0), possible.sum(axis=0))))
    return 0.0 if np.isnan(found) else found


def figure_interval(results: Sequence[Result]) -> tuple[float, float] | None:
    """The 95 % interval over pages of the figure, or of exact answers where there is none.

    None where nothing could be reached, and for a single page, which says nothing about others.
    """
    points, pages = points_of(results), page_numbers(results)
    if not points.possible.any() or len(set(pages)) < 2:
        return None
    return ratio_interval(points, pages)


def part_figures(results: Sequence[Result]) -> dict[str, float]:
    """Points reached by points possible in each part, where something was possible."""
    sums: dict[str, tuple[float, float]] = {}
    for result in results:
        for name, (reached, possible) in _parts(result).items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + reached, before[1] + possible
    return {name: reached / possible for name, (reached, possible) in sums.items() if possible > 0}


def yes_no_figures(results: Sequence[Result]) -> dict[str, float]:
    """Precision, recall and F1 of the answer "yes", and how often it is given.

    As in the code of POPE's users: an answer that is neither "yes" nor "no" is no miss of a "yes".
    """
    pairs = [(result.truths[0].strip().lower(), result.answer.strip().lower()) for result in results]
    hits, misses, alarms = (pairs.count(pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "yes")))
    precision = hits / (hits + alarms) if hits + alarms else 0.0
    recall = hits / (hits + misses) if hits + misses else 0.0
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / both if both else 0.0,
        "said yes": sum(said == "yes" for _, said in pairs) / len(pairs),
    }


def _parts(result: Result) -> dict[str, tuple[float, float]]:
    return dict(result.parts) or {_WHOLE: (float(result.exact) if result.score is None else result.score, 1.0)}


COLUMNS = {"yes_no": yes_no_figures, "parts": part_figures}
"""Further figures that a benchmark's tables have, by name."""
