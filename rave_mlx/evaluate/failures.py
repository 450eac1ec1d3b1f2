"""The answers of a run that were wrong, a bounded number of them with their images."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.result import Result


@dataclass(frozen=True)
class Failure:
    """A question that was answered wrongly; `number` is its place in the run, from 1."""

    number: int
    item: Item
    result: Result


class Failures:
    """Keeps the wrong answers of which the model was surest.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int):
        self._most = most
        self._asked: deque[Item] = deque()
        self._kept: list[tuple[float, int, Failure]] = []
        self._number = self.count = 0

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, remembered until their answers come in the same order."""
        for item in items:
            self._asked.append(item)
            yield item

    def add(self, result: Result) -> None:
        """Take the next answer."""
        item, self._number = self._asked.popleft(), self._number + 1
        if result.right:
            return
        self.count += 1
        # Of equally sure ones the first stay.
        entry = (result.certainty, -self._number, Failure(self._number, item, result))
        if len(self._kept) < self._most:
            heapq.heappush(self._kept, entry)
        elif self._kept:
            heapq.heappushpop(self._kept, entry)

    @property
    def kept(self) -> list[Failure]:
        """The surest first."""
        return [failure for _, _, failure in sorted(self._kept, key=lambda each: each[:2], reverse=True)]
