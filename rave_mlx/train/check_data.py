"""A walk through a whole data set before anything is trained: what is in it, what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rave_mlx.train.dataset import Dataset
from rave_mlx.train.rows import DataError

_SHOWN = 10


@dataclass(frozen=True)
class Report:
    """What `check_data` found.

    Attributes:
        name: of the set.
        examples: conversations that can be trained on.
        bad: the others, each with its name and the reason.
        unused: columns that nothing is read from.
        tokens: of a row: "min", "median", "p95", "max".
        total_tokens, visual, trained_tokens: tokens of all rows; how many are visual, how many are trained on.
        images, answers: how many rows have how many of them.
        unended: answers without the token that ends one; a model trained on them does not learn to stop.
        longest: the name of the longest row.
    """

    name: str
    examples: int
    bad: tuple[str, ...]
    unused: tuple[str, ...]
    tokens: dict[str, int]
    total_tokens: int
    visual: int
    trained_tokens: int
    images: dict[int, int]
    answers: dict[int, int]
    unended: int
    longest: str

    def text(self) -> str:
        """A few lines for people."""
        share = lambda part: f"{part:,} ({part / max(self.total_tokens, 1):.1%})"  # noqa: E731
        lines = [
            f"{self.name}: {self.examples:,} examples, {len(self.bad)} bad rows",
            f"tokens a row   min {self.tokens['min']:,}, median {self.tokens['median']:,}, "
            f"95% up to {self.tokens['p95']:,}, max {self.tokens['max']:,} ({self.longest})",
            f"tokens in all  {self.total_tokens:,}: visual {share(self.visual)}, "
            f"trained on {share(self.trained_tokens)}",
            f"images a row   {_counts(self.images)}",
            f"answers a row  {_counts(self.answers)}",
        ]
        if self.unused:
            lines.append(f"not read       {', '.join(self.unused)}")
        if self.unended:
            lines.append(
                f"unended        {self.unended:,} answers have no end token behind them in the model's chat template; "
                "the model does not learn to stop from them"
            )
        lines += [f"bad row        {reason}" for reason in self.bad[:_SHOWN]]
        if len(self.bad) > _SHOWN:
            lines.append(f"               and {len(self.bad) - _SHOWN} more")
        return "\n".join(lines)


def check_data(dataset: Dataset, *, workers: int = 2, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every example of a data set, images included.

    Args:
        dataset: opened with as many `bad_rows` as there may be, to see all of them.
        workers: threads that decode images.
        progress: called with how many examples are done and how many there are.
    """

    def problem(index: int) -> str | None:
        try:
            dataset[index]
        except DataError as error:
            return str(error)
        return None

    bad, good = list(dataset.bad), []
    with ThreadPoolExecutor(workers) as threads:
        for index, found in enumerate(threads.map(problem, range(len(dataset)))):
            if found is None:
                good.append(index)
            else:
                bad.append(found)
            if progress is not None:
                progress(index + 1, len(dataset))
    stats = [dataset.stats[index] for index in good]
    lengths = np.array([row.tokens for row in stats] or [0])
    return Report(
        name=dataset.name,
        examples=len(stats),
        bad=tuple(bad),
        unused=tuple(sorted(dataset.unused)),
        tokens={
            "min": int(lengths.min()),
            "median": int(np.median(lengths)),
            "p95": int(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        total_tokens=int(lengths.sum()),
        visual=sum(row.visual for row in stats),
        trained_tokens=sum(row.trained_tokens for row in stats),
        images=dict(sorted(Counter(row.images for row in stats).items())),
        answers=dict(sorted(Counter(row.answers for row in stats).items())),
        unended=sum(row.answers - row.ended for row in stats),
        longest=dataset.where(good[int(lengths.argmax())]) if good else "",
    )


def _counts(found: dict[int, int]) -> str:
    return ", ".join(f"{count:,} x {number}" for number, count in found.items())
