"""What `--task` names: pages that this package draws, files of one's own, published benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.benchmark_score import COLUMNS
from rave_mlx.evaluate.benchmarks import benchmark, benchmark_items, names
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.report import Columns
from rave_mlx.evaluate.tasks import open_task

PAGES = 20
"""Pages of tasks that draw theirs, or documents of a folder, where nothing else is said."""
FOLDERS = ("sroie", "funsd")
"""Data sets that are read from a folder, by the name that `tasks.real_documents` gives their layout."""


@dataclass(frozen=True)
class Task:
    """A task that is ready to be asked.

    Attributes:
        items: its questions.
        breakdowns: tags by which figures are broken down.
        pages: how many were asked for; None for all of a benchmark.
        measure: what its score is called; "" for a task without one.
        columns: further figures of a benchmark.
    """

    items: Iterator[Item]
    breakdowns: tuple[tuple[str, ...], ...]
    pages: int | None
    measure: str = ""
    columns: Columns | None = None


def find_task(name: str, pages: int | None = None, data: str | None = None) -> Task:
    """The task of a name.

    Args:
        name: a benchmark (`benchmarks.names`), "sroie" or "funsd", or what `tasks.open_task` knows.
        pages: how many pages to draw or questions to ask; None for what is usual.
        data: where a benchmark's data are: a folder, or another data set on the Hub.

    Raises:
        UsageError: for a name that is none of these, or data that are not as published.
        ModelError: for what the Hub, the network or the disk refuses.
    """
    if name in names():
        chosen = benchmark(name)
        measure, columns = f"{chosen.title}: {chosen.measure}", COLUMNS[chosen.extra] if chosen.extra else None
        return Task(benchmark_items(chosen, pages, data), chosen.breakdowns, pages, measure, columns)
    if name in FOLDERS:
        if data is None or not Path(data).expanduser().is_dir():
            raise UsageError(f"--task {name}: give the folder of the data set with --data FOLDER")
        items, breakdowns = open_task(f"real:{data}", PAGES if pages is None else pages)
        return Task((item for item in items if item.tags["split"] == name), breakdowns, pages)
    if data is not None:
        raise UsageError(f"--data: only for {', '.join((*names(), *FOLDERS))}; leave it out for --task {name}")
    items, breakdowns = open_task(name, PAGES if pages is None else pages)
    return Task(items, breakdowns, PAGES if pages is None else pages)
