"""One file of text a document, in a folder that mirrors where the documents lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from rave_mlx.checkpoint.output_files import write_beside
from rave_mlx.documents.pages import Document
from rave_mlx.documents.sources import STDIN, Source
from rave_mlx.documents.stream import Outcome, Process
from rave_mlx.documents.transcription.reading import DocumentReading
from rave_mlx.errors import RaveError

Format = Literal["markdown", "text", "json"]
ENDINGS: dict[Format, str] = {"markdown": ".md", "text": ".txt", "json": ".json"}
INDEX = "read.jsonl"
"""The row of every document, beside the files: where its text is, and why it has none."""
EMPTY = {"output": None, "ending": None, "certainty": None}
"""Columns of a document that cannot be opened."""


def places(sources: Sequence[Source], named: Sequence[str], written: Format) -> dict[str, PurePosixPath]:
    """Where the text of each document goes, by the document's name; no two go to one place.

    What lies in a folder that was named keeps its place in it, below the folder's own name where several things were
    named: `a/x.pdf` of `a` becomes `x.pdf.md`. Endings are kept, so that a.pdf and a.png do not meet.

    Args:
        sources: all documents of the run.
        named: the files and folders as they were named.
        written: what the files hold.
    """
    folders = [Path(name).expanduser() for name in named if Path(name).expanduser().is_dir()]
    taken: set[str] = set()
    found: dict[str, PurePosixPath] = {}
    for source in sources:
        place = _place(source, folders, len(named) > 1)
        stem, number = place, 1
        while str(place).casefold() in taken:
            number += 1
            place = stem.with_name(f"{stem.name} ({number})")
        taken.add(str(place).casefold())
        found[source.name] = place.with_name(place.name + ENDINGS[written])
    return found


def _place(source: Source, folders: Sequence[Path], several: bool) -> PurePosixPath:
    if source.name == STDIN:
        return PurePosixPath("standard input")
    path = Path(os.path.normpath(source.data)) if isinstance(source.data, str) else Path(source.name)
    page = re.search(r"#page=(\d+)$", source.name)
    suffix = f" page {page[1]}" if page and page[0] not in path.name else ""
    for folder in folders:
        base = Path(os.path.normpath(folder))
        if path.is_relative_to(base):
            inner = PurePosixPath(*path.relative_to(base).parts)
            name = Path(os.path.abspath(base)).name  # noqa: PTH100 - `.` has a name as well
            return _suffixed(PurePosixPath(name, inner) if several else inner, suffix)
    return _suffixed(PurePosixPath(path.name or "document"), suffix)


def _suffixed(place: PurePosixPath, suffix: str) -> PurePosixPath:
    return place.with_name(place.name + suffix) if suffix else place


def content(reading: DocumentReading, written: Format) -> str:
    """The text of a document's file."""
    if written == "json":
        return reading.as_json() + "\n"
    text = reading.markdown if written == "markdown" else reading.text
    return text + "\n" if text and not text.endswith("\n") else text


class ResultFiles:
    """Writes the text of each document as it is done.

    Args:
        out: the folder.
        where: of each document in it, as of `places`.
        written: what the files hold.
    """

    def __init__(self, out: Path, where: dict[str, PurePosixPath], written: Format):
        self._out, self._where, self._written = out, where, written

    def process(self, read: Process) -> Process:
        """What reads, with files for results: a row says where the text is.

        Args:
            read: gives `DocumentReading`s.
        """

        def with_files(documents: Iterator[Document]) -> Iterator[Outcome]:
            for outcome in read(documents):
                yield self._written_down(outcome)

        return with_files

    def _written_down(self, outcome: Outcome) -> Outcome:
        reading = outcome.result
        assert isinstance(reading, DocumentReading)
        place = self._where[reading.file]
        values = {"output": None, "ending": reading.ending, "certainty": reading.certainty}
        if not any(page.ending != "error" for page in reading.pages) and reading.error is not None:
            return replace(outcome, values=values)
        file = self._out.joinpath(*place.parts)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RaveError(f"{file.parent}: cannot be created ({error.strerror}); choose another --out") from None
        write_beside(file, [content(reading, self._written).encode("utf-8", "surrogatepass")])
        return replace(outcome, values={**values, "output": str(place)})
