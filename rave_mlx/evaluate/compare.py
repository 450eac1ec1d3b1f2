"""Two runs of one task against each other, question by question."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.runner import Result
from rave_mlx.evaluate.statistics import mcnemar, mean_interval


@dataclass(frozen=True)
class Comparison:
    """What two runs got right of the same questions.

    Attributes:
        count: questions.
        pages: images that they are about.
        first, second: share that each got exactly right.
        difference: second minus first.
        interval: 95 % bootstrap interval of the difference, over pages.
        only_first, only_second: questions that one alone got right.
        p: of McNemar's exact test.
        anls: difference of the mean ANLS, second minus first.
        anls_interval: its interval.
    """

    count: int
    pages: int
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
                row = json.loads(line)
                results.append(Result(**{**row, "truths": tuple(row["truths"])}))
            except (ValueError, TypeError, KeyError):
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
    # Files of earlier versions have no page numbers: every question stands for itself.
    pages = [one.page if one.page >= 0 else -1 - number for number, (one, _) in enumerate(pairs)]
    right = [float(b.exact) - float(a.exact) for a, b in pairs]
    similar = [b.anls - a.anls for a, b in pairs]
    count = len(pairs)
    only_first, only_second = right.count(-1.0), right.count(1.0)
    return Comparison(
        count=count,
        pages=len(set(pages)),
        first=sum(a.exact for a, _ in pairs) / count,
        second=sum(b.exact for _, b in pairs) / count,
        difference=sum(right) / count,
        interval=mean_interval(right, pages),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
        anls=sum(similar) / count,
        anls_interval=mean_interval(similar, pages),
    )


def by_tag(pairs: Sequence[Pair], tag: str) -> dict[str, Comparison]:
    """Figures by the value of a tag, in alphabetical order; questions without it are left out."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if tag in pair[0].tags:
            groups[pair[0].tags[tag]].append(pair)
    return {name: compare(groups[name]) for name in sorted(groups)}


def as_table(whole: Comparison, parts: dict[str, Comparison]) -> str:
    """The figures for people, one line a group."""
    lines = [
        f"{'':24} {'first':>6} {'second':>7} {'difference':>11} {'95 % interval':>18} {'only one right':>15} {'p':>7} "
        f"{'ANLS':>7} {'n':>6} {'pages':>6}"
    ]
    for name, c in [*parts.items(), ("all", whole)]:
        low, high = c.interval
        lines.append(
            f"{name[:24]:24} {c.first:6.3f} {c.second:7.3f} {c.difference:+11.3f} {f'{low:+.3f} to {high:+.3f}':>18} "
            f"{f'{c.only_first} / {c.only_second}':>15} {c.p:7.3f} {c.anls:+7.3f} {c.count:6} {c.pages:6}"
        )
    low, high = whole.interval
    better = "second" if low > 0 else "first"
    verdict = "no difference can be told" if low <= 0 <= high else f"the {better} is better"
    lines.append(f"{verdict}: {whole.difference:+.3f} exact, 95 % interval {low:+.3f} to {high:+.3f}, p {whole.p:.3g}")
    return "\n".join(lines)
