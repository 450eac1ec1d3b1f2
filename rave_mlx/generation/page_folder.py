"""Files of what was read of pages, in a folder of the user's own that never grows beyond a limit.

An entry is one file (`page_file`). One that was cut short, changed, renamed or put there by somebody else fails its
check; it is removed and never read. A file gets its name when it is complete, and is never changed after that, so
processes that work at the same time see whole files only. What nobody asked for the longest (by the file's time, which
reading renews) goes first.

Pages are private: the folder is open to its owner alone (0700), and so are the files (0600).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from rave_mlx.errors import RaveError, UsageError
from rave_mlx.generation import page_file

VARIABLE = "RAVE_MLX_PAGE_CACHE"
"""Environment variable: MiB that pages may take on disk; 0 keeps none."""
_SUFFIX, _PART = ".page", ".part"
_MIB = 1 << 20
_MOST = 4096
"""MiB that pages may take unless the variable says otherwise."""
_LEFT_FREE = 1 << 30
"""Bytes that stay free on the disk."""
_STALE_SECONDS = 3600.0
"""Age from which a file without its name is what a killed process left."""
_log = logging.getLogger(__name__)


def most_bytes() -> int:
    """Bytes that pages may take on disk, as `VARIABLE` says; 0: nothing is kept.

    Raises:
        UsageError: where it is no number.
    """
    text = os.environ.get(VARIABLE) or str(_MOST)
    if not text.strip().isdecimal():
        raise UsageError(f"{VARIABLE} is {text!r}; give the MiB that pages may take on disk, or 0 to keep none")
    return int(text) * _MIB


def default_folder() -> Path:
    """Where pages are kept: `rave-mlx/pages` in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "rave-mlx" / "pages"


class PageFolder:
    """Named tensors on disk.

    Args:
        folder: made when the first entry is written; None for the default.
        most: bytes that its files may take together; None for what `VARIABLE` says.

    Raises:
        UsageError: as `most_bytes`.
    """

    def __init__(self, folder: Path | None = None, most: int | None = None):
        self.folder = default_folder() if folder is None else folder
        self.most = most_bytes() if most is None else most
        self._written = 0

    def has(self, key: str) -> bool:
        """Whether there is an entry, which may turn out to be damaged."""
        return self._file(key).exists()

    def read(self, key: str) -> dict[str, mx.array] | None:
        """The tensors of an entry; None where there is none that is whole.

        Args:
            key: hexadecimal name of the entry.
        """
        file = self._file(key)
        try:
            if not self._is_own() or self.folder.lstat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            data = _read(file)
            os.utime(file)
        except OSError:
            return None
        found = page_file.read(key, data)
        if found is not None:
            return found
        _log.debug("%s: is no whole entry; removed", file)
        _remove(file)
        return None

    def write(self, key: str, tensors: Mapping[str, mx.array]) -> bool:
        """Keep tensors, and give up others where there is not enough room. They are computed one at a time.

        One process writes half of the limit at most: a pile of new pages does not drive out all that others keep.

        Args:
            key: as of `read`.
            tensors: of the types in `page_file.TYPES`.

        Returns:
            Whether they are kept.
        """
        size = sum(x.nbytes for x in tensors.values())
        if self._written + size > self.most // 2:
            return False
        try:
            self._prepare()
            if shutil.disk_usage(self.folder).free < size + _LEFT_FREE:
                return False
            handle, part = tempfile.mkstemp(suffix=_PART, dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as out:
                    page_file.write(key, tensors, out)
                Path(part).replace(self._file(key))
            except BaseException:
                _remove(Path(part))
                raise
            self._written += size
            self._tidy()
        except OSError as error:
            _log.debug("%s: %s", self.folder, error)
            return False
        return True

    def entries(self) -> list[tuple[Path, int, float]]:
        """Files of entries, their bytes and when they were used last, that used longest ago first."""
        found = []
        with contextlib.suppress(OSError):
            for file in self.folder.iterdir():
                with contextlib.suppress(OSError):
                    status = file.lstat()
                    if stat.S_ISREG(status.st_mode) and file.suffix in (_SUFFIX, _PART):
                        found.append((file, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry[2])

    def clear(self) -> int:
        """Remove every entry; returns how many bytes that frees.

        Raises:
            RaveError: where a file cannot be removed.
        """
        freed = 0
        for file, size, _ in self.entries():
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise RaveError(f"{file}: cannot be removed ({error.strerror}); remove the folder by hand") from None
            freed += size
        return freed

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _prepare(self) -> None:
        """Make the folder, for its owner alone.

        Raises:
            OSError: when it cannot be made, or is another's.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_own():
            raise PermissionError(f"{self.folder}: belongs to somebody else, or is a link")
        if stat.S_IMODE(self.folder.lstat().st_mode) != 0o700:
            self.folder.chmod(0o700)

    def _is_own(self) -> bool:
        """Whether the folder is a folder, and this user's.

        Raises:
            OSError: when there is none.
        """
        status = self.folder.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()

    def _tidy(self) -> None:
        """Remove what killed processes left, and the entries that nobody asked for the longest."""
        found = self.entries()
        total, now = sum(size for _, size, _ in found), time.time()
        for file, size, used in found:
            if (file.suffix == _PART and now - used > _STALE_SECONDS) or (file.suffix == _SUFFIX and total > self.most):
                _remove(file)
                total -= size


def _read(file: Path) -> bytes:
    """The bytes of a regular file of this user's.

    Raises:
        OSError: when there is none. A pipe in its place does not block.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as opened:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(f"{file}: is no file of this user's")
        return opened.read()


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()
