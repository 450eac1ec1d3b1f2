"""Load a compiled library from a cache folder, and only what this user alone can have put there.

Whoever can write the file, or its folder, could otherwise run code in this process: in a cache folder shared by
several users, or one that was left open to all.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path

_loaded = count()


def load(folder: Path, name: str, build: Callable[[], bytes]) -> ctypes.CDLL:
    """The library `name` of `folder`, built and kept there where it is absent or might be somebody else's.

    Args:
        folder: made where there is none.
        name: file name.
        build: returns the library's bytes.

    Raises:
        OSError: when the folder is not this user's own, or nothing can be kept in it or loaded from it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Everything goes through this descriptor, so that the folder cannot be exchanged after it was looked at.
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not is_own(os.fstat(place)):
            raise PermissionError(f"{folder}: others may write to it")
        try:
            return _load(name, place)
        except OSError:
            _keep(name, place, build())
            return _load(name, place)
    finally:
        os.close(place)


def is_own(status: os.stat_result) -> bool:
    """Whether what `os.stat` looked at belongs to this user and no other may write to it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _load(name: str, place: int) -> ctypes.CDLL:
    """Load a file of the folder `place` after a look at that very file."""
    # A pipe in its place would block the opening.
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or not is_own(status):
            raise PermissionError(f"{name}: others may have written it")
        # The loader takes a name that it has seen for the library that it loaded then: each has its own.
        return ctypes.CDLL(f"/proc/self/{'/' * next(_loaded)}fd/{file}")
    finally:
        os.close(file)


def _keep(name: str, place: int, data: bytes) -> None:
    """Write a file into the folder `place`: beside its final name first, so that nobody loads half of it."""
    beside = f".{name}.{os.getpid()}"
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=place)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(data)
        os.replace(beside, name, src_dir_fd=place, dst_dir_fd=place)
    except OSError:
        os.unlink(beside, dir_fd=place)
        raise
