"""The bytes of a document and their SHA-256: what is hashed is what is read.

A file is read once into memory, up to a limit; a larger one stays open, and every page of it is given out only while
the file has the size and the time of change that it had when it was hashed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from rave_mlx.documents.sources import Source
from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.sources import open_file, words

IN_MEMORY = 16 << 20
"""Largest file that is held in memory, in bytes."""
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Content:
    """What a document consists of.

    Attributes:
        data: bytes; an open file where they are many; a picture.
        sha256: of the bytes in hexadecimal; of a picture, of its mode, size and pixels.
        state: size and time of change of the file when it was hashed.
    """

    data: bytes | BinaryIO | Image.Image
    sha256: str
    state: tuple[int, int] | None = None

    def check(self) -> None:
        """See that the file is still the one that was hashed.

        Raises:
            ImageError: where it has changed.
        """
        if self.state is not None and not isinstance(self.data, bytes | Image.Image):
            _check(self.data, self.state)

    def close(self) -> None:
        """Close the file."""
        if not isinstance(self.data, bytes | Image.Image):
            self.data.close()


def read_content(source: Source) -> Content:
    """Read and hash a document.

    Raises:
        ImageError: for what is no file, cannot be read, or changes meanwhile.
    """
    if source.problem is not None:
        raise ImageError(source.problem)
    if isinstance(source.data, Image.Image):
        picture = source.data
        head = f"{picture.mode} {picture.width} {picture.height} ".encode()
        return Content(picture, hashlib.sha256(head + picture.tobytes()).hexdigest())
    if isinstance(source.data, str):
        return _read_file(source.data)
    data = _read_stdin() if source.data is None else source.data
    return Content(data, hashlib.sha256(data).hexdigest())


def _read_stdin() -> bytes:
    if sys.stdin.isatty():
        raise ImageError("standard input is a terminal; pipe a document into the command")
    return sys.stdin.buffer.read()


def _read_file(path: str) -> Content:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_file(path))
        state, digest = _state(file), hashlib.sha256()
        chunks: list[bytes] | None = [] if state[0] <= IN_MEMORY else None
        try:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                if chunks is not None:
                    chunks.append(chunk)
        except (OSError, MemoryError) as error:
            raise ImageError(f"cannot be read ({words(error)}); copy the file to another place") from None
        _check(file, state, file.tell())
        if chunks is not None:
            return Content(b"".join(chunks), digest.hexdigest())
        stack.pop_all()
        return Content(file, digest.hexdigest(), state)


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    # Files of /proc and other devices' views say that they are empty, and are not.
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("this is a pipe or a device; save the document to a file and name that")
    return status.st_size, status.st_mtime_ns


def _check(file: BinaryIO, state: tuple[int, int], length: int | None = None) -> None:
    if _state(file) != state or length not in (None, state[0]):
        raise ImageError("the file changed while it was read; run again when it is complete")
