"""The hidden folder that a directory is written into before it gets its name, and those that killed processes left.

The writer holds a lock on its folder, which the system lets go when the process ends, however it ends. So a folder of
this kind without a lock is litter, and one with a lock is somebody's work, on this machine or another.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".rave-partial"
_TRIES = 10
"""Times that a folder is made anew, where another process removes it before it is locked."""


@contextmanager
def partial_directory(out: Path) -> Iterator[Path]:
    """A new, empty, locked folder beside `out`; whatever is left of it at the end is removed.

    Raises:
        OSError: when it cannot be created.
    """
    folder, lock = _create(out)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_stale(parent: Path) -> None:
    """Remove the folders of this kind whose writer is gone."""
    for folder in parent.glob(f".*{SUFFIX}"):
        try:
            found = folder.lstat()
        except OSError:
            continue
        # Another user's are that user's to remove; a link is nothing that was written here.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            continue
        try:
            lock = _lock(folder)
        except OSError:
            # No locks on this file system: nothing there tells litter from work.
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _create(out: Path) -> tuple[Path, int | None]:
    """The folder and its lock; None for the lock on a file system that has none."""
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=SUFFIX, dir=out.parent))
        try:
            lock = _lock(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return folder, None
        if lock is not None:
            return folder, lock
        # Somebody who tidies up was faster than the lock, and is removing the folder.
    raise BlockingIOError(errno.EAGAIN, "another process removes new folders there")


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None when somebody else holds it.

    Raises:
        OSError: when the folder is gone, or its file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), folder.lstat()):
            raise FileNotFoundError(errno.ENOENT, "was replaced", str(folder))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
