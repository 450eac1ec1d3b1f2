"""How many pages or frames a file holds, of which one is read: what a person is told beside the picture."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images import pdf, tiff_pages
from rave_mlx.inputs.images.decode import DAMAGE
from rave_mlx.inputs.images.formats import HEAD, HEIC, PDF, TIFF, kind_of
from rave_mlx.inputs.images.quiet import quiet
from rave_mlx.inputs.images.sources import ImageSource, open_file, resolve_source


@dataclass(frozen=True)
class PageCount:
    """What a file holds.

    Attributes:
        number: of its pages, or frames.
        frames: whether they are frames of an animation, of which only the first is read.
    """

    number: int = 1
    frames: bool = False

    def describe(self, page: int) -> str:
        """Which of them is read, as "page 1 of 3"; empty where there is one only."""
        if self.number < 2:
            return ""
        return f"the first of {self.number} frames" if self.frames else f"page {page} of {self.number}"


def page_count(source: ImageSource) -> PageCount:
    """Count the pages of a PDF or TIFF, or the frames of an animation.

    Args:
        source: as of `open_image`. A Pillow image or an array is one page; so is what cannot be counted.
    """
    with contextlib.suppress(*DAMAGE, ImageError, ImportError, MemoryError, Image.DecompressionBombError):
        resolved = resolve_source(source)
        if not isinstance(resolved, Image.Image):
            with io.BytesIO(resolved) if isinstance(resolved, bytes) else open_file(resolved) as file:
                return _count(file)
    return PageCount()


def _count(file: BinaryIO) -> PageCount:
    head = file.read(HEAD)
    kind = kind_of(head)
    if kind is PDF:
        return PageCount(pdf.count_pages(head + file.read()))
    if kind is TIFF:
        return PageCount(tiff_pages.count_pages(file))
    if not kind.formats or kind is HEIC:
        return PageCount()
    with quiet():
        file.seek(0)
        return PageCount(getattr(Image.open(file, formats=kind.formats), "n_frames", 1), frames=True)
