"""The pages of a document, made one at a time when they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Self

from PIL import Image

from rave_mlx.documents.content import Content, read_content
from rave_mlx.documents.sources import Source
from rave_mlx.errors import ImageError, RaveError
from rave_mlx.inputs.images.decode import open_image
from rave_mlx.inputs.images.open_document import OpenDocument
from rave_mlx.inputs.images.pdf import PAGE_PIXELS
from rave_mlx.inputs.images.sources import name_of

if TYPE_CHECKING:
    from rave_mlx.inputs.images.pdf_text import PageText

MOST_PAGES = 10_000
"""Most pages of one document that are read in a run: a small damaged file may claim to have millions."""


PageWatch = Callable[["Document", int, str | None], None]


class Document:
    """A document that is open; a context manager. Threads may share it.

    Attributes:
        name: as it was named.
        sha256: of its bytes, in hexadecimal.
        pages: those that are to be read, in order.
        missing: numbers of pages that were asked for and are not there.
        frames: of an animation, of which the first is read; 1 for all else.

    Args:
        source: what was named.
        content: its bytes.
        watch: told the number of every page that is done, and why it failed if it did; from any thread.

    Raises:
        ImageError: for what is no document, is encrypted, damaged or empty, or has too many pages.
    """

    def __init__(self, source: Source, content: Content, watch: PageWatch | None = None):
        self.name, self.sha256, self._content, self._watch = source.name, content.sha256, content, watch
        self._picture = content.data if isinstance(content.data, Image.Image) else None
        self._opened = None if isinstance(content.data, Image.Image) else OpenDocument(content.data)
        count = 1 if self._opened is None else len(self._opened)
        self.frames = 1 if self._opened is None else self._opened.frames
        try:
            numbers, self.missing = (range(1, count + 1), []) if source.pages is None else source.pages.choose(count)
            if len(numbers) > MOST_PAGES:
                raise ImageError(f"{len(numbers)} pages, at most {MOST_PAGES} are read at once; choose with --pages")
            if not numbers and not self.missing:
                has = f"{count} page{'s' * (count > 1)}"
                raise ImageError(f"pages {source.pages} were asked for, the document has {has}; choose others")
        except ImageError:
            self.close()
            raise
        self.pages: Sequence[Page] = [Page(self, number) for number in numbers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its memory back; its pages cannot be drawn any more."""
        if self._opened is not None:
            self._opened.close()
        self._content.close()

    @property
    def is_pdf(self) -> bool:
        """Whether it is a PDF: its pages have a size in points and no pixels of their own."""
        return self._opened is not None and self._opened.pdf is not None

    def page_done(self, number: int, error: str | None = None) -> None:
        """Tell the one who watches that nothing more is to be done for a page.

        Args:
            number: of the page.
            error: why it failed, if it did.
        """
        if self._watch is not None:
            self._watch(self, number, error)

    def draw(self, number: int, pixels: int) -> Image.Image:
        """A page of the document; see `Page.draw`."""
        if self._opened is None:
            assert self._picture is not None
            return open_image(self._picture)
        try:
            return self._opened.draw(number, pixels)
        finally:
            self._content.check()

    def size(self, number: int) -> tuple[float, float] | None:
        """Width and height in points of a page of a PDF, as it is seen; None for a picture, which has pixels.

        Raises:
            ImageError: for a damaged page.
        """
        if self._opened is None or self._opened.pdf is None:
            return None
        with self._opened.pdf.page(number) as page:
            width, height = page.get_size()
        return float(width), float(height)

    def text(self, number: int) -> PageText | None:
        """The text layer of a page; see `Page.text`."""
        if self._opened is None or self._opened.pdf is None:
            return None
        from rave_mlx.inputs.images.pdf_text import read_page_text

        try:
            return read_page_text(self._opened.pdf, number)
        finally:
            self._content.check()


@dataclass(frozen=True, eq=False, slots=True)
class Page:
    """A page of an open document; an image source, as in `{"type": "image", "image": page}`.

    Attributes:
        document: what it belongs to.
        number: from 1.
    """

    document: Document
    number: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.document.name}, page {self.number}"

    def draw(self, pixels: int = PAGE_PIXELS) -> Image.Image:
        """The page as a person sees it: upright, in square pixels, RGB.

        Args:
            pixels: about how many pixels a page of a PDF is drawn with; others have those that they have.

        Raises:
            ImageError: for a damaged page, or a file that was changed meanwhile.
        """
        return self.document.draw(self.number, pixels)

    def text(self) -> PageText | None:
        """The text layer of the page; None where the document is no PDF.

        Raises:
            ImageError: for a damaged page, or a file that was changed meanwhile.
        """
        return self.document.text(self.number)

    def reason(self, error: RaveError) -> str:
        """What an error says beside the name of the page."""
        return str(error).removeprefix(f"{name_of(self)}: ")


@contextlib.contextmanager
def open_document(source: Source) -> Iterator[Document]:
    """Open a document for a block.

    Raises:
        ImageError: as `read_content` and `Document`; the message does not name the document.
    """
    content = read_content(source)
    try:
        document = Document(source, content)
    except ImageError:
        content.close()
        raise
    with document:
        yield document


def describe_failures(failures: Mapping[int, str]) -> str:
    """What went wrong on which pages, in one line: "page 2: ...; pages 5-7: ...".

    Args:
        failures: reasons by the number of the page.
    """
    numbered = sorted(failures.items())
    parts = []
    # Pages that follow each other and failed in the same way are one part.
    for (_, reason), run in groupby(enumerate(numbered), key=lambda item: (item[1][0] - item[0], item[1][1])):
        numbers = [number for _, (number, _) in run]
        pages = f"page {numbers[0]}" if len(numbers) == 1 else f"pages {numbers[0]}-{numbers[-1]}"
        parts.append(f"{pages}: {reason}")
    return "; ".join(parts)
