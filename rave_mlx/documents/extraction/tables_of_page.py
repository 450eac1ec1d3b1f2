"""Tables of a page, found from white space alone: rows of print whose parts stand below each other in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rave_mlx.inputs.lines.ink import Ink, find_ink
from rave_mlx.inputs.lines.page_lines import LeveledPage, PageLine

Box = tuple[float, float, float, float]
Cell = Box | None

_GAP = 0.9
"""White between two cells of a row, in heights of a line; words of one cell stand closer."""
_ROW_DISTANCE = 3.4
"""Distance of two rows of a table, from top to top, in heights of a line; more ends the table."""
_ALIGNED = 0.6
"""How far the edges of cells of one column may differ, in heights of a line."""


@dataclass(frozen=True)
class Table:
    """A table of a page, boxes in pixels of the leveled page.

    Attributes:
        rows: from top to bottom, each with a box or None for every column. The first one is the header where there is
            one.
    """

    rows: tuple[tuple[Cell, ...], ...]

    @property
    def columns(self) -> int:
        """How many columns it has."""
        return len(self.rows[0])

    @property
    def box(self) -> Box:
        """Around all cells."""
        cells = [cell for row in self.rows for cell in row if cell is not None]
        left, top = min(c[0] for c in cells), min(c[1] for c in cells)
        return left, top, max(c[2] for c in cells), max(c[3] for c in cells)


def find_tables(page: LeveledPage, *, columns: int = 2) -> list[Table]:
    """The tables of a page from top to bottom, each with at least two rows.

    Args:
        page: its lines are known.
        columns: how many a table has at least.
    """
    if len(page.lines) < 2:
        return []
    ink = find_ink(page.image)
    height = float(np.median([line.height for line in page.lines]))
    rows = [[cell for line in row for cell in _cells(ink, line, height)] for row in _rows(page.lines)]
    found: list[Table] = []
    start = 0
    while start < len(rows):
        stop = _table_end(rows, start, height, columns)
        if stop - start >= 2:
            found.append(_arranged(rows[start:stop], height))
            start = stop
        else:
            start += 1
    return [table for table in found if table.columns >= columns]


def _rows(lines: Sequence[PageLine]) -> list[list[PageLine]]:
    """Lines that stand beside each other, from left to right; such rows from top to bottom."""
    rows: list[list[PageLine]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        if rows and (line.box[1] + line.box[3]) / 2 < rows[-1][0].box[3]:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.box[0]) for row in rows]


def _cells(ink: Ink, line: PageLine, height: float) -> list[Box]:
    """The parts of a line that stand apart."""
    left, top, right, bottom = (round(side) for side in line.box)
    across = np.flatnonzero(ink[top:bottom, left:right].any(axis=0))
    if not len(across):
        return []
    breaks = np.flatnonzero(np.diff(across) > _GAP * height)
    starts = [int(across[0]), *(int(across[b + 1]) for b in breaks)]
    stops = [*(int(across[b]) + 1 for b in breaks), int(across[-1]) + 1]
    return [(left + a, float(top), left + b, float(bottom)) for a, b in zip(starts, stops, strict=True)]


def _table_end(rows: Sequence[list[Box]], start: int, height: float, columns: int) -> int:
    """The row behind the last one that continues the table which begins at `start`."""
    stop = start
    while stop < len(rows) and len(rows[stop]) >= columns:
        if stop > start:
            apart = rows[stop][0][1] - rows[stop - 1][0][1] > _ROW_DISTANCE * height
            if apart or not _same_columns(rows[stop - 1], rows[stop], height):
                break
        stop += 1
    return stop


def _same_columns(upper: Sequence[Box], lower: Sequence[Box], height: float) -> bool:
    """Whether most cells of the shorter of two rows stand in columns of the other."""
    shorter, longer = sorted((upper, lower), key=len)
    shared = sum(any(_aligned(cell, other, height) for other in longer) for cell in shorter)
    return shared >= max(2, len(shorter) - 1)


def _aligned(cell: Box, other: Box, height: float) -> bool:
    """Whether two cells have their left edge, right edge or middle in common."""
    near = _ALIGNED * height
    sides = (cell[0] - other[0], cell[2] - other[2], (cell[0] + cell[2] - other[0] - other[2]) / 2)
    return min(abs(side) for side in sides) <= near


def _arranged(rows: Sequence[list[Box]], height: float) -> Table:
    """Rows with their cells put into columns: parts of the rows that stand above each other."""
    spans: list[tuple[float, float]] = []
    for left, _, right, _ in sorted(cell for row in rows for cell in row):
        if spans and left <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], right)
        else:
            spans.append((left, right))
    table = []
    for row in rows:
        placed: list[Cell] = [None] * len(spans)
        for cell in row:
            number = next(i for i, (left, right) in enumerate(spans) if left <= cell[0] and cell[2] <= right)
            before = placed[number]
            placed[number] = cell if before is None else (before[0], before[1], cell[2], max(before[3], cell[3]))
        table.append(tuple(placed))
    return Table(tuple(table))
