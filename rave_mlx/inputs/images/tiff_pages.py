"""Which directory of a TIFF holds the page that was asked for.

A TIFF is a chain of directories, each of which describes one picture (TIFF 6.0, section 2). Not every one is a page:
some are marked as a smaller copy of another picture or as its mask, and a directory may have children (SubIFDs, TIFF
Technical Note 1), where cameras keep the photograph and put a thumbnail in front. Pages are counted without the copies.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Directory

from rave_mlx.errors import ImageError

MAX_PAGES = 10_000
"""Largest page number: bounds the walk along the chain of directories, which a small file can make very long."""

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255
_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC = 256, 257, 259, 262
_MAKE, _CHILDREN, _JPEG, _LEAF, _EXIF = 271, 330, 513, 34310, 34665

_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a smaller copy of another picture; the mask of another picture (TIFF 6.0, page 36)."""

_SENSOR = (32803, 34892)
"""Photometric interpretations of what a sensor saw, colours not yet made: CFA (TIFF/EP) and LinearRaw (DNG)."""

_RAW_COMPRESSION = (32767, 32769, 32770, 34713, 65000, 65535)
"""Compressions of camera makers: Sony, Epson, Samsung, Nikon, Kodak, Pentax."""

_MAX_CHILDREN = 16
_LOOK_AHEAD = 8
"""How many directories are searched for sensor data behind the first picture of a camera's file."""


@dataclass(frozen=True)
class TiffPage:
    """Where a page is: its directory's offset in bytes, and its place in the chain (from 0), None for a child."""

    offset: int
    index: int | None


def find_page(file: BinaryIO, page: int) -> TiffPage:
    """The directory of page `page` (from 1), copies and masks not counted.

    Raises:
        ImageError: for camera raw, for a file of nothing but copies, for a page that is not there.
        OSError, ValueError, struct.error: for damaged data.
    """
    header = _header(file)
    found = copies = 0
    for directory, picture in _pictures(file, header):
        if picture is None:
            copies += 1
            continue
        found += 1
        if found == page:
            if found == 1 and _MAKE in directory:
                _check_for_sensor_data(file, header)
            return picture
    if not found and not copies:
        raise ImageError("damaged TIFF (it holds no picture); download or export it again")
    if not found:
        raise ImageError("this TIFF holds only reduced copies (thumbnails) of a picture; export the picture itself")
    raise ImageError(f"page {page} was asked for, the file has {found} page{'s' * (found > 1)}")


def count_pages(file: BinaryIO) -> int:
    """How many pages there are, copies and masks not counted.

    Raises:
        OSError, ValueError, struct.error: for damaged data.
    """
    return sum(picture is not None for _, picture in _pictures(file, _header(file)))


def list_pages(file: BinaryIO) -> list[TiffPage | ImageError]:
    """Every page in order, found in one walk; where the chain is broken, a last entry says why it ends there.

    Raises:
        ImageError: where there is no first page.
        OSError, ValueError, struct.error: for data that are damaged from the beginning.
    """
    pages: list[TiffPage | ImageError] = []
    try:
        pages.extend(picture for _, picture in _pictures(file, _header(file)) if picture is not None)
    except ImageError as error:
        pages.append(error)
    except (OSError, ValueError, struct.error):
        pages.append(ImageError("damaged TIFF (the pages from here on are not found); download or export it again"))
    if not pages or isinstance(pages[0], ImageError):
        find_page(file, 1)
    return pages


def _pictures(file: BinaryIO, header: bytes) -> Iterator[tuple[Directory, TiffPage | None]]:
    """The directories of the chain, each with the page that it is; None for a copy."""
    first: Directory | None = None
    for index, directory in enumerate(_chain(file, header)):
        thumbnail = index == 1 and first is not None and _is_exif_thumbnail(directory, first)
        first = first or directory
        yield directory, None if thumbnail else _picture(file, header, directory, index)


