"""Blocks of code that ask for a number of BLAS threads, while a BLAS has one number for the whole process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class _Block:
    """One running block. Told apart by identity: several may ask for the same number."""

    count: int


class ThreadBlocks:
    """The running blocks of one library, in the order in which they were entered, from any Python thread.

    If each block put back what it found, two that overlap would leave the number of the first for good: the second
    found it, and ends last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[_Block] = []
        self._before = 0

    @contextmanager
    def enter(self, count: int, threads: Callable[[], int], set_threads: Callable[[int], None]) -> Iterator[None]:
        """`count` threads while the block runs; then what the latest block still running asked for.

        Args:
            count: threads that the block asks for.
            threads: the library's number now, which is put back when no block is left.
            set_threads: sets the library's number; an error of it ends the block before it starts.
        """
        block = _Block(count)
        with self._lock:
            before = threads() if not self._running else self._before
            set_threads(count)
            self._before = before
            self._running.append(block)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(block)
                set_threads(self._running[-1].count if self._running else self._before)
