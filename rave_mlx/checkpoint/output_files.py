"""Files that a run writes: put into place whole, and written by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from rave_mlx.errors import RaveError, UsageError


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place and rename it into it at the end: a crash leaves the old one or the new one.

    Raises:
        RaveError: when it cannot be written; then nothing has changed.
    """
    beside = file.with_name(f".{file.name}.part")
    try:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(beside.open("wb"))
            stack.callback(beside.unlink, missing_ok=True)
            yield out
            out.flush()
            os.fsync(out.fileno())
            beside.replace(file)
        sync_folder(file)
    except OSError as error:
        raise RaveError(f"{file}: cannot be written ({error.strerror}); make room, or choose another place") from None


def write_beside(file: Path, parts: Iterable[bytes]) -> None:
    """Write parts one after another into a file, as `replacing` does.

    Raises:
        RaveError: when it cannot be written; then nothing has changed.
    """
    with replacing(file) as out:
        out.writelines(parts)


def sync_folder(file: Path) -> None:
    """Have the disk remember that a file is in its folder."""
    folder = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Write `file` in this process only. The lock is that of `file.lock` beside it, and ends with the process.

    Raises:
        UsageError: when another process has it.
        OSError: when nothing can be written there, or the disk knows no locks.
    """
    place = file.with_name(f"{file.name}.lock")
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The run before this one may have removed the file after it was opened here.
            if os.path.samestat(os.fstat(handle), place.stat()):
                break
        except BlockingIOError:
            process = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            os.close(handle)
            raise UsageError(
                f"{file}: another run is writing it" + (f" (process {process})" if process else "") + "; wait until it "
                "has ended, or choose another --out"
            ) from None
        except FileNotFoundError:
            pass
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
    try:
        with contextlib.suppress(OSError):  # on a full disk; it is for the message above only
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        place.unlink(missing_ok=True)
        os.close(handle)
