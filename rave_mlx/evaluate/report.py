"""Figures of a task: overall and by tag."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rave_mlx.evaluate.runner import Result

SURE = 0.9
"""Certainty from which an answer counts as sure."""


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
        sure_exact: share of those that is exactly right; None where there are none.
    """

    count: int
    exact: float
    error: float
    anls: float
    cer: float
    seconds: float
    sure: float
    sure_exact: float | None


def summarize(results: Sequence[Result]) -> Figures:
    """Figures of some results; there must be at least one."""
    count = len(results)
    share = sum(r.exact for r in results) / count
    sure = [r.exact for r in results if r.certainty >= SURE]
    return Figures(
        count=count,
        exact=share,
        error=math.sqrt(share * (1 - share) / count),
        anls=sum(r.anls for r in results) / count,
        cer=sum(r.errors for r in results) / max(1, sum(r.length for r in results)),
        seconds=sum(r.seconds for r in results) / count,
        sure=len(sure) / count,
        sure_exact=sum(sure) / len(sure) if sure else None,
    )


def when_sure(figures: Figures) -> str:
    """How often sure answers are right, and how many are sure."""
    return "-" if figures.sure_exact is None else f"{figures.sure_exact:.3f} of {figures.sure:.0%}"


def by_tags(results: Sequence[Result], tags: Sequence[str]) -> dict[tuple[str, ...], Figures]:
    """Figures of every combination of these tags, in alphabetical order; results without one of them are left out."""
    groups: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for result in results:
        if all(tag in result.tags for tag in tags):
            groups[tuple(result.tags[tag] for tag in tags)].append(result)
    return {key: summarize(groups[key]) for key in sorted(groups)}


def table(results: Sequence[Result], tags: Sequence[str]) -> str:
    """A table for people."""
    lines = [f"{' / '.join(tags):44} {'exact':>13} {'ANLS':>6} {'CER':>6} {'s':>6} {'n':>6}  exact if sure"]
    for key, f in by_tags(results, tags).items():
        exact = f"{f.exact:.3f} ± {f.error:.3f}"
        line = f"{' / '.join(key):44} {exact:>13} {f.anls:6.3f} {f.cer:6.3f} {f.seconds:6.2f} {f.count:6}"
        lines.append(f"{line}  {when_sure(f)}")
    return "\n".join(lines)
