"""An image as a row of a file names it: a path beside the file, a URL with its bytes, or the bytes themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.formats import HEAD, PDF, kind_of
from rave_mlx.inputs.images.sources import resolve_source, split_page
from rave_mlx.inputs.text_files import RowError

_SUFFIXES = frozenset((
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pdf", ".heic", ".heif"),
    *(".avif", ".jp2", ".ppm", ".pgm", ".pnm", ".svg", ".jxl", ".dng", ".cr2", ".nef"),
))  # fmt: skip
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class ImageReference:
    """An image that was not opened yet.

    Attributes:
        source: a file, or encoded bytes.
        page: which page of a PDF or TIFF, from 1.
    """

    source: Path | bytes
    page: int = 1


def read_reference(value: Any, folder: Path, page: int | None = None) -> ImageReference:
    """The image that a row means by a value.

    Args:
        value: a path, a `file:` or `data:` URL, base64 text, bytes, or {"bytes": ..., "path": ...} as the `datasets`
            package has it. A path may end in #page=2.
        folder: what paths are relative to.
        page: page of a PDF or TIFF; None: what the path says, else the first.

    Raises:
        RowError: when the value is none of these, or the file is not there.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return ImageReference(value, page or 1)
    if not isinstance(value, str) or not value.strip():
        kind = "nothing" if value is None else "empty text" if isinstance(value, str) else type(value).__name__
        raise RowError(f"an image is a path, bytes or a data: URL, found {kind}")
    path = folder / Path(value).expanduser()
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for names that no file can have
        try:
            source = resolve_source(value)
        except ImageError as error:
            raise RowError(f"image {value[:80]}: {error}") from None
        if isinstance(source, bytes):
            return ImageReference(source, page or 1)
        text, own = split_page(str(folder / Path(str(source)).expanduser()))
        path, page = Path(text), page or own
        if not os.path.isfile(path):  # noqa: PTH113 - as above
            raise RowError(
                f"no image {value[:200]}" + ("" if path.is_absolute() and value == text else f" in {folder}")
            )
    return ImageReference(path, page or 1)


def looks_like_image(value: Any) -> bool:
    """Whether a value of a row can hardly be anything but an image, or a list with one in it."""
    if isinstance(value, Mapping):
        return set(value) <= {"bytes", "path"} and any(looks_like_image(part) for part in value.values())
    if isinstance(value, bytes):
        kind = kind_of(value[:HEAD])
        return bool(kind.formats) or kind is PDF
    if isinstance(value, str):
        return _names_image(value.strip()) or holds_bytes(value)
    return isinstance(value, list | tuple) and any(looks_like_image(part) for part in value)


def _names_image(text: str) -> bool:
    """Whether a text is a file name or an address of an image."""
    if not text or len(text) > _LONGEST_PATH or "\n" in text:
        return False
    try:
        path = urlsplit(text).path
    except ValueError:
        return False
    return Path(path).suffix.lower() in _SUFFIXES


def holds_bytes(text: str) -> bool:
    """Whether a text is an image itself: a data: URL, or base64."""
    try:
        return isinstance(resolve_source(text), bytes)
    except ImageError:
        return False
