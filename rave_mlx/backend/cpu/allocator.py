"""The C library's memory allocator, told to keep what MLX is about to ask for again."""

from __future__ import annotations

import ctypes
import os

from rave_mlx.backend import system

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""


def keep_buffers() -> None:
    """Let glibc's malloc keep freed buffers, unless the user chose otherwise (MALLOC_TRIM_THRESHOLD_).

    MLX allocates every result anew. By default glibc hands large buffers back to the system at once, and the next
    operation pays for mapping and zeroing each page again: a 16 MB chain of operations ran 2 to 4 times slower.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        libc.mallopt(_M_TRIM_THRESHOLD, min(1 << 30, system.memory().available // 8))
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
