"""Ctrl-C and a request to terminate, turned into a flag that the loop looks at where it can stop cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """Whether the run was asked to stop."""

    asked: bool = False


@contextmanager
def interruptible(*, alone: bool = True) -> Iterator[Interrupt]:
    """Within the block the first signal sets the flag; a second one stops at once (KeyboardInterrupt).

    A process that is not alone keeps dying of a request to terminate: that is what `mlx.launch` sends when another
    process is gone, and this one may be waiting for it inside MLX, where no flag is looked at.
    """
    flag = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals.
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.asked:
            raise KeyboardInterrupt
        flag.asked = True

    caught = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
