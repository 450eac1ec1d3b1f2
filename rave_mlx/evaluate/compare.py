"""Two runs of one task against each other, question by question."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.benchmark_score import figure, is_scored, points_of
from rave_mlx.evaluate.item import tag_values
from rave_mlx.evaluate.result import Result, page_numbers
from rave_mlx.evaluate.statistics import Points, mcnemar, mean_interval, ratio_interval


@dataclass(frozen=True)
class Comparison:
    """What two runs made of the same questions.

    Attributes:
        count: questions.
        pages: images that they are about.
        measure: "score" where both runs have a benchmark's own score, else "exact".
        first, second: share that each got exactly right, or the benchmark's figure of each.
        difference: second minus first.
        interval: 95 % bootstrap interval of the difference, over pages.
        only_first, only_second: questions that one alone got right (`Result.right`).
        p: of McNemar's exact test.
        anls: difference of the mean ANLS, second minus first.
        anls_interval: its interval.
    """

    count: int
    pages: int
    measure: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    only_first: int
    only_second: int
    p: float
    anls: float
    anls_interval: tuple[float, float]


Pair = tuple[Result, Result]


def read_answers(file: Path) -> list[Result]:
    """The answers that `rave-mlx evaluate --out FILE` wrote.

    Raises:
        UsageError: for a file that cannot be read or holds something else.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error})") from None
    results = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                results.append(Result.from_row(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UsageError(f"{file}, line {number}: no answer as evaluate --out writes them") from None
    if not results:
        raise UsageError(f"{file}: no answers in it")
    return results


def paired(first: Path, second: Path) -> list[Pair]:
    """The answers of two runs to the same questions, in order.

    Raises:
        UsageError: where they were asked different things.
    """
    a, b = read_answers(first), read_answers(second)
    for number, (one, other) in enumerate(zip(a, b, strict=False), 1):
        if (one.question, one.truths, one.page) != (other.question, other.truths, other.page):
            raise UsageError(
                f"{first} and {second} answer different questions: line {number} is {one.question!r} in the first and "
                f"{other.question!r} in the second; compare runs of one task with the same --pages"
            )
    if len(a) != len(b):
        short, long = sorted((len(a), len(b)))
        raise UsageError(
            f"{first} has {len(a)} answers and {second} {len(b)}: {long - short} questions have no partner; "
            "let both runs end (the same command goes on with a file)"
        )
    return list(zip(a, b, strict=True))


def compare(pairs: Sequence[Pair]) -> Comparison:
    """Figures of paired answers; there must be at least one."""
    runs = tuple(zip(*pairs, strict=True))
    scored = all(is_scored(run) for run in runs)
    pages = page_numbers(runs[0])
    first, second = ((points_of if scored else _exact_points)(run) for run in runs)
    figures = [figure(run) if scored else sum(r.exact for r in run) / len(run) for run in runs]
    similar = [b.anls - a.anls for a, b in pairs]
    # Without a score there is no half of one: exact is exact.
    right = [(a.right, b.right) if scored else (a.exact, b.exact) for a, b in pairs]
    only_first, only_second = right.count((True, False)), right.count((False, True))
    return Comparison(
        count=len(pairs),
        pages=len(set(pages)),
        measure="score" if scored else "exact",
        first=figures[0],
        second=figures[1],
        difference=figures[1] - figures[0],
        interval=ratio_interval(second, pages, against=first) if first.possible.any() else (0.0, 0.0),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
        anls=sum(similar) / len(pairs),
        anls_interval=mean_interval(similar, pages),
    )


def _exact_points(results: Sequence[Result]) -> Points:
    """A point for every answer that is exactly right."""
    reached = np.array([[float(result.exact)] for result in results])
    return Points(reached, np.ones_like(reached))


def by_tag(pairs: Sequence[Pair], tag: str) -> dict[str, Comparison]:
    """Figures by the value of a tag, in alphabetical order; questions without it are left out."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for name in tag_values(pair[0].tags, tag):
            groups[name].append(pair)
    return {name: compare(groups[name]) for name in sorted(groups)}


def as_table(whole: Comparison, parts: dict[str, Comparison]) -> str:
    """The figures for people, one line a group."""
    width = max([24, *map(len, parts)])
    lines = [
        f"{'':{width}} {'first':>6} {'second':>7} {'difference':>11} {'95 % interval':>18} {'only one right':>15} "
        f"{'p':>7} {'ANLS':>7} {'n':>6} {'pages':>6}"
    ]
    for name, c in [*parts.items(), ("all", whole)]:
        low, high = c.interval
        lines.append(
            f"{name:{width}} {c.first:6.3f} {c.second:7.3f} {c.difference:+11.3f} {f'{low:+.3f} to {high:+.3f}':>18} "
            f"{f'{c.only_first} / {c.only_second}':>15} {c.p:7.3f} {c.anls:+7.3f} {c.count:6} {c.pages:6}"
        )
    low, high = whole.interval
    better = "second" if low > 0 else "first"
    verdict = "no difference can be told" if low <= 0 <= high else f"the {better} is better"
    lines.append(
        f"{verdict}: {whole.difference:+.3f} {whole.measure}, 95 % interval {low:+.3f} to {high:+.3f}, p {whole.p:.3g}"
    )
    return "\n".join(lines)
