"""Who waits, in a fair order: clients take turns, and the requests of one client keep their order."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFullError(Exception):
    """Nobody else may wait."""


class FairQueue(Generic[T]):
    """A queue with a bound, for several threads.

    One client may take three quarters of the places at most, so that the others are not shut out.

    Args:
        places: how many items may wait.
    """

    def __init__(self, places: int):
        self._places = places
        self._most = max(1, places * 3 // 4)
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def put(self, client: str, item: T) -> None:
        """Stand in line.

        Raises:
            QueueFullError: when all places, or all that one client may have, are taken, or the queue is closed.
        """
        with self._changed:
            own = self._waiting.get(client)
            if self._closed or self._count() >= self._places or (own is not None and len(own) >= self._most):
                raise QueueFullError
            self._waiting.setdefault(client, deque()).append(item)
            self._changed.notify()

    def take(self) -> T | None:
        """The next item: waits for one; None when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            client, items = self._waiting.popitem(last=False)
            item = items.popleft()
            if items:  # behind all others
                self._waiting[client] = items
            return item

    def discard(self, item: T) -> bool:
        """Leave the line; False for an item that does not wait."""
        with self._changed:
            for client, items in self._waiting.items():
                if item in items:
                    items.remove(item)
                    if not items:
                        del self._waiting[client]
                    return True
        return False

    def close(self) -> None:
        """Take nobody else; those who wait are still served."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))
