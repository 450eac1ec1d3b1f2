"""Documents in, rows out: what cannot be opened becomes a row with the reason, at its place in the order of the input.

`process` is what reads or extracts. It takes open documents, may look ahead as far as it likes to fill its batches, and
gives one outcome a document in their order.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rave_mlx.documents.content import Content, read_content
from rave_mlx.documents.pages import Document
from rave_mlx.documents.sources import Source
from rave_mlx.errors import ImageError

Row = dict[str, Any]
"""What is written of a document: {"file", "sha256", "pages", the columns of its outcome, "error"}; plain JSON."""


@dataclass(frozen=True)
class Outcome:
    """What came of a document.

    Attributes:
        values: columns of its row beside "file", "sha256", "pages" and "error"; plain JSON.
        error: why it failed as a whole, or on which pages (`pages.describe_failures`); None where all is well.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


Process = Callable[[Iterator[Document]], Iterator[Outcome]]
"""One outcome for each document, in order. What goes wrong with a document is an outcome and not raised."""


class Watch(Protocol):
    """Somebody who is told how far a run is; from any thread."""

    def page(self, document: Document, number: int, error: str | None = None) -> None:
        """A page of a document is done, or has failed."""

    def row(self, row: Row) -> None:
        """A document is done."""


@dataclass
class _Failed:
    row: Row


def process_documents(
    sources: Iterable[Source],
    process: Process,
    *,
    empty: Mapping[str, Any],
    known: Callable[[Source, str], bool] = lambda source, sha256: False,
) -> Iterator[Row]:
    """The rows of documents in order.

    Args:
        sources: what was named.
        process: reads or extracts.
        empty: the columns of a document that cannot be opened, as {"fields": None}.
        known: whether a document, of which the hash is given, has its row already; then it has none here.
    """
    waiting: deque[Document | _Failed] = deque()
    outcomes = process(_open_all(sources, waiting, empty, known))
    try:
        for outcome in outcomes:
            yield from _failed(waiting)
            document = waiting.popleft()
            assert isinstance(document, Document)
            document.close()
            yield row_of(document.name, document.sha256, len(document.pages), outcome.values, outcome.error)
        yield from _failed(waiting)
        if waiting:
            raise RuntimeError(f"{len(waiting)} documents were not answered")
    finally:
        if isinstance(outcomes, contextlib.AbstractContextManager) or hasattr(outcomes, "close"):
            outcomes.close()
        for left in waiting:
            if isinstance(left, Document):
                left.close()


def row_of(name: str, sha256: str | None, pages: int, values: Mapping[str, Any], error: str | None) -> Row:
    """A row with its columns in the order in which people read them."""
    return {"file": name, "sha256": sha256, "pages": pages, **values, "error": error}


def _open_all(
    sources: Iterable[Source],
    waiting: deque[Document | _Failed],
    empty: Mapping[str, Any],
    known: Callable[[Source, str], bool],
) -> Iterator[Document]:
    """The documents that can be opened; every one that has no row yet is put in line."""
    for source in sources:
        content: Content | None = None
        try:
            content = read_content(source)
            if known(source, content.sha256):
                content.close()
                continue
            document = Document(source, content)
        except ImageError as error:
            sha256 = None
            if content is not None:
                content.close()
                sha256 = content.sha256
            waiting.append(_Failed(row_of(source.name, sha256, 0, empty, str(error))))
            continue
        waiting.append(document)
        yield document


def _failed(waiting: deque[Document | _Failed]) -> Iterator[Row]:
    """The rows that are next in line and need nothing more."""
    while waiting and isinstance(waiting[0], _Failed):
        failed = waiting.popleft()
        assert isinstance(failed, _Failed)
        yield failed.row
