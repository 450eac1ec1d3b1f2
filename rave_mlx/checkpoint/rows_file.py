"""Rows on disk as they come: one JSON object a line, and a run that was stopped goes on where it was.

Beside `rows.jsonl` stands `rows.jsonl.run.json`, which says of what run the rows are: model, options, version. A file
of another run is never added to and never replaced. While a run writes, `rows.jsonl.lock` is locked; the lock ends with
the process, also when that is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rave_mlx.checkpoint.output_files import locked, sync_folder, write_beside
from rave_mlx.errors import RaveError, UsageError

SETTINGS = ".run.json"
"""What is behind the name of a file of rows in the name of the file that says of what run they are."""
_REMEDY = "choose another --out, or remove it"


class RowsFile:
    """A file of rows that grows; a context manager.

    Attributes:
        file: where rows go.

    Args:
        file: where rows go.
        run: what the rows depend on, as plain JSON values.
        resume: whether a file that is there is gone on with; else it is refused.
        what: the rows are called in messages.

    Raises:
        UsageError: for a file that is there without `resume`, of another run, or that holds something else; for one
            that another process writes; for a place that cannot be written.
    """

    def __init__(self, file: Path, run: Mapping[str, Any], *, resume: bool = True, what: str = "rows"):
        self.file, self._what = file, what
        self._settings = file.with_name(file.name + SETTINGS)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(file))
                self._prepare(run, resume)
                self._out = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
                stack.callback(os.close, self._out)
                self._length = self._cut_last_line()
                sync_folder(file)
            except OSError as error:
                raise UsageError(f"{file}: cannot be written ({error.strerror}); choose another --out") from None
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write the file."""
        self._open.close()

    def lines(self) -> Iterator[tuple[int, int, Any]]:
        """Every row that is there: where its line begins, how many bytes it has, and what it holds.

        Raises:
            UsageError: where the file holds something else.
        """
        yield from read_lines(self.file, self._what)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row; what is written survives the program and the machine.

        Raises:
            RaveError: when it cannot be written; then none of it is left in the file.
        """
        self.add_line(encode_row(row))

    def add_line(self, line: bytes) -> int:
        """Write a row that is a line already; where in the file that begins.

        Raises:
            RaveError: as `add`.
        """
        place = self._length
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._out, rest) :]
            os.fsync(self._out)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._out, place)
            raise RaveError(
                f"{self.file}: cannot be written ({error.strerror}); what it holds is kept: make room, and go on "
                "with --resume"
            ) from None
        self._length += len(line)
        return place

    def replace(self, lines: Iterable[bytes]) -> None:
        """Put other lines in place of all that are there, in one step.

        Raises:
            RaveError: when they cannot be written; then the file is as it was.
        """
        write_beside(self.file, lines)
        out = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        os.dup2(out, self._out, inheritable=False)
        os.close(out)
        self._length = os.fstat(self._out).st_size

    def _prepare(self, run: Mapping[str, Any], resume: bool) -> None:
        """Refuse what is there unless it is a run to go on with; else say of what run the rows will be."""
        if self.file.exists() and not self.file.is_file():
            raise UsageError(f"{self.file}: is no file; {_REMEDY.partition(',')[0]}")
        there = self.file.exists() and self.file.stat().st_size > 0
        if there and not resume:
            raise UsageError(f"{self.file}: is there already; go on with it with --resume, or choose another --out")
        if there:
            self._check(run)
        else:
            write_beside(self._settings, [(json.dumps(run, indent=1) + "\n").encode()])

    def _check(self, run: Mapping[str, Any]) -> None:
        """Refuse a file that has the rows of another run."""
        if not self._settings.is_file():
            raise UsageError(f"{self.file}: is there already, and not from a run that can be gone on with; {_REMEDY}")
        try:
            known = json.loads(self._settings.read_text(encoding="utf-8"))
        except ValueError:
            raise UsageError(f"{self._settings}: does not say of what run the {self._what} are; {_REMEDY}") from None
        now = json.loads(json.dumps(run))
        for key in sorted({*known, *now}):
            if known.get(key) != now.get(key):
                raise UsageError(
                    f"{self.file}: has the {self._what} of another run ({key} {known.get(key)!r}, now "
                    f"{now.get(key)!r}); {_REMEDY}"
                )

    def _cut_last_line(self) -> int:
        """The length of the whole lines; a last one without its end was being written when the program was killed."""
        size = end = os.fstat(self._out).st_size
        while end:
            start = max(0, end - (1 << 16))
            at = os.pread(self._out, end - start, start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._out, end)
        return end


def read_lines(file: Path, what: str = "rows") -> Iterator[tuple[int, int, Any]]:
    """The whole lines of a file of rows, as `RowsFile.lines` gives them.

    Raises:
        UsageError: where the file holds something else.
    """
    with file.open("rb") as opened:
        place = 0
        for number, line in enumerate(opened, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield place, len(line), json.loads(line)
            except ValueError:
                raise UsageError(f"{file}, line {number}: holds something else than {what}; {_REMEDY}") from None
            place += len(line)


def encode_row(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON, in UTF-8."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can stand for
        return json.dumps(row).encode() + b"\n"
