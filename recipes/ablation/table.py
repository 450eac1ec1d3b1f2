"""The table of an ablation: means, spread over seeds, paired intervals over pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rave_mlx.evaluate.statistics import mean_interval
from recipes.ablation.pages import DENSE, KINDS
from recipes.ablation.runs import Outcome

BASES = ("few questions", "rates x3")
"""Variants that others whose names begin so are compared with; all others with "none"."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Two variants on the same pages after the same training pages.

    Attributes:
        mean: of exact answers, first minus second.
        interval: 95 %, bootstrap over pages, the seeds' means taken first.
        by_seed: the difference of each seed that both have.
    """

    mean: float
    interval: tuple[float, float]
    by_seed: tuple[float, ...]


def page_scores(outcome: Outcome, kinds: Sequence[str]) -> Array:
    """Share of exact answers of every page of some kinds."""
    return np.array([np.mean(page) for kind in kinds for page in outcome.right[kind]])


def difference(first: Sequence[Outcome], second: Sequence[Outcome], kinds: Sequence[str] = DENSE) -> Difference:
    """First minus second, paired by seed and page.

    Args:
        first, second: runs of two variants; seeds that only one has are left out.
        kinds: of pages.

    Raises:
        ValueError: where they have no seed in common.
    """
    by_seed = {outcome.seed: outcome for outcome in second}
    pairs = [(one, by_seed[one.seed]) for one in first if one.seed in by_seed]
    if not pairs:
        raise ValueError("no seed in common")
    each = np.stack([page_scores(a, kinds) - page_scores(b, kinds) for a, b in pairs])
    pages = each.mean(0)
    interval = mean_interval(pages.tolist(), range(len(pages)))
    return Difference(float(pages.mean()), interval, tuple(each.mean(1).tolist()))


def by_name(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Runs by variant, in the order in which the variants first come."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.name, []).append(outcome)
    return found


def table(outcomes: Sequence[Outcome], start: Outcome | None = None) -> str:
    """A Markdown table: exact answers by kind of page, difference to the plain training, pointing, attention.

    Args:
        outcomes: the runs.
        start: the common start, measured; frozen variants are compared with it.
    """
    groups = by_name(outcomes)
    lines = [
        f"| variant | added | seeds | {' | '.join(KINDS)} | full, against its baseline | of each seed | pointing "
        "| image | empty | s |",
        f"|---|---|---|{'---|' * len(KINDS)}---|---|---|---|---|---|",
    ]
    if start is not None:
        lines.append(_row("(start)", [start], None))
    for name, runs in groups.items():
        frozen = name.startswith("frozen")
        basis = next((base for base in BASES if name.startswith(base)), "none")
        base = [_as_seed(start, run.seed) for run in runs] if frozen and start else groups.get(basis)
        same = base is None or name == basis
        lines.append(_row(name, runs, None if same or base is None else difference(runs, base)))
    return "\n".join(lines)


def _as_seed(outcome: Outcome, seed: int) -> Outcome:
    return Outcome(**{**vars(outcome), "seed": seed})


def _row(name: str, runs: Sequence[Outcome], against: Difference | None) -> str:
    shares = [_spread([float(page_scores(run, [kind]).mean()) for run in runs]) for kind in KINDS]
    change = "" if against is None else _signed(against)
    seeds = "" if against is None else ", ".join(f"{d:+.3f}" for d in against.by_seed)
    pointing = np.mean([run.pointing[kind] for run in runs for kind in DENSE])
    visual = np.mean([run.visual[kind] for run in runs for kind in DENSE])
    empty = np.mean([run.empty[kind] for run in runs for kind in DENSE])
    seconds = np.mean([run.seconds for run in runs])
    cells = [name, f"{runs[0].added:,}", str(len(runs)), *shares, change, seeds]
    return f"| {' | '.join(cells)} | {pointing:.2f} | {visual:.2f} | {empty:.2f} | {seconds:.0f} |"


def _spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation over seeds where there are several."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def _signed(d: Difference) -> str:
    return f"{d.mean:+.3f} ({d.interval[0]:+.3f} to {d.interval[1]:+.3f})"
