"""Memory of a GPU while a model computes: kept in place on a Mac, and not hoarded between passes.

macOS moves what a GPU does not use just now out of its reach, weights between two tokens too. A process may ask for
memory to be kept ("wired"), up to the size that the device recommends; it is asked for while answers are written or a
model is trained, and given up afterwards, so that a program that waits takes nothing from others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from rave_mlx import backend

CLEAR_EVERY = 256
"""Tokens, or passes over several answers, after which freed buffers are given back."""
_lock = threading.Lock()
_holders = 0
_before = 0


@contextmanager
def wired_memory() -> Iterator[None]:
    """A block in which what the GPU of a Mac uses stays in its reach; blocks may be nested and overlap in threads.

    What is still being computed at the end of the last block is waited for. Elsewhere nothing happens.
    """
    if backend.current().kind != "metal":
        yield
        return
    _hold()
    try:
        yield
    finally:
        _let_go()


def clear_cache() -> None:
    """Give back the buffers that MLX keeps for later use: a chunk of a prompt needs others than a written token.

    On a CPU there are none.
    """
    if backend.current().kind != "cpu":
        mx.clear_cache()


def _hold() -> None:
    global _holders, _before  # noqa: PLW0603  # the limit is one of the process
    with _lock:
        _holders += 1
        if _holders == 1:
            _before = mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))


def _let_go() -> None:
    global _holders  # noqa: PLW0603
    with _lock:
        _holders -= 1
        if _holders == 0:
            mx.synchronize()
            mx.set_wired_limit(_before)
