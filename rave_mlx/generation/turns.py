"""Whose turn it is to compute: threads that use one model take turns, in the order in which they ask.

A lock of Python's own would go to whoever happens to run, which is nearly always the thread that gave it back.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock that is given out in the order of asking: `with turns: ...`; a thread that has it may ask again."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._asked: deque[int] = deque()
        self._depth = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._free:
            if not (self._depth and self._asked[0] == me):
                self._asked.append(me)
                self._free.wait_for(lambda: self._asked[0] == me and self._depth == 0)
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._free:
            self._depth -= 1
            if not self._depth:
                self._asked.popleft()
                self._free.notify_all()


COMPUTING = Turns()
"""Held by the scheduler during a step, and by a job that the model has to look at while it is made."""
