"""Published benchmarks by name: their questions, asked and scored as in the code that published figures come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.benchmarks.data_rows import rows
from rave_mlx.evaluate.benchmarks.data_set import DataFiles, data_files
from rave_mlx.evaluate.benchmarks.questions import questions_of
from rave_mlx.evaluate.benchmarks.spec import Benchmark, benchmark, names
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.scores import CHECKS

__all__ = ["Benchmark", "benchmark", "benchmark_items", "names"]


def benchmark_items(chosen: Benchmark, most: int | None = None, place: str | None = None) -> Iterator[Item]:
    """The questions of a benchmark, in the order of its data set.

    Args:
        chosen: the benchmark.
        most: how many; None for all.
        place: where its data are, as of `data_files`.

    Raises:
        UsageError: for data that are not as published, or a package that its measure needs; most of it at the first
            question.
        ModelError: for what the Hub, the network or the disk refuses.
    """
    if most is None and chosen.score in CHECKS:
        CHECKS[chosen.score](None)
    return _items(chosen, most, data_files(chosen, place))


def _items(chosen: Benchmark, most: int | None, files: DataFiles) -> Iterator[Item]:
    asked = 0
    for number, (row, share) in enumerate(rows(chosen, files), 1):
        try:
            found = list(questions_of(chosen, row))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UsageError(
                f"{files.name}, row {number}: is not as {chosen.title} is published ({type(error).__name__}: {error})"
            ) from None
        for item in found:
            asked += 1
            yield replace(item, progress=share if most is None else max(share, asked / most))
            if asked == most:
                return
    if not asked:
        raise UsageError(f"{files.name}: no questions in it")
