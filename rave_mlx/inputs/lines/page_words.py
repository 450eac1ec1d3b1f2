"""The words of a page in the order of reading, and the row and cell that each stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

CELL_GAP = 1.1
"""White between two cells of a row, in (somewhat reduced) heights of their words."""
_ROWS_BACK = 6
"""Rows above that a word may still belong to."""


@dataclass(frozen=True)
class PageWord:
    """A word and the box around it, in any unit: left, top, right, bottom."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def height(self) -> float:
        """Of its box."""
        return self.bottom - self.top


@dataclass(frozen=True)
class PlacedWord:
    """A word in its place; lengths in usual word heights of the page.

    Attributes:
        number: of the word in the list that was arranged.
        row: middle of its row, from the top.
        left, right: sides of its cell.
        height: of its cell.
        starts: 2 for the first word of a row, 1 for that of another cell, 0 for others.
    """

    number: int
    row: float
    left: float
    right: float
    height: float
    starts: int


def arrange(words: Sequence[PageWord]) -> list[PlacedWord]:
    """The words row by row from the top, each row from the left.

    Args:
        words: of a level page, in any order.
    """
    if not words:
        return []
    unit = max(1e-6, median(word.height for word in words))
    out: list[PlacedWord] = []
    for top, bottom, row in _rows(words):
        middle = (top + bottom) / 2 / unit
        for number, cell in enumerate(_cells(words, row, unit)):
            left, right = words[cell[0]].left, max(words[i].right for i in cell)
            height = max(words[i].height for i in cell)
            for place, i in enumerate(cell):
                starts = 0 if place else 1 if number else 2
                out.append(PlacedWord(i, middle, left / unit, right / unit, height / unit, starts))
    return out


def _rows(words: Sequence[PageWord]) -> list[tuple[float, float, list[int]]]:
    """Top, bottom and word numbers of each row. A word belongs to a row that it shares half its height with."""
    rows: list[tuple[float, float, list[int]]] = []
    for i in sorted(range(len(words)), key=lambda i: words[i].top + words[i].bottom):
        word = words[i]
        for top, bottom, row in reversed(rows[-_ROWS_BACK:]):
            if min(bottom, word.bottom) - max(top, word.top) > 0.5 * min(word.height, bottom - top):
                row.append(i)
                break
        else:
            rows.append((word.top, word.bottom, [i]))
    return sorted(rows, key=lambda row: row[0] + row[1])


def _cells(words: Sequence[PageWord], row: list[int], unit: float) -> list[list[int]]:
    """The word numbers of each cell of a row, from the left."""
    ordered = sorted(row, key=lambda i: words[i].left)
    cells = [[ordered[0]]]
    for before, after in pairwise(ordered):
        high = max(words[before].height, words[after].height)
        if words[after].left - words[before].right > CELL_GAP * max(0.8 * high, 0.6 * unit):
            cells.append([after])
        else:
            cells[-1].append(after)
    return cells
