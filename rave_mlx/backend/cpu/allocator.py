"""The C library's memory allocator, told to keep what MLX is about to ask for again."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx

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


def give_back() -> None:
    """Hand all that is free back to the system, what MLX keeps for later included: a model has been loaded."""
    mx.clear_cache()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class UncachedBlocks:
    """Running blocks in which MLX keeps no freed buffers, from any Python thread.

    MLX gives a kept buffer to whatever asks for about its size next; malloc cuts and joins what is free, so that
    the many sizes of a prompt's activations share the same memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running, self._before = 0, 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """One block; MLX's limit is what it was when the last of them has ended."""
        with self._lock:
            if self._running == 0:
                mx.clear_cache()
                self._before = mx.set_cache_limit(0)
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    mx.set_cache_limit(self._before)


uncached_blocks = UncachedBlocks()
"""Those of this process."""


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
