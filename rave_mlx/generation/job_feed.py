"""Jobs that are made in a thread of their own: pages are rendered and cut while the model computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Generic, Self, TypeVar

import mlx.core as mx

T = TypeVar("T")


class _End:
    """Nothing comes any more."""


class JobFeed(Generic[T]):
    """Takes items from an iterable ahead of time, in a thread: `with JobFeed(items, 4) as feed: ...`.

    Args:
        items: taken one after the other; closed when the block is left early.
        ahead: how many are taken before they are asked for.
    """

    def __init__(self, items: Iterable[T], ahead: int):
        self._items = items
        self._queue: queue.Queue[T | _End | BaseException] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._over = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            # It may be waiting for room.
            self._drain()
            self._thread.join(0.02)

    @property
    def is_over(self) -> bool:
        """Whether the last item has been taken."""
        return self._over

    def take(self, *, wait: bool) -> T | None:
        """The next item; None where there is none, or none yet and `wait` is False.

        Raises:
            BaseException: what the iterable raised, in its place.
        """
        if self._over:
            return None
        try:
            found = self._queue.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(found, _End):
            self._over = True
            return None
        if isinstance(found, BaseException):
            self._over = True
            raise found
        return found

    def _work(self) -> None:
        try:
            iterator = iter(self._items)
            for item in iterator:
                if not self._put(item):
                    break
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            self._put(_End())
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the caller's
            self._put(error)
        finally:
            # MLX ends the process with an error when a thread leaves its streams behind.
            mx.clear_streams()

    def _put(self, item: T | _End | BaseException) -> bool:
        """Hand over an item when there is room; False when nobody wants it any more."""
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def _drain(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return
