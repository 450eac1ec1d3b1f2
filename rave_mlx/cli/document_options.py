"""Options and the course of the commands that go over documents: `read` and `extract`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rave_mlx.cli import split

if TYPE_CHECKING:
    from rave_mlx.documents.progress import Report
    from rave_mlx.documents.sources import Pile
    from rave_mlx.documents.stream import Process

_RUN = "Run"

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE_OR_FOLDER...",
        help="PDFs, pictures, folders (all below is read, in natural order), patterns, `-` for standard input; "
        "FILE.pdf#page=2 is one page.",
    ),
]
Pages = Annotated[
    str | None,
    typer.Option("--pages", metavar="1-3,7", help="Pages of every document: 2- from the second on, last the last one."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE.jsonl|.csv|.parquet",
        help="Where the rows go, one a document. Beside a table they stand as JSON Lines. Without it: JSON Lines on "
        "standard output.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the rows of --out: documents that have theirs are left out."),
]
AllowErrors = Annotated[
    bool,
    typer.Option("--allow-errors", help="Exit code 0 also where documents failed; their rows say why."),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, metavar="N", help="Answers that are written together; takes memory.")
]
Split = Annotated[
    split.Split | None,
    typer.Option(
        "--split",
        help="Under mlx.launch. documents: every process has the whole model and takes every n-th document; model: all "
        "work on each document, and every one holds a part of the model. Default: model where one machine has not the "
        "memory for it.",
        rich_help_panel=_RUN,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no report; failures are still said.")]


def find(files: Sequence[str], pages: str | None, out: Path | None, *, quiet: bool, skip: Sequence[Path] = ()) -> Pile:
    """The documents that are named; says which files in folders are left out.

    Args:
        files: as they were named.
        pages: which pages of every document.
        out: where rows will go; that is no document.
        quiet: whether nothing is said.
        skip: what else the command writes.

    Raises:
        RaveError: as `find_documents`, `parse_pages` and `rows_path`.
    """
    from rave_mlx.documents.pages_spec import parse_pages
    from rave_mlx.documents.run import written_by
    from rave_mlx.documents.sources import find_documents

    ranges = None if pages is None else parse_pages(pages)
    pile = find_documents(files, pages=ranges, skip=[*skip, *(() if out is None else written_by(out))])
    if not quiet and (left_out := pile.describe_left_out()):
        print(left_out, file=sys.stderr)
    return pile


def go(
    what: str,
    pile: Pile,
    process: Process,
    *,
    out: Path | None,
    settings: Mapping[str, Any],
    empty: Mapping[str, Any],
    resume: bool,
    allow_errors: bool,
    quiet: bool,
    alone: bool = False,
) -> Report:
    """Run over documents with progress and report; ends the command with 1 where there are errors.

    Of several processes, all but the first end here: what comes of a run is in that one's files.

    Args:
        what: names the work, as "read".
        pile, process, out, settings, empty, resume: as of `documents.run.run`.
        allow_errors: whether documents may fail.
        quiet: whether nothing is shown but failures.
        alone: whether all documents are this process', whatever others there are.

    Raises:
        typer.Exit: with code 1; with 0 in a process that is not the first.
        RaveError: as `documents.run.run`.
    """
    from rave_mlx.backend.distributed import World, join
    from rave_mlx.documents.progress import Progress
    from rave_mlx.documents.run import run

    world = World() if alone else join()
    bar = world.is_writer and (out is not None or not sys.stdout.isatty())
    share = len(pile.documents[world.rank :: world.size])
    with Progress(what, share, quiet=quiet or not world.is_writer, bar=bar) as progress:
        report = run(
            pile, process, progress, out=out, settings=settings, empty=empty, resume=resume, world=world
        )  # fmt: skip
    if not world.is_writer:
        raise typer.Exit(0)
    if not quiet:
        print(report, file=sys.stderr)
    if code := report.exit_code(allow_errors=allow_errors):
        raise typer.Exit(code)
    return report
