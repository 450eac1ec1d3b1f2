"""Tasks by name, and from files of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.benchmarks import names
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.tasks.browser_pages import browser
from rave_mlx.evaluate.tasks.generated_documents import docs
from rave_mlx.evaluate.tasks.large_pages import large
from rave_mlx.evaluate.tasks.meaning_pages import meaning
from rave_mlx.evaluate.tasks.pdf_headings import headings
from rave_mlx.evaluate.tasks.question_files import read_lines
from rave_mlx.evaluate.tasks.real_documents import real

NAMED: dict[str, Callable[[int], Iterator[Item]]] = {
    "docs": docs,
    "browser": browser,
    "large": large,
    "meaning": meaning,
}
"""Tasks that draw their own pages, from (pages a split or kind)."""

BREAKDOWNS = {
    "docs": (("split", "kind"), ("layout",), ("font",)),
    "browser": (("split", "kind"), ("font",)),
    "large": (("split", "kind"), ("split",)),
    "headings": (("split",),),
    "meaning": (("split", "kind"), ("layout",), ("style",)),
    "real": (("split", "kind"),),
}
"""By which tags a task's figures are broken down."""


def open_task(name: str, pages: int) -> tuple[Iterator[Item], tuple[tuple[str, ...], ...]]:
    """Items of a task and its breakdowns.

    Args:
        name: "docs", "docs:SPLIT", "meaning", "meaning:SPLIT", "browser", "large"; "real:FOLDER" (receipts and forms
            in their published layouts); a PDF (headings of its pages) or a JSONL file.
        pages: how many pages to draw: a split, a kind, or of the PDF; how many documents of a folder.

    Raises:
        UsageError: for a name that is none of these, or a malformed file.
    """
    task, _, split = name.partition(":")
    if task == "docs" and split:
        return docs(pages, split), BREAKDOWNS[task]
    if task == "meaning" and split:
        return meaning(pages, split), BREAKDOWNS[task]
    if task == "real":
        folder = Path(split).expanduser()
        if not split or not folder.is_dir():
            raise UsageError(f"--task {name}: no such folder; use real:FOLDER with receipts or forms in it")
        return real(folder, pages), BREAKDOWNS[task]
    if name in NAMED:
        return NAMED[name](pages), BREAKDOWNS[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise UsageError(
            f"{name}: no such task or file; tasks: {', '.join(NAMED)}, real:FOLDER, {', '.join(names())}, a PDF or a "
            "JSONL file"
        )
    if path.suffix.lower() == ".pdf":
        return headings(path, pages), BREAKDOWNS["headings"]
    return read_lines(path), ()
