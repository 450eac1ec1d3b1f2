"""Render one page of a PDF with pypdfium2 (the `pdf` extra).

A page has no pixels of its own: it is drawn with as many as the model needs, so that text stays sharp.
PDFium keeps its state in the process and is not thread-safe, so one page is drawn at a time.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.image_noise import quiet

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
    """Page `page` (from 1) of the PDF in `data`, about `pixels` pixels in RGB on white, filled-in forms included.

    Raises:
        ImageError: without pypdfium2; for an encrypted, damaged or empty document; for a page that is not there.
    """
    try:
        import pypdfium2
    except ImportError as error:
        raise ImageError("a PDF needs the pdf extra: pip install 'rave-mlx[pdf]'") from error
    with _DRAWING, quiet():
        try:
            with pypdfium2.PdfDocument(data) as document:
                document.init_forms()  # before the first page is opened, or the fields stay empty
                count = len(document)
                if page > count > 0:
                    raise ImageError(f"page {page} was asked for, the PDF has {count} page{'s' * (count > 1)}")
                return _draw(document.get_page(page - 1), pixels)
        except pypdfium2.PdfiumError as error:
            raise ImageError(_reason(str(error))) from error


def _draw(page: pypdfium2.PdfPage, pixels: int) -> Image.Image:
    width, height = page.get_size()
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ImageError(f"the page is {width:g} x {height:g} points; print it to a new PDF with a paper size")
    scale = math.sqrt(min(pixels, MAX_PAGE_PIXELS) / (width * height))
    bitmap = page.render(scale=min(scale, MAX_PAGE_SIDE / max(width, height)))
    image: Image.Image = bitmap.to_pil().convert("RGB")
    return image


def _reason(message: str) -> str:
    """One line for what pypdfium2 says about a document that does not open."""
    if "password" in message:
        return "the PDF is encrypted; save a copy without a password"
    if "security" in message:
        return "the PDF is protected in a way that cannot be read; save a copy without protection"
    if "Success" in message:  # it opened, with page count 0
        return "the PDF has no pages; export it again"
    return "the PDF is damaged; download or export it again"
