"""The C library's memory allocator, told to keep what MLX is about to ask for again."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from rave_mlx.backend import system

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
_STATM = Path("/proc/self/statm")


def keep_buffers() -> None:
    """Let glibc's malloc keep freed buffers, unless the user chose otherwise (MALLOC_TRIM_THRESHOLD_).

    MLX allocates every result anew. By default glibc hands large buffers back to the system at once, and the next
    operation pays for mapping and zeroing each page again: a 16 MB chain of operations ran 2 to 4 times slower.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        libc.mallopt(_M_TRIM_THRESHOLD, min(1 << 30, system.memory().available // 8))
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)


class FreedMemory:
    """Hands memory that was freed back to the system when a process has grown, in all arenas of glibc's malloc.

    Buffers of many sizes leave holes that later ones do not fill: a pile of 900 pages grew by 100 kB a page, while what
    was in use stayed the same. Does nothing where there is no glibc.

    Args:
        growth: bytes by which the process may grow before it is looked at again.
    """

    def __init__(self, growth: int = 32 << 20):
        self._growth = growth
        self._least = 0
        libc = ctypes.CDLL(None)
        self._trim = libc.malloc_trim if hasattr(libc, "malloc_trim") and _STATM.is_file() else None

    def give_back(self) -> bool:
        """Give back what is free, if the process has grown since; whether it did. Takes some milliseconds then."""
        if self._trim is None or _resident() < self._least + self._growth:
            return False
        self._trim(0)
        self._least = _resident()
        return True


def _resident() -> int:
    """Bytes of the process that are in memory."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
