"""What people pass as an image, brought to one of three forms: a path, encoded bytes, or a Pillow image.

Paths, file: and data: URLs, base64 text, bytes, open files, Pillow images and arrays are taken. Addresses on the
network are not fetched: a question about a document must not send requests that nobody asked for.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.arrays import ArrayLike, array_to_image, is_array
from rave_mlx.inputs.images.formats import HEAD, PDF, kind_of


class Readable(Protocol):
    """An open binary file, or anything else that can be read like one."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        ...


@runtime_checkable
class OpenPage(Protocol):
    """A page of a document that is open already; `name`, where it has one, stands in messages."""

    def draw(self, pixels: int) -> Image.Image:
        """The page, upright and in RGB; of about so many pixels where it has none of its own."""
        ...


ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | OpenPage | Image.Image | ArrayLike
"""A path, file: URL, data: URL or base64 text; encoded bytes; an open binary file; a page of an open document; a Pillow
image; an array."""

ResolvedSource = str | bytes | Image.Image
"""A path, the bytes of a file, or a Pillow image."""

_SHORTEST_BASE64 = 64
"""Characters from which on a text that is no file is tried as base64: no picture is smaller."""


def resolve_source(source: ImageSource) -> ResolvedSource:
    """Bring an image source to a path, encoded bytes or a Pillow image; nothing is decoded yet.

    An open file is read from its beginning where it can be rewound, and left at the place where it was.

    Raises:
        ImageError: for a source of another type, an address on the network, a malformed data: URL, or an array of
            which it is not certain how it is meant.
    """
    given: Any = source
    if isinstance(given, Image.Image | bytes):
        return given
    if isinstance(given, str):
        return _from_text(given)
    if isinstance(given, os.PathLike):
        return os.fsdecode(given)
    if isinstance(given, bytearray) or (isinstance(given, memoryview) and given.ndim == 1):
        return bytes(given)
    if callable(getattr(given, "read", None)):
        return _from_open_file(given)
    if isinstance(given, memoryview) or is_array(given):
        return array_to_image(given)
    raise ImageError("an image is a path, bytes, an open binary file, an array or a PIL.Image.Image")


@contextlib.contextmanager
def named(source: object) -> Iterator[None]:
    """Put the name of an image source in front of the message of an ImageError raised inside."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name_of(source)}: {error}") from error


def open_file(path: str) -> BinaryIO:
    """A regular file, opened for reading.

    Raises:
        ImageError: for whatever is not one, or may not be read.
    """
    if not path:
        raise ImageError("no file is named; give the path of an image")
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
        raise ImageError(f"cannot be opened ({words(error)}); check the path") from error


def decode_base64(text: str | bytes) -> bytes:
    """The bytes of base64 text as programs write it: with line ends, either alphabet (RFC 4648, 4 and 5), with or
    without padding.

    Raises:
        ImageError: for anything else.
    """
    try:
        data = text.encode("ascii") if isinstance(text, str) else text
        data = b"".join(data.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ImageError("not valid base64; encode the image file again") from error


def split_page(text: str) -> tuple[str, int | None]:
    """A path or file: URL with the page in its fragment, as in doc.pdf#page=2 (RFC 8118): both of them.

    A file of that very name is a file without a page.
    """
    match = re.fullmatch(r"(.+)#page=(\d{1,9})", text, re.DOTALL)
    if match is None or os.path.lexists(text):
        return text, None
    return match[1], int(match[2])


def words(error: BaseException) -> str:
    """What the system or a library says about an error, fit for a message."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _one_line(" ".join(text.split()), 120) or type(error).__name__


def _from_text(text: str) -> str | bytes:
    scheme = text[:12].partition(":")[0].lower() if ":" in text[:12] else ""
    if scheme == "data":
        return _from_data_url(text)
    if scheme == "file":
        return _from_file_url(text)
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        raise ImageError("addresses are not fetched; download the image and name the file")
    if len(text) >= _SHORTEST_BASE64 and not os.path.lexists(text) and (data := _picture_in_base64(text)):
        return data
    return text


def _picture_in_base64(text: str) -> bytes | None:
    """The picture that a text holds as base64; None where it holds none, and then it is a path."""
    with contextlib.suppress(ImageError):
        kind = kind_of(decode_base64("".join(text[: 2 * HEAD].split())[:HEAD]))
        if kind.formats or kind is PDF:
            return decode_base64(text)
    return None


def _from_data_url(url: str) -> bytes:
    head, comma, payload = url.partition(",")
    if not comma:
        raise ImageError("a data: URL without a comma; it is written as data:image/png;base64,...")
    if not re.search(r";\s*base64\s*$", head, re.IGNORECASE):
        return unquote_to_bytes(payload)
    try:
        return decode_base64(unquote(payload))
    except ImageError as error:
        raise ImageError(f"a data: URL that is {error}") from error


def _from_file_url(url: str) -> str:
    """The path of a file: URL (RFC 8089), escapes undone; or as programs write it that put file:// before any path."""
    parts, plain = urlsplit(url), re.sub("^file:(//)?", "", url, flags=re.IGNORECASE)
    path = unquote(parts.path)
    if parts.netloc.lower() in ("", "localhost") and (os.path.lexists(path) or not os.path.lexists(plain)):
        return path
    if os.path.lexists(plain):
        return plain
    raise ImageError(f"the file is on another computer ({_one_line(parts.netloc, 60)}); copy it to this one")


def _from_open_file(file: Any) -> bytes:
    try:
        place = file.tell() if hasattr(file, "seekable") and file.seekable() else None
        if place is not None:
            file.seek(0)
        data = file.read()
        if place is not None:
            file.seek(place)
    except (OSError, ValueError, MemoryError) as error:  # ValueError: the file is closed
        raise ImageError(f"cannot be read ({words(error)}); open the file again") from error
    if not isinstance(data, bytes | bytearray):
        raise ImageError(f'reading gives {type(data).__name__} and not bytes; open the file with mode "rb"')
    return bytes(data)


def name_of(source: object) -> str:
    """An image source as messages name it, in one line."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"image data of {len(source)} bytes"
    if isinstance(source, str) and source[:5].lower() == "data:":
        return f"data: URL of {len(source)} characters"
    if isinstance(source, str | os.PathLike):
        return _one_line(os.fsdecode(source), 300) or "empty file name"
    file = getattr(source, "filename", None) or getattr(source, "name", None)  # of an opened image, of an open file
    return name_of(file) if file and isinstance(file, str) else f"{type(source).__name__} object"


def _one_line(text: str, length: int) -> str:
    """`text` fit for a message: no line breaks, nothing that a terminal or its encoding trips over."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= length else text[: length - 1] + "…"
