"""A run over documents that can be trusted: rows are written as they come, and nothing is lost or done twice.

The rows are kept in a JSONL file whatever the output: that is the output itself, or stands beside the table that is
made of it. See `checkpoint.rows_file` for what a kill, a full disk or a second run do to it, and `run_rows` for what
happens to documents that have a row already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

from rave_mlx.backend.distributed import World
from rave_mlx.checkpoint.rows_file import RowsFile, encode_row
from rave_mlx.documents.machines import collect, other_files, own_file, remove_others, share
from rave_mlx.documents.progress import Progress, Report
from rave_mlx.documents.run_rows import RunRows
from rave_mlx.documents.sources import Pile, Source
from rave_mlx.documents.stream import Done, Process, Row, process_documents
from rave_mlx.documents.tables import TABLES, check_table, write_tables
from rave_mlx.errors import UsageError

ROWS = ".jsonl"


def rows_path(out: Path) -> Path:
    """Where the rows of a run are kept: in `out` itself, or beside the table that it is.

    Raises:
        UsageError: for an output of another kind.
    """
    if out.suffix.lower() == ROWS:
        return out
    if out.suffix.lower() in TABLES:
        return out.with_name(out.name + ROWS)
    raise UsageError(f"--out {out}: rows are written as {', '.join((ROWS, *TABLES))}; give it one of these endings")


def written_by(out: Path) -> list[Path]:
    """The files that a run writes for an output, which are never documents."""
    rows = rows_path(out)
    return [out, *(rows.with_name(rows.name + ending) for ending in ("", ".run.json", ".lock"))]


def run(
    pile: Pile,
    process: Process,
    progress: Progress,
    *,
    out: Path | None,
    settings: Mapping[str, Any],
    empty: Mapping[str, Any],
    resume: bool = False,
    world: World | None = None,
) -> Report:
    """Put documents through `process`, and write a row for each.

    Args:
        pile: the documents.
        process: reads or extracts.
        progress: is told how far it is.
        out: file of the rows, .jsonl, .csv or .parquet; None writes JSON lines to standard output.
        settings: what the rows depend on beside the documents: model, schema, options; plain JSON.
        empty: the columns of a document that cannot be opened, as {"fields": None}.
        resume: whether rows that are there are gone on with.
        world: the processes that share the documents; the rows of all are in the file of process 0 at the end. None for
            this one alone.

    Raises:
        UsageError: for an output that cannot be used, is there already, or is of another run.
        RaveError: when a row cannot be written; those before are kept.
        KeyboardInterrupt: when it is stopped; finished rows are kept, and it says how to go on.
    """
    world = world or World()
    sources = share(pile.documents, world)
    if out is None:
        failures: dict[str, int] = {}
        if world.size > 1:
            raise UsageError("several processes need --out: a file for the rows of all of them")
        for row in _watched(process_documents(sources, process, empty=empty, watch=progress.page), progress):
            sys.stdout.buffer.write(encode_row(row))
            sys.stdout.buffer.flush()
            if row["error"] is not None:
                failures[row["error"]] = failures.get(row["error"], 0) + 1
        return Report(len(sources), 0, progress.pages, failures, progress.seconds)
    rows_file, own = rows_path(out), own_file(rows_path(out), world)
    table = out if out != rows_file else None
    tables: list[Path] = []
    known = {**settings, "version": metadata.version("rave-mlx")}
    with ExitStack() as stack:
        with world.together():
            if table is not None:
                check_table(table)
                if table.exists() and not rows_file.exists():
                    raise UsageError(f"{table}: is there already; choose another --out, or remove it")
            journal = stack.enter_context(RowsFile(own, known, resume=resume))
            rows = RunRows(journal, other_files(rows_file, own, resume=resume))
        world.check_same(repr((known, [source.name for source in pile.documents])))
        try:
            _fill(rows, sources, process, progress, empty)
        except KeyboardInterrupt:
            progress.note(f"stopped: finished rows are in {own}; the same command with --resume goes on")
            raise
        collect(rows, journal, pile.documents, world)
        with world.together():
            if world.is_writer:
                rows.finish(pile.documents)
                if table is not None:
                    tables = write_tables(rows_file, table)
        seconds = progress.seconds
        remove_others(rows_file, own, world)
        documents, skipped, pages = (round(n) for n in world.totals(len(sources), progress.known, progress.pages))
        failures = dict(rows.failures(pile.documents if world.is_writer else sources))
    return Report(documents, skipped, pages, failures, seconds, rows_file, tables)


def _fill(rows: RunRows, sources: list[Source], process: Process, progress: Progress, empty: Mapping[str, Any]) -> None:
    """Write the rows that are not there yet."""

    def known(source: Source, sha256: str) -> bool:
        found = rows.has(source, sha256)
        if found:
            progress.skip()
        return found

    found = process_documents(sources, process, empty=empty, known=known, watch=progress.page)
    for _ in _watched(found, progress, rows):
        pass


def _watched(found: Iterator[Done], progress: Progress, rows: RunRows | None = None) -> Iterator[Row]:
    for done in found:
        row = done.row()
        if rows is not None:
            rows.add(row)
        progress.row(row)
        yield row
