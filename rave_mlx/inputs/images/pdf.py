"""Render one page of a PDF with pypdfium2 (the `pdf` extra).

A page has no pixels of its own: it is drawn with as many as the model needs, so that text stays sharp.
PDFium keeps its state in the process and is not thread-safe, so one page is drawn at a time.
"""

from __future__ import annotations

import contextlib
import math
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

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


def render_page(data: bytes, page: int, pixels: int) -> Image.Image:
    """Draw one page of a PDF in RGB on white, filled-in forms included.

    Args:
        data: the bytes of the file.
        page: from 1.
        pixels: about how many pixels the picture has.

    Raises:
        ImageError: without pypdfium2; for an encrypted, damaged or empty document; for a page that is not there.
    """
    try:
        import pypdfium2
    except ImportError as error:
        raise ImageError("a PDF needs the pdf extra; run: pip install 'rave-mlx[pdf]'") from error
    with _DRAWING, quiet():
        try:
            with contextlib.closing(pypdfium2.PdfDocument(_load(data, pypdfium2.raw))) as document:
                document.init_forms()  # before the first page is opened, or the fields stay empty
                if page > len(document):
                    count = f"{len(document)} page{'s' * (len(document) > 1)}"
                    raise ImageError(f"page {page} was asked for, the PDF has {count}")
                return _draw(document.get_page(page - 1), pixels)
        except pypdfium2.PdfiumError as error:
            raise ImageError("the PDF is damaged; download or export it again") from error


def count_pages(data: bytes) -> int:
    """How many pages the PDF in `data` has.

    Raises:
        ImageError: for an encrypted, damaged or empty document.
        ImportError: without pypdfium2.
    """
    import pypdfium2

    with _DRAWING, quiet(), contextlib.closing(pypdfium2.PdfDocument(_load(data, pypdfium2.raw))) as document:
        return len(document)


def _load(data: bytes, raw: ModuleType) -> Any:
    """A document handle; read here because pypdfium2 explains a document without pages with the error before it."""
    handle = raw.FPDF_LoadMemDocument64(data, len(data), None)
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
    return handle


def _draw(page: pypdfium2.PdfPage, pixels: int) -> Image.Image:
    width, height = page.get_size()
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ImageError(f"the page is {width:g} x {height:g} points; print it to a new PDF with a paper size")
    scale = math.sqrt(min(pixels, MAX_PAGE_PIXELS) / (width * height))
    bitmap = page.render(scale=min(scale, MAX_PAGE_SIDE / max(width, height)))
    image: Image.Image = bitmap.to_pil()
    return image
