"""From a file, bytes or a Pillow image to an upright 8-bit RGB picture, or one line that says why not.

The kind of a file is read from its first bytes, never from its extension. A damaged file is an error, never half a
picture. Nothing is left on stderr: what Pillow warns about concerns metadata, or is decided by the limits here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.color import to_rgb
from rave_mlx.inputs.images.formats import HEAD, HEIC, PDF, TIFF, Kind, kind_of
from rave_mlx.inputs.images.pdf import PAGE_PIXELS, render_page
from rave_mlx.inputs.images.pixel_aspect import density_ratio, to_square_pixels
from rave_mlx.inputs.images.png_clear import clear_opacity
from rave_mlx.inputs.images.quiet import quiet
from rave_mlx.inputs.images.sources import ImageSource, OpenPage, named, open_file, resolve_source, words
from rave_mlx.inputs.images.tiff_pages import MAX_PAGES, begin_with, find_page, is_copy

MAX_SOURCE_PIXELS = 178_956_970
"""Largest picture that is decoded: where Pillow itself stops by default. 61 and 150 megapixel photographs and A0 scans
at 300 dpi open; in memory such a picture takes 4 bytes a pixel, 0.7 GB."""

DAMAGE = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    TypeError,
    RuntimeError,
    KeyError,
    OverflowError,
    IndexError,
    struct.error,
)
"""What readers raise on damaged data: found by mutating files; the last two are those Pillow itself reckons with."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


def open_image(source: ImageSource, page: int = 1, *, page_pixels: int = PAGE_PIXELS) -> Image.Image:
    """Open a picture as a person would see it: upright, in square pixels, RGB, transparency on white.

    Args:
        source: a path, file: or data: URL; the bytes of a file, or the open file; a page of an open document; a Pillow
            image or an array, neither of which is changed.
        page: from 1; of a PDF or a TIFF with several pages.
        page_pixels: about how many pixels a PDF page is drawn with.

    Returns:
        An RGB image of 8 bits, colours in sRGB, without metadata.

    Raises:
        ImageError: one line that names the source, what is wrong with it and what to do.
    """
    with named(source):
        if isinstance(page, bool) or not isinstance(page, int):
            raise ImageError(f"page {page!r} was asked for; a page is a whole number, counted from 1")
        if not 1 <= page <= MAX_PAGES:
            raise ImageError(f"page {page} was asked for; pages are counted from 1 to at most {MAX_PAGES}")
        if isinstance(source, OpenPage):
            if page > 1:
                raise ImageError(f"page {page} was asked for of what is one page already; leave the page out")
            return source.draw(page_pixels)
        resolved = resolve_source(source)
        if isinstance(resolved, Image.Image):
            return _from_pillow(resolved, page)
        with io.BytesIO(resolved) if isinstance(resolved, bytes) else open_file(resolved) as file:
            return _from_file(file, page, page_pixels)


def _from_file(file: BinaryIO, page: int, page_pixels: int) -> Image.Image:
    kind = readable_kind(file)
    if kind is PDF:
        return render_page(_read(file), page, page_pixels)
    if page > 1 and kind is not TIFF:
        raise ImageError(f"page {page} was asked for, a {kind.name} file is read as one page")
    with decoding(kind.name):
        if kind is TIFF:
            return to_picture(_open_tiff(file, page))
        return to_picture(Image.open(file, formats=kind.formats))


def readable_kind(file: BinaryIO) -> Kind:
    """What an open file holds, which is a picture or a PDF; the file is left at its beginning.

    Raises:
        ImageError: for an empty file, for what is no picture, and for a picture that needs a package.
    """
    file.seek(0)
    head = _read(file, HEAD)
    file.seek(0)
    kind = kind_of(head)
    if not head:
        raise ImageError("the file is empty; download or export it again")
    if kind is PDF:
        return kind
    if not kind.formats:
        raise ImageError(f"this is {kind.name}; {kind.remedy}")
    if kind.codec and importlib.util.find_spec(kind.codec) is None:
        raise ImageError(f"{kind.name} needs a package that is not installed; run: pip install {kind.install}")
    if kind is HEIC:
        importlib.import_module("pillow_heif").register_heif_opener()
    return kind


def _read(file: BinaryIO, size: int = -1) -> bytes:
    try:
        return file.read(size)
    except (OSError, MemoryError) as error:
        raise ImageError(f"cannot be read ({words(error)}); copy the file to another place") from error


def _from_pillow(image: Image.Image, page: int) -> Image.Image:
    if page > 1:
        raise ImageError(f"page {page} was asked for; seek() the image to it and leave the page out")
    if image.format == "TIFF" and is_copy(getattr(image, "tag_v2", {})):
        raise ImageError("Pillow opened a reduced copy (thumbnail) in this TIFF; pass the path of the file instead")
    with decoding(image.format or "image"):
        return to_picture(image)


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn what decoders raise into one line, and keep what they print to themselves."""
    try:
        with quiet(tiff=what == TIFF.name):
            yield
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise ImageError(_too_large(int(found[1]) if found else None)) from error
    except MemoryError as error:
        raise ImageError(f"not enough memory to decode this {what}; scale the image down") from error
    except DAMAGE as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({words(error)})"
        raise ImageError(f"damaged or unsupported {what}{reason}; download or export it again") from error


def _open_tiff(file: BinaryIO, page: int) -> Image.Image:
    place = find_page(file, page)
    if place.index is None:  # Pillow does not enter directories beside the chain
        file = begin_with(file, place)
    file.seek(0)
    image = Image.open(file, formats=TIFF.formats)
    if place.index:
        image.seek(place.index)
    return image


def to_picture(image: Image.Image) -> Image.Image:
    """The pixels of an opened image as a person would see them; what decoders raise passes (see `decoding`)."""
    width, height = image.size
    if not width or not height:
        raise ImageError(f"the image has no pixels ({width} x {height}); pass one with both sides above 0")
    if width * height > MAX_SOURCE_PIXELS:
        raise ImageError(_too_large(width * height))
    if image.format == "TIFF":
        _check_complete(image)
    ratio = density_ratio(image)
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation) in SIDEWAYS:
        ratio = 1 / ratio  # Pillow turns a TIFF while it loads it, and densities are those of the pixels as stored
    opacity = clear_opacity(image)
    image.load()
    rgb = to_square_pixels(to_rgb(image, opacity), ratio, MAX_SOURCE_PIXELS)
    turn = _UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _check_complete(image: Image.Image) -> None:
    """A TIFF whose strips end before its last row would be read as a picture with an empty rest."""
    extents = [tile[1] for tile in getattr(image, "tile", [])]  # before turning upright, unlike image.size
    if extents and max(e[2] for e in extents) * max(e[3] for e in extents) < image.width * image.height:
        raise ImageError("damaged TIFF (strips are missing); download or export it again")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, read after loading (Pillow turns a TIFF itself); damaged EXIF data count as none."""
    with contextlib.suppress(*DAMAGE):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _too_large(pixels: int | None) -> str:
    size = f"{pixels / 1e6:,.0f} megapixels" if pixels else "too many pixels"
    return f"{size}, the most that is decoded is {MAX_SOURCE_PIXELS / 1e6:.0f}; scale the image down or crop it"
