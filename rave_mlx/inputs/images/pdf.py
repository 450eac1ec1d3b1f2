"""Render pages of a PDF with pypdfium2 (the `pdf` extra).

A page has no pixels of its own: it is drawn with as many as the model needs, so that text stays sharp.
PDFium keeps its state in the process and is not thread-safe, so one page is drawn at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.quiet import quiet

if TYPE_CHECKING:
    import pypdfium2

PAGE_PIXELS = 8_700_000
"""Pixels of a page when nothing else is asked for: A4 at 300 dpi."""

MAX_PAGE_PIXELS = 64_000_000
"""Most pixels of a page: A4 at 800 dpi, 0.2 GB as RGB."""

MAX_PAGE_SIDE = 32_768
"""Longest side in pixels; bounds pages that are a mere line."""

_DRAWING = threading.Lock()

_PARSED_PAGES = 100
"""Pages after which a document is parsed anew: PDFium keeps what it has parsed of every page until it is closed."""


class OpenPdf:
    """A PDF that is parsed once and drawn page after page; a context manager. Threads may share it.

    Args:
        data: the bytes of the file, or the open file where it is too large for memory; it stays open meanwhile.

    Raises:
        ImageError: without pypdfium2; for an encrypted, damaged or empty document.
    """

    def __init__(self, data: bytes | BinaryIO):
        self._data, self._drawn, self._closed = data, 0, False
        try:
            import pypdfium2
        except ImportError as error:
            raise ImageError("a PDF needs the pdf extra; run: pip install 'rave-mlx[pdf]'") from error
        with _DRAWING, quiet():
            self._parse(pypdfium2)
            self._pages = len(self._document)

    def __len__(self) -> int:
        """How many pages it has."""
        return self._pages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its memory back; nothing can be drawn any more."""
        with _DRAWING:
            self._closed = True
            self._document.close()

    @contextlib.contextmanager
    def page(self, number: int) -> Iterator[pypdfium2.PdfPage]:
        """A page (from 1) as pypdfium2 has it, while no other thread uses PDFium.

        Raises:
            ImageError: for a page that is not there or damaged, also for damage found inside the block.
        """
        import pypdfium2

        if not 1 <= number <= self._pages:
            count = f"{self._pages} page{'s' * (self._pages > 1)}"
            raise ImageError(f"page {number} was asked for, the PDF has {count}")
        with _DRAWING, quiet():
            if self._closed:  # by another thread; PDFium itself would not notice
                raise ImageError("the document was closed while it was read; open it again")
            try:
                if self._drawn == _PARSED_PAGES:
                    self._document.close()
                    self._parse(pypdfium2)
                self._drawn += 1
                with contextlib.closing(self._document.get_page(number - 1)) as page:
                    yield page
            except pypdfium2.PdfiumError as error:
                raise ImageError("the PDF is damaged; download or export it again") from error

    def draw(self, number: int, pixels: int) -> Image.Image:
        """Draw a page in RGB on white, filled-in forms included.

        Args:
            number: of the page, from 1.
            pixels: about how many pixels the picture has.

        Raises:
            ImageError: for a page that is not there, damaged or without a size.
        """
        with self.page(number) as page:
            return _draw(page, pixels)

    def _parse(self, pypdfium2: ModuleType) -> None:
        self._drawn = 0
        handle, self._kept = _load(self._data, pypdfium2.raw)
        self._document = pypdfium2.PdfDocument(handle)
        self._document.init_forms()  # before the first page is opened, or the fields stay empty


def render_page(data: bytes, page: int, pixels: int) -> Image.Image:
    """Draw one page of a PDF in RGB on white, filled-in forms included.

    Args:
        data: the bytes of the file.
        page: from 1.
        pixels: about how many pixels the picture has.

    Raises:
        ImageError: without pypdfium2; for an encrypted, damaged or empty document; for a page that is not there.
    """
    with OpenPdf(data) as document:
        return document.draw(page, pixels)


def count_pages(data: bytes) -> int:
    """How many pages the PDF in `data` has.

    Raises:
        ImageError: without pypdfium2; for an encrypted, damaged or empty document.
    """
    with OpenPdf(data) as document:
        return len(document)


def _load(data: bytes | BinaryIO, raw: ModuleType) -> tuple[Any, Any]:
    """A document handle, and what must be kept as long as it; read here because pypdfium2 explains a document without
    pages with the error before it."""
    kept: Any = None
    if isinstance(data, bytes):
        handle = raw.FPDF_LoadMemDocument64(data, len(data), None)
    else:
        kept = _file_access(data, raw)
        handle = raw.FPDF_LoadCustomDocument(kept, None)
    if not handle:
        code = raw.FPDF_GetLastError()
        if code == raw.FPDF_ERR_PASSWORD:
            raise ImageError("the PDF is encrypted; save a copy without a password")
        if code == raw.FPDF_ERR_SECURITY:
            raise ImageError("the PDF is protected in a way that cannot be read; save a copy without protection")
        raise ImageError("the PDF is damaged; download or export it again")
    if raw.FPDF_GetPageCount(handle) < 1:
        raw.FPDF_CloseDocument(handle)
        raise ImageError("the PDF has no pages; export it again")
    return handle, kept


def _file_access(file: BinaryIO, raw: ModuleType) -> Any:
    """How PDFium reads parts of an open file."""

    def read(_: Any, position: int, buffer: Any, size: int) -> int:
        try:
            file.seek(position)
            part = file.read(size)
        except OSError:
            return 0
        ctypes.memmove(buffer, part, len(part))
        return int(len(part) == size)

    access = raw.FPDF_FILEACCESS()
    access.m_FileLen = file.seek(0, os.SEEK_END)
    access.m_GetBlock = type(access.m_GetBlock)(read)
    return access


def _draw(page: pypdfium2.PdfPage, pixels: int) -> Image.Image:
    width, height = page.get_size()
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ImageError(f"the page is {width:g} x {height:g} points; print it to a new PDF with a paper size")
    scale = math.sqrt(min(pixels, MAX_PAGE_PIXELS) / (width * height))
    bitmap = page.render(scale=min(scale, MAX_PAGE_SIDE / max(width, height)))
    image: Image.Image = bitmap.to_pil()
    return image
