"""How far a run over documents is, on stderr: a bar on a terminal, lines anywhere else; a report at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from rave_mlx.documents.pages import Document
from rave_mlx.documents.stream import Row

_EVERY = 30.0
"""Seconds between two lines off a terminal."""
_MOST_FAILURES = 20
"""Documents of which the failure is said at once; all of them are in the rows."""


@dataclass(frozen=True)
class Report:
    """What a run has done.

    Attributes:
        documents: of the pile, or of this process' share of it.
        known: those of them that had their row already.
        pages: that were read in this run.
        failures: how many documents have which error, those that had it already included.
        seconds: from the first document to the last row.
        rows: where the rows are; None for standard output.
        tables: the tables that were made of them.
    """

    documents: int = 0
    known: int = 0
    pages: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    rows: Path | None = None
    tables: Sequence[Path] = ()

    @property
    def failed(self) -> int:
        """How many documents have an error."""
        return sum(self.failures.values())

    def exit_code(self, *, allow_errors: bool = False) -> int:
        """Of a command: 1 where a document has an error, unless that is allowed."""
        return int(self.failed > 0 and not allow_errors)

    def __str__(self) -> str:
        new = self.documents - self.known
        lines = [
            f"{_many(self.documents, 'document')}"
            + (f" ({self.known} had their row already)" if self.known else "")
            + f", {_many(self.pages, 'page')}"
            + (f" in {clock(self.seconds)} ({_rate(self.pages, self.seconds)})" if new else "")
            + (f"; {self.failed} with errors" if self.failed else "")
        ]
        reasons = Counter(self.failures).most_common()
        lines += [f"  {count} x {_one_line(reason)}" for reason, count in reasons[:10]]
        if len(reasons) > 10:
            lines.append(f"  and {sum(count for _, count in reasons[10:])} with other errors")
        if self.rows is not None:
            lines.append(f"rows: {', '.join(map(str, (*self.tables, self.rows)))}")
        return "\n".join(lines)


class Progress:
    """Counts pages and documents, and shows them; a context manager. Threads may report to it.

    Args:
        what: names the work, as "read".
        total: documents.
        quiet: whether nothing is shown but the documents that fail.
        bar: whether a bar may be shown, where stderr is a terminal.
    """

    def __init__(self, what: str, total: int, *, quiet: bool = False, bar: bool = True):
        self.pages = self.done = self.known = self.failed = 0
        self._what, self._total, self._quiet = what, total, quiet
        self._partly: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._started = self._last_line = time.monotonic()
        self._bar: Bar | None = None
        self._task = TaskID(0)
        if bar and not quiet and sys.stderr.isatty():
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(what, total=total, figures="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def page(self, document: Document, number: int, error: str | None = None) -> None:
        """A page of a document is done, or has failed; the document's row says the latter."""
        with self._lock:
            self.pages += 1
            done, _ = self._partly.get(document.name, (0, 1))
            if document.frames > 1 and not self._quiet:
                self._say(f"{_one_line(document.name)}: the first of {document.frames} frames is read")
            self._partly[document.name] = done + 1, len(document.pages)
            self._show()

    def skip(self) -> None:
        """A document has its row already."""
        with self._lock:
            self.done, self.known = self.done + 1, self.known + 1
            self._show()

    def row(self, row: Row) -> None:
        """A document is done."""
        with self._lock:
            counted, _ = self._partly.pop(row["file"], (0, 1))
            self.pages += max(0, (row["pages"] or 0) - counted)
            self.done += 1
            if row["error"] is not None:
                self.failed += 1
                if self.failed <= _MOST_FAILURES:
                    self._say(f"{_one_line(row['file'])}: {_one_line(row['error'])}")
                if self.failed == _MOST_FAILURES:
                    self._say("further failures are in the rows")
            self._show()

    def note(self, text: str) -> None:
        """Say something in between, unless nothing is to be shown."""
        if not self._quiet:
            with self._lock:
                self._say(text)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, figures=self._figures())
        elif not self._quiet and time.monotonic() - self._last_line >= _EVERY:
            self._last_line = time.monotonic()
            self._say(f"{self._what}: {self.done} of {_many(self._total, 'document')}, {self._figures()}")

    def _figures(self) -> str:
        """Pages, speed, failures and the time that is left, in one line."""
        figures = f"{_many(self.pages, 'page')}, {_rate(self.pages, self.seconds)}"
        if self.failed:
            figures += f", {self.failed} failed"
        partly = sum(done / max(1, pages) for done, pages in self._partly.values())
        covered, left = self.done - self.known + partly, self._total - self.done - partly
        if covered > 0 and left > 1e-6:
            figures += f", {clock(self.seconds / covered * left)} left"
        return figures


def clock(seconds: float) -> str:
    """A duration as h:mm:ss or m:ss; short ones in seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _rate(pages: int, seconds: float) -> str:
    return f"{pages / max(seconds, 1e-9):.2f} pages/s"


def _one_line(text: str) -> str:
    """`text` fit for a terminal: no line breaks and no control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)
