"""The size of a picture from the header of its file alone, without decoding it."""

from __future__ import annotations

import contextlib
import os
from typing import BinaryIO

from PIL import ExifTags, Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import DAMAGE, MAX_SOURCE_PIXELS, SIDEWAYS
from rave_mlx.inputs.images.formats import HEAD, HEIC, PDF, PNG, TIFF, kind_of
from rave_mlx.inputs.images.pixel_aspect import density_ratio, square_size
from rave_mlx.inputs.images.quiet import quiet
from rave_mlx.inputs.images.tiff_pages import find_page

_TAIL = 1 << 16
"""Bytes at the end of a PNG that are searched for metadata."""


def header_size(file: BinaryIO) -> tuple[int, int] | None:
    """(width, height) in pixels that `open_image` will give the first page of an open file.

    Returns:
        None where only decoding tells: PDF, HEIC, a TIFF whose first directory is a thumbnail, metadata behind the
        pixels, damaged headers.
    """
    kind = kind_of(file.read(HEAD))
    if not kind.formats or kind in (PDF, HEIC):
        return None
    # Whatever goes wrong here goes wrong again in the decoder, which has the words for it.
    with contextlib.suppress(*DAMAGE, ImageError, Image.DecompressionBombError), quiet():
        if kind is TIFF and find_page(file, 1).index != 0:
            return None
        file.seek(0)
        image = Image.open(file, formats=kind.formats)
        if kind is PNG and _ends_in_metadata(file):
            return None
        ratio = density_ratio(image)
        if kind is TIFF:  # Pillow gives its size upright
            sideways = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation) in SIDEWAYS
            return square_size(*image.size, 1 / ratio if sideways else ratio, MAX_SOURCE_PIXELS)
        # The method of the base class: that of PNG decodes the image first.
        sideways = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in SIDEWAYS
        width, height = square_size(*image.size, ratio, MAX_SOURCE_PIXELS)
        return (height, width) if sideways else (width, height)
    return None


def _ends_in_metadata(file: BinaryIO) -> bool:
    """Whether a PNG may have its orientation behind its pixels."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - _TAIL))
    tail = file.read(_TAIL)
    return any(chunk in tail for chunk in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"))
