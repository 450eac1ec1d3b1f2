"""The rows of a run by document: which are there already, and all of them in the order of the input at the end.

A document is known by its name and by the hash of its content. Rows are added at the end of the file as they come. When
the run ends, the file is put in order if it is not: the row of a file that has changed since, or that could not be
opened before, gives way to the new one, and rows of documents that are not named any more stay, before the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rave_mlx.checkpoint.rows_file import RowsFile, encode_row, read_lines
from rave_mlx.documents.sources import Source
from rave_mlx.documents.stream import Row
from rave_mlx.errors import UsageError


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row is, and what must be known of it."""

    file: Path
    start: int
    length: int
    sha256: str | None
    opened: bool
    error: str | None


class RunRows:
    """Rows on disk, of which only their places are in memory.

    Args:
        journal: the file that rows are added to.
        others: more files with rows of this run, of processes that wrote beside this one.

    Raises:
        UsageError: for a file that holds something else than rows.
    """

    def __init__(self, journal: RowsFile, others: Iterable[Path] = ()):
        self._journal = journal
        self._places: dict[str, _Place] = {}
        for file in (*others, journal.file):
            for start, length, row in read_lines(file):
                if not isinstance(row, dict) or not isinstance(row.get("file"), str):
                    raise UsageError(f"{file}: holds something else than rows of documents; choose another --out")
                self._note(file, start, length, row)

    def has(self, source: Source, sha256: str) -> bool:
        """Whether a document has its row; one that could not be opened is tried again."""
        place = self._places.get(source.name)
        return place is not None and place.opened and place.sha256 == sha256

    def add(self, row: Row) -> None:
        """Write a row.

        Raises:
            RaveError: when it cannot be written.
        """
        line = encode_row(row)
        self._note(self._journal.file, self._journal.add_line(line), len(line), row)

    def finish(self, sources: Iterable[Source]) -> None:
        """Put the rows of all files into the journal, in the order of the documents.

        Raises:
            RaveError: when it cannot be written; then it is as it was.
        """
        named = {source.name: None for source in sources if source.name in self._places}
        order = [*(name for name in self._places if name not in named), *named]
        size, end = self._journal.file.stat().st_size, 0
        for name in order:
            place = self._places[name]
            if place.file != self._journal.file or place.start != end:
                break
            end += place.length
        else:
            if end == size:
                return
        self._journal.replace(self._lines(order))

    def failures(self, sources: Iterable[Source]) -> Counter[str]:
        """How often which error stands in the rows of these documents."""
        found = (self._places.get(source.name) for source in sources)
        return Counter(place.error for place in found if place is not None and place.error is not None)

    def lines_in(self, file: Path, but: Container[str]) -> Iterator[bytes]:
        """The rows in one of the files, save those of the documents named in `but`."""
        return self._lines([name for name, place in self._places.items() if place.file == file and name not in but])

    def _note(self, file: Path, start: int, length: int, row: Mapping[str, object]) -> None:
        sha256, error = row.get("sha256"), row.get("error")
        self._places[str(row["file"])] = _Place(
            file,
            start,
            length,
            None if sha256 is None else str(sha256),
            row.get("pages") is not None,
            None if error is None else str(error),
        )

    def _lines(self, names: Iterable[str]) -> Iterator[bytes]:
        """The lines of rows, read from where they are."""
        with ExitStack() as stack:
            files = {
                file: stack.enter_context(file.open("rb")) for file in {place.file for place in self._places.values()}
            }
            for name in names:
                place = self._places[name]
                files[place.file].seek(place.start)
                yield files[place.file].readline()
