"""A file that is open for reading one page after another: it is parsed once, and its pages are made when asked for.

`open_image` opens a file for one page of it. For a document of a thousand pages that would be a thousand times as much
work, and for a TIFF, whose directories are a chain, the square of it.
"""

from __future__ import annotations

import io
import threading
from typing import BinaryIO, Self

from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import DAMAGE, decoding, readable_kind, to_picture
from rave_mlx.inputs.images.formats import PDF, TIFF
from rave_mlx.inputs.images.page_count import page_count
from rave_mlx.inputs.images.pdf import PAGE_PIXELS, OpenPdf
from rave_mlx.inputs.images.tiff_pages import TiffPage, begin_with, list_pages


class OpenDocument:
    """A PDF, a TIFF or any other picture that `open_image` reads; a context manager. Threads may share it.

    Attributes:
        pdf: the document where it is a PDF, else None.
        frames: of an animation, of which the first is read; 1 for all else.

    Args:
        data: the bytes of the file, or the open file, which is read when a page is asked for and is not closed.

    Raises:
        ImageError: for an empty file, what is no picture, and a PDF or TIFF that is encrypted, damaged or empty.
    """

    def __init__(self, data: bytes | BinaryIO):
        self._file: BinaryIO = io.BytesIO(data) if isinstance(data, bytes) else data
        self._lock = threading.Lock()
        self._kind = readable_kind(self._file)
        self.pdf = OpenPdf(data) if self._kind is PDF else None
        self._tiff: list[TiffPage | ImageError] = []
        self._chain: Image.Image | None = None
        if self._kind is TIFF:
            with decoding(TIFF.name):
                self._tiff = list_pages(self._file)
        self.frames = 1 if self._kind in (PDF, TIFF) else page_count(data).number

    def __len__(self) -> int:
        """How many pages it has; an animation is read as one."""
        return len(self.pdf) if self.pdf is not None else len(self._tiff) or 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its memory back; nothing can be drawn any more."""
        self._chain = None
        if self.pdf is not None:
            self.pdf.close()

    def draw(self, page: int, pixels: int = PAGE_PIXELS) -> Image.Image:
        """A page as `open_image` gives it: upright, in square pixels, RGB.

        Args:
            page: from 1.
            pixels: about how many pixels a page of a PDF is drawn with.

        Raises:
            ImageError: for a page that is not there, or damaged.
        """
        if not 1 <= page <= len(self):
            raise ImageError(f"page {page} was asked for, the file has {len(self)} page{'s' * (len(self) > 1)}")
        if self.pdf is not None:
            return self.pdf.draw(page, pixels)
        with self._lock, decoding(self._kind.name):
            if self._kind is TIFF:
                return self._tiff_page(page)
            self._file.seek(0)
            return to_picture(Image.open(self._file, formats=self._kind.formats))

    def _tiff_page(self, page: int) -> Image.Image:
        place = self._tiff[page - 1]
        if isinstance(place, ImageError):
            raise ImageError(str(place))
        if place.index is None:  # Pillow does not enter directories beside the chain
            return to_picture(Image.open(begin_with(self._file, place), formats=TIFF.formats))
        try:
            # One image for all pages: Pillow remembers where those are that it has passed.
            if self._chain is None:
                self._file.seek(0)
                self._chain = Image.open(self._file, formats=TIFF.formats)
            self._chain.seek(place.index)
            return to_picture(self._chain)
        except DAMAGE:
            self._chain = None
            raise
