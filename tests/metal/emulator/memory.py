"""Buffers between protected pages, shared with the process that runs the kernel."""

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
GUARD = 256 * PAGE
"""Protected bytes on either side: a stray index may be off by whole rows, and address space costs nothing."""
_libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """`nbytes` of memory that end (or begin) exactly where a protected page does; filled with NaN patterns."""

    def __init__(self, nbytes: int, at_end: bool):
        room = -(-max(nbytes, 1) // PAGE) * PAGE
        self._map = mmap.mmap(-1, room + 2 * GUARD)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for guard in (base, base + GUARD + room):
            if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(GUARD), 0):
                raise OSError(ctypes.get_errno(), "mprotect failed")
        start = GUARD + (room - nbytes if at_end else 0)
        self.address = base + start
        self.bytes = np.frombuffer(self._map, np.uint8, nbytes, start)
        self.bytes[:] = 0xFF


def place(values: np.ndarray, rng: np.random.Generator | None) -> tuple[Guarded, tuple[int, ...]]:
    """Store an array and return its memory and its strides in elements.

    Without a generator it is row-contiguous. With one it lies in a larger allocation, with axes in any order, as a
    view would; axes along which it does not change may get stride 0. What is not the array's stays NaN.
    """
    values = np.ascontiguousarray(values)
    if rng is None:
        memory = Guarded(values.nbytes, True)
        memory.bytes[:] = values.reshape(-1).view(np.uint8)
        return memory, _strides(values.shape, range(values.ndim))
    flat = [
        n > 1 and rng.random() < 0.5 and bool((values == values.take([0], i)).all())
        for i, n in enumerate(values.shape[:-1])
    ] + [False]
    kept = values[tuple(slice(0, 1) if f else slice(None) for f in flat)]
    order = [*rng.permutation(kept.ndim - 1), kept.ndim - 1] if rng.random() < 0.8 else rng.permutation(kept.ndim)
    roomy = [n + int(rng.integers(0, 3)) * (8 if i == kept.ndim - 1 else 1) for i, n in enumerate(kept.shape)]
    strides = _strides(roomy, order)
    # The allocation ends with the view's last element, so that one step too far is an access outside of it.
    count = 1 + sum((n - 1) * s for n, s in zip(kept.shape, strides, strict=True))
    memory = Guarded(count * values.itemsize, bool(rng.random() < 0.5))
    view = np.lib.stride_tricks.as_strided(
        memory.bytes.view(values.dtype), kept.shape, [s * values.itemsize for s in strides]
    )
    view[...] = kept
    return memory, tuple(0 if f else s for f, s in zip(flat, strides, strict=True))


def _strides(shape, order) -> tuple[int, ...]:
    """Strides of an array whose axes lie in memory in `order`, outermost first."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(list(order)):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)
