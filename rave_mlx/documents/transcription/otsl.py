"""OTSL, the table language of DocTags (arXiv 2305.03393): a token for every place of the grid.

`<fcel>` is a cell with content, `<ecel>` an empty one, `<ched>`, `<rhed>` and `<srow>` head a column, a row, a section;
`<lcel>` belongs to the cell at the left, `<ucel>` to the one above, `<xcel>` to both; `<nl>` ends a row.
"""

from __future__ import annotations

import re

from rave_mlx.documents.transcription.table import Cell, Table

_TOKEN = re.compile(r"<(fcel|ecel|ched|rhed|srow|lcel|ucel|xcel|nl)>")
_OWN = {"fcel": False, "ecel": False, "ched": True, "rhed": True, "srow": True}
"""Cells of their own, and whether they are headers."""


def read_otsl(text: str) -> Table:
    """The table that OTSL describes; a place that belongs to no cell is left empty.

    Args:
        text: between `<otsl>` and `</otsl>`, without a caption; what stands before the first token is not looked at.
    """
    rows: list[list[tuple[str, str]]] = [[]]
    pieces = _TOKEN.split(text)
    for token, content in zip(pieces[1::2], pieces[2::2], strict=True):
        if token == "nl":
            rows.append([])
        else:
            rows[-1].append((token, content.strip()))
    grid = [row for row in rows if row]
    cells = []
    for r, row in enumerate(grid):
        for c, (token, content) in enumerate(row):
            if token in _OWN:
                columns = _run([kind for kind, _ in row[c + 1 :]], ("lcel", "xcel"))
                below = [line[c][0] if c < len(line) else "" for line in grid[r + 1 :]]
                height = _run(below, ("ucel", "xcel"))
                cells.append(Cell(_clean(content), r, c, 1 + height, 1 + columns, _OWN[token]))
    return Table(tuple(cells))


def _run(kinds: list[str], belonging: tuple[str, ...]) -> int:
    """How many of the first kinds belong to the cell before them."""
    for count, kind in enumerate(kinds):
        if kind not in belonging:
            return count
    return len(kinds)


def _clean(content: str) -> str:
    """A cell's text without tags, as those of its place."""
    return re.sub(r"<[^<>]*>", "", content).strip()
