"""Figures of a task: overall and by tag."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from rave_mlx.evaluate.benchmark_score import figure, figure_interval, is_scored
from rave_mlx.evaluate.item import tag_values
from rave_mlx.evaluate.result import Result

SURE = 0.9
"""Certainty from which an answer counts as sure."""
Columns = Callable[[Sequence[Result]], Mapping[str, float]]
"""Further figures of some results, by name."""


@dataclass(frozen=True)
class Figures:
    """Means over `count` answers.

    Attributes:
        exact: share that is exactly right.
        error: standard error of that share.
        anls: mean ANLS.
        cer: character errors per character of the right answers.
        seconds: time of an answer; several are written at a time.
        sure: share of answers with a certainty of at least `SURE`.
        sure_exact: share of those that is right (`Result.right`); None where there are none.
        score: the benchmark's own figure, from 0 to 1; None for tasks without one.
        interval: 95 % interval over pages of `score`, or of `exact` where there is none; None for a single page.
        columns: the benchmark's further figures.
    """

    count: int
    exact: float
    error: float
    anls: float
    cer: float
    seconds: float
    sure: float
    sure_exact: float | None
    score: float | None = None
    interval: tuple[float, float] | None = None
    columns: Mapping[str, float] = field(default_factory=dict)


def summarize(results: Sequence[Result], columns: Columns | None = None) -> Figures:
    """Figures of some results; there must be at least one.

    Args:
        results: the answers.
        columns: computes further figures.
    """
    count = len(results)
    share = sum(r.exact for r in results) / count
    sure = [r.right for r in results if r.certainty >= SURE]
    scored = is_scored(results)
    return Figures(
        count=count,
        exact=share,
        error=math.sqrt(share * (1 - share) / count),
        anls=sum(r.anls for r in results) / count,
        cer=sum(r.errors for r in results) / max(1, sum(r.length for r in results)),
        seconds=sum(r.seconds for r in results) / count,
        sure=len(sure) / count,
        sure_exact=sum(sure) / len(sure) if sure else None,
        score=figure(results) if scored else None,
        interval=figure_interval(results),
        columns={} if columns is None else dict(columns(results)),
    )


def when_sure(figures: Figures) -> str:
    """How often sure answers are right, and how many are sure."""
    return "-" if figures.sure_exact is None else f"{figures.sure_exact:.3f} of {figures.sure:.0%}"


def as_interval(figures: Figures) -> str:
    """The interval for people."""
    return "-" if figures.interval is None else f"{figures.interval[0]:.3f} to {figures.interval[1]:.3f}"


def groups(results: Sequence[Result], tags: Sequence[str]) -> dict[tuple[str, ...], list[Result]]:
    """Results by every combination of these tags, in alphabetical order; those without one of them are left out."""
    found: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for result in results:
        for key in product(*(tag_values(result.tags, tag) for tag in tags)):
            found[key].append(result)
    return {key: found[key] for key in sorted(found)}


def by_tags(
    results: Sequence[Result], tags: Sequence[str], columns: Columns | None = None
) -> dict[tuple[str, ...], Figures]:
    """Figures of each of the `groups`.

    Args:
        results: the answers.
        tags: what to group them by.
        columns: computes further figures.
    """
    return {key: summarize(group, columns) for key, group in groups(results, tags).items()}


def table(results: Sequence[Result], tags: Sequence[str], columns: Columns | None = None) -> str:
    """A table for people.

    Args:
        results: the answers.
        tags: what to group them by.
        columns: computes further figures.
    """
    if is_scored(results):
        return _score_table(by_tags(results, tags, columns), " / ".join(tags))
    lines = [f"{' / '.join(tags):44} {'exact':>13} {'ANLS':>6} {'CER':>6} {'s':>6} {'n':>6}  exact if sure"]
    for key, f in by_tags(results, tags).items():
        exact = f"{f.exact:.3f} ± {f.error:.3f}"
        line = f"{' / '.join(key):44} {exact:>13} {f.anls:6.3f} {f.cer:6.3f} {f.seconds:6.2f} {f.count:6}"
        lines.append(f"{line}  {when_sure(f)}")
    return "\n".join(lines)


def _score_table(found: Mapping[tuple[str, ...], Figures], title: str) -> str:
    """The table of a benchmark: its score, its further figures, time and number of answers."""
    names = list(dict.fromkeys(name for f in found.values() for name in f.columns))
    more = "".join(f" {name:>{max(9, len(name))}}" for name in names)
    width = max(len(title), *(len(" / ".join(key)) for key in found)) if found else len(title)
    lines = [f"{title:{width}} {'score':>6} {'95 % interval':>15}{more} {'exact':>6} {'s':>6} {'n':>6}  right if sure"]
    for key, f in found.items():
        cells = (f"{f.columns[name]:.3f}" if name in f.columns else "-" for name in names)
        more = "".join(f" {cell:>{max(9, len(name))}}" for cell, name in zip(cells, names, strict=True))
        line = f"{' / '.join(key):{width}} {f.score:6.3f} {as_interval(f):>15}{more} {f.exact:6.3f} {f.seconds:6.2f}"
        lines.append(f"{line} {f.count:6}  {when_sure(f)}")
    return "\n".join(lines)