def begin_with(file: BinaryIO, page: TiffPage) -> BinaryIO:
    """The file with the page's directory as its first, for readers that only follow the chain."""
    file.seek(0)
    data = bytearray(file.read())
    order = "<" if data[:2] == b"II" else ">"
    if _is_big(data):
        struct.pack_into(f"{order}Q", data, 8, page.offset)
    else:
        struct.pack_into(f"{order}L", data, 4, page.offset)
    return io.BytesIO(data)


def is_copy(directory: Mapping[int, Any]) -> bool:
    """Whether the tags of a directory mark it as a smaller copy of another picture, or as its mask."""
    kind = directory.get(_NEW_SUBFILE_TYPE, 0)
    marked = isinstance(kind, int) and bool(kind & (_REDUCED | _MASK))
    return marked or directory.get(_SUBFILE_TYPE) == 2


def _header(file: BinaryIO) -> bytes:
    file.seek(0)
    header = file.read(16)
    return header if _is_big(header) else header[:8]


def _is_big(header: bytes | bytearray) -> bool:
    """Whether offsets have 8 bytes (BigTIFF)."""
    return header[2:3] == b"+"


def _chain(file: BinaryIO, header: bytes) -> Iterator[Directory]:
    """The directories in order; a chain that comes back to one of them has ended."""
    offset, seen = Directory(header).next, set[int]()
    while offset and offset not in seen and len(seen) < 2 * MAX_PAGES:
        seen.add(offset)
        directory = _load(file, header, offset)
        yield directory
        offset = directory.next


def _load(file: BinaryIO, header: bytes, offset: int) -> Directory:
    directory = Directory(header)
    directory.next = 0  # where reading stops early, nothing follows
    file.seek(offset)
    directory.load(file)
    return directory


def _picture(file: BinaryIO, header: bytes, directory: Directory, index: int) -> TiffPage | None:
    """The full picture that a directory of the chain stands for: its own, or that of a child; None for a copy."""
    copy = is_copy(directory)
    best, place = directory, TiffPage(directory.offset, index)
    area = 0 if copy else _area(directory)
    for child in _children(file, header, directory):
        if not is_copy(child) and _area(child) > area:
            best, place, area = child, TiffPage(child.offset, None), _area(child)
    if copy and place.index is not None:
        return None
    _check_not_raw(best)
    return place


def _children(file: BinaryIO, header: bytes, directory: Directory) -> Iterator[Directory]:
    offsets = directory.get(_CHILDREN, ())
    for offset in (offsets if isinstance(offsets, tuple) else (offsets,))[:_MAX_CHILDREN]:
        if isinstance(offset, int) and offset > 0:
            yield _load(file, header, offset)


def _is_exif_thumbnail(directory: Directory, first: Directory) -> bool:
    """Whether the second directory is the thumbnail of the first, which Exif (CIPA DC-008, 4.5.2) marks in no other
    way than by its place: a JPEG of unknown or small size, or pixels of at most 160 x 120 behind Exif data.

    Pages of old scanners are kept as JPEG in the same way, but say that they are pages or are as large as the first.
    """
    if _NEW_SUBFILE_TYPE in directory or _SUBFILE_TYPE in directory:
        return False
    if _JPEG in directory:
        return 16 * _area(directory) <= _area(first)
    return _EXIF in first and 0 < _area(directory) <= 160 * 120 and 16 * _area(directory) <= _area(first)


def _area(directory: Directory) -> int:
    """In pixels; 0 where the directory is no picture."""
    width, height = directory.get(_WIDTH, 0), directory.get(_HEIGHT, 0)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


def _check_for_sensor_data(file: BinaryIO, header: bytes) -> None:
    """Some cameras put a preview without a mark into the first directory, and the photograph into a later one."""
    for _, directory in zip(range(_LOOK_AHEAD), _chain(file, header), strict=False):
        _check_not_raw(directory)


def _check_not_raw(directory: Directory) -> None:
    sensor = directory.get(_PHOTOMETRIC) in _SENSOR or directory.get(_COMPRESSION) in _RAW_COMPRESSION
    if sensor or _LEAF in directory:
        raise ImageError(
            "this is camera raw: its pixels have no colours yet, and the picture in it is a small preview; open it in "
            "a photo program and export it as JPEG or TIFF"
        )
