"""Documents in, rows out: what cannot be opened has the reason in its row, at its place in the order of the input.

`process` is what reads or extracts. It takes open documents, may look ahead as far as it likes to fill its batches, and
gives one outcome a document in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rave_mlx.documents.content import Content, read_content
from rave_mlx.documents.pages import Document, PageWatch
from rave_mlx.documents.sources import Source
from rave_mlx.errors import ImageError

KEPT_BYTES = 128 << 20
"""Bytes of keys and values, and as many of image features, that a run keeps of what was read: enough for the questions
about one page. A server wants more; a pile comes back to no page, and memory would grow with it until that is full."""

Row = dict[str, Any]
"""What is written of a document: {"file", "sha256", "pages", the columns of its outcome, "error"}; plain JSON."""


@dataclass(frozen=True)
class Outcome:
    """What came of a document.

    Attributes:
        values: columns of its row beside "file", "sha256", "pages" and "error"; plain JSON.
        error: why it failed as a whole, or on which pages (`pages.describe_failures`); None where all is well.
        result: the same as an object, for those who call from Python.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    result: Any = None


@dataclass(frozen=True)
class Done:
    """A document that is done.

    Attributes:
        name: as it was named.
        sha256: of its bytes; None where it could not be read.
        pages: how many of its pages were to be read; None where it could not be opened.
        outcome: what came of it.
    """

    name: str
    sha256: str | None
    pages: int | None
    outcome: Outcome

    def row(self) -> Row:
        """Its row, with the columns in the order in which people read them."""
        known = {"file": self.name, "sha256": self.sha256, "pages": self.pages}
        return {**known, **self.outcome.values, "error": self.outcome.error}


Process = Callable[[Iterator[Document]], Iterator[Outcome]]
"""One outcome for each document, in order. What goes wrong with a document is an outcome and not raised."""


def process_documents(
    sources: Iterable[Source],
    process: Process,
    *,
    empty: Mapping[str, Any],
    known: Callable[[Source, str], bool] = lambda source, sha256: False,
    watch: PageWatch | None = None,
) -> Iterator[Done]:
    """What comes of documents, in order.

    Args:
        sources: what was named.
        process: reads or extracts.
        empty: the columns of a document that cannot be opened, as {"fields": None}.
        known: whether a document, of which the hash is given, has its row already; then it has none here.
        watch: told of every page that is done (`Document.page_done`).
    """
    waiting: deque[Document | Done] = deque()
    outcomes = process(_open_all(sources, waiting, empty, known, watch))
    try:
        for outcome in outcomes:
            yield from _failed(waiting)
            document = waiting.popleft()
            assert isinstance(document, Document)
            document.close()
            yield Done(document.name, document.sha256, len(document.pages), outcome)
        yield from _failed(waiting)
        if waiting:
            raise RuntimeError(f"{len(waiting)} documents were not answered")
    finally:
        if isinstance(outcomes, Generator):
            outcomes.close()
        for left in waiting:
            if isinstance(left, Document):
                left.close()


def _open_all(
    sources: Iterable[Source],
    waiting: deque[Document | Done],
    empty: Mapping[str, Any],
    known: Callable[[Source, str], bool],
    watch: PageWatch | None,
) -> Iterator[Document]:
    """The documents that can be opened; every one that has no row yet is put in line."""
    for source in sources:
        content: Content | None = None
        try:
            content = read_content(source)
            if known(source, content.sha256):
                content.close()
                continue
            document = Document(source, content, watch)
        except ImageError as error:
            sha256 = None
            if content is not None:
                content.close()
                sha256 = content.sha256
            waiting.append(Done(source.name, sha256, None, Outcome(empty, str(error))))
            continue
        waiting.append(document)
        yield document


def _failed(waiting: deque[Document | Done]) -> Iterator[Done]:
    """Those that are next in line and need nothing more."""
    while waiting and isinstance(waiting[0], Done):
        failed = waiting.popleft()
        assert isinstance(failed, Done)
        yield failed
