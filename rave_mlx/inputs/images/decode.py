"""From a file, bytes or a Pillow image to an upright 8-bit RGB picture, or one line that says why not.

The kind of a file is read from its first bytes, never from its extension. A damaged file is an error, never half a
picture. Nothing is left on stderr: what Pillow warns about concerns metadata, or is decided by the limits here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.color import to_rgb
from rave_mlx.inputs.images.formats import HEAD, HEIC, PDF, TIFF, kind_of
from rave_mlx.inputs.images.pdf import PAGE_PIXELS, render_page
from rave_mlx.inputs.images.quiet import quiet

ImageSource = str | os.PathLike[str] | bytes | Image.Image

MAX_SOURCE_PIXELS = 178_956_970
"""Largest picture that is decoded: where Pillow itself stops by default. 61 and 150 megapixel photographs and A0 scans
at 300 dpi open; in memory such a picture takes 4 bytes a pixel, 0.7 GB."""

MAX_PAGES = 10_000
"""Largest page number: bounds the walk along a TIFF's chain of pages, which a small file can make very long."""

_DAMAGE = (
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


def open_image(source: ImageSource, page: int = 1, *, page_pixels: int = PAGE_PIXELS) -> Image.Image:
    """Upright RGB uint8 image without metadata, transparency on white, colours in sRGB.

    Args:
        source: path, encoded bytes, or Pillow image (not changed).
        page: from 1; for PDF and TIFF with several pages.
        page_pixels: about how many pixels a PDF page is drawn with.

    Raises:
        ImageError: one line that names the source, what is wrong with it and what to do.
    """
    with named(source):
        if not 1 <= page <= MAX_PAGES:
            raise ImageError(f"page {page} was asked for; pages are counted from 1 to at most {MAX_PAGES}")
        if isinstance(source, Image.Image):
            return _from_pillow(source, page)
        if not isinstance(source, str | bytes | os.PathLike):
            raise ImageError("an image is a path, bytes or a PIL.Image.Image; make one with PIL.Image.fromarray")
        with io.BytesIO(source) if isinstance(source, bytes) else _open_file(os.fsdecode(source)) as file:
            return _from_file(file, page, page_pixels)


@contextlib.contextmanager
def named(source: ImageSource) -> Iterator[None]:
    """Put the name of `source` in front of the message of an ImageError raised inside."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{_name(source)}: {error}") from error


def _name(source: object) -> str:
    if isinstance(source, bytes):
        return f"image data of {len(source)} bytes"
    if isinstance(source, str | os.PathLike):
        return _one_line(os.fsdecode(source), 300) or "empty file name"
    file = getattr(source, "filename", None)  # of an image that Pillow opened
    return _name(file) if file and isinstance(file, str) else f"{type(source).__name__} object"


def _one_line(text: str, length: int) -> str:
    """`text` fit for a message: no line breaks, nothing that a terminal or its encoding trips over."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _open_file(path: str) -> BinaryIO:
    if not path:
        raise ImageError("no file is named; give the path of an image")
    if re.match(r"https?://|data:", path):
        raise ImageError("addresses are not fetched; download the image and name the file")
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError("this is a directory; name the image files in it")
        if not stat.S_ISREG(mode):  # opening a pipe that nobody writes to would wait for ever
            raise ImageError("this is a pipe or a device; save the image to a file and name that")
        return Path(path).open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("no such file; check the path") from error
    except PermissionError as error:
        raise ImageError("permission denied; make the file readable for you (chmod u+r)") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be opened ({_words(error)}); check the path") from error


def _from_file(file: BinaryIO, page: int, page_pixels: int) -> Image.Image:
    head = _read(file, HEAD)
    kind = kind_of(head)
    if not head:
        raise ImageError("the file is empty; download or export it again")
    if kind is PDF:
        return render_page(head + _read(file), page, page_pixels)
    if not kind.formats:
        raise ImageError(f"this is {kind.name}; {kind.remedy}")
    if kind.codec and importlib.util.find_spec(kind.codec) is None:
        raise ImageError(f"{kind.name} needs a package that is not installed; run: pip install {kind.install}")
    if kind is HEIC:
        importlib.import_module("pillow_heif").register_heif_opener()
    if page > 1 and kind is not TIFF:
        raise ImageError(f"page {page} was asked for, a {kind.name} file is read as one page")
    with _decoding(kind.name):
        return _picture(_at_page(Image.open(file, formats=kind.formats), page))


def _read(file: BinaryIO, size: int = -1) -> bytes:
    try:
        return file.read(size)
    except (OSError, MemoryError) as error:
        raise ImageError(f"cannot be read ({_words(error)}); copy the file to another place") from error


def _from_pillow(image: Image.Image, page: int) -> Image.Image:
    if page > 1:
        raise ImageError(f"page {page} was asked for; seek() the image to it and leave the page out")
    with _decoding(image.format or "image"):
        return _picture(image)


@contextlib.contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Turn what decoders raise into one line, and keep what they print to themselves."""
    try:
        with quiet():
            yield
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise ImageError(_too_large(int(found[1]) if found else None)) from error
    except MemoryError as error:
        raise ImageError(f"not enough memory to decode this {what}; scale the image down") from error
    except _DAMAGE as error:
        words = "" if isinstance(error, UnidentifiedImageError) else f" ({_words(error)})"
        raise ImageError(f"damaged or unsupported {what}{words}; download or export it again") from error


def _at_page(image: Image.Image, page: int) -> Image.Image:
    for seen in range(1, page):
        try:
            image.seek(seen)
        except EOFError as error:
            raise ImageError(f"page {page} was asked for, the file has {seen} page{'s' * (seen > 1)}") from error
    return image


def _picture(image: Image.Image) -> Image.Image:
    width, height = image.size
    if not width or not height:
        raise ImageError(f"the image has no pixels ({width} x {height}); pass one with both sides above 0")
    if width * height > MAX_SOURCE_PIXELS:
        raise ImageError(_too_large(width * height))
    if image.format == "TIFF":
        _check_complete(image)
    image.load()
    rgb = to_rgb(image)
    turn = _UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _check_complete(image: Image.Image) -> None:
    """A TIFF whose strips end before its last row would be read as a picture with an empty rest."""
    extents = [tile[1] for tile in getattr(image, "tile", [])]  # before turning upright, unlike image.size
    if extents and max(e[2] for e in extents) * max(e[3] for e in extents) < image.width * image.height:
        raise ImageError("damaged TIFF (strips are missing); download or export it again")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, read after loading (Pillow turns a TIFF itself); damaged EXIF data count as none."""
    with contextlib.suppress(*_DAMAGE):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _too_large(pixels: int | None) -> str:
    size = f"{pixels / 1e6:,.0f} megapixels" if pixels else "too many pixels"
    return f"{size}, the most that is decoded is {MAX_SOURCE_PIXELS / 1e6:.0f}; scale the image down or crop it"


def _words(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _one_line(" ".join(text.split()), 120) or type(error).__name__
