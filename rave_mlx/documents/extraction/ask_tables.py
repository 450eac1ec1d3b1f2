"""Lists of objects by a model that answers questions: the rows of a table, which the model reads cell by cell.

Where the tables of a page are, and how many rows they have, is seen from white space (`tables_of_page`); nothing is
asked that could be invented. Which column is which field is told by the words in the header and by what the cells hold.
Where no table fits, the list is null with the reason.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from rave_mlx.documents.extraction.fields import Field
from rave_mlx.documents.extraction.plan import ReadPage
from rave_mlx.documents.extraction.regions import LETTER, turned_back
from rave_mlx.documents.extraction.results import Node, Value
from rave_mlx.documents.extraction.spelling import respelled
from rave_mlx.documents.extraction.tables_of_page import Cell, Table, find_tables
from rave_mlx.documents.extraction.values import Hints, read_value
from rave_mlx.generation.job import Answer
from rave_mlx.inputs.lines.page_lines import LeveledPage

NAMED = 0.6
"""How well at least one header must match the name of a field."""
FITS = 0.45
"""How well headers and cells must match the fields of a list, on average."""
_MOST_COLUMNS = 7
_PAPER = (160, 48)
"""Least width and height in pixels of the paper on which a cell is shown."""
_MARGIN = 12


class AskedTable:
    """A table of a page while its cells are read.

    Args:
        field: the list that it may hold.
        table: where its cells are.
        page: what it is on.
    """

    def __init__(self, field: Field, table: Table, page: ReadPage):
        self.field, self.table, self.page = field, table, page
        self._read: dict[tuple[int, int], tuple[str, float]] = {}

    def take(self, row: int, column: int, answer: Answer) -> None:
        """What was read in a cell; nothing where the answer did not come to its end."""
        if answer.error is None and answer.ending == "stop":
            self._read[row, column] = " ".join(answer.text.split()), answer.certainty

    def text(self, row: int, column: int) -> str:
        """What a cell says; empty where it is."""
        return self._read.get((row, column), ("", 0.0))[0]

    def value(self, row: int, column: int | None, field: Field, hints: Hints) -> Value:
        """A cell as a value of a field; None stands for a field that the table does not have."""
        box = None if column is None else self.table.rows[row][column]
        if column is None or box is None or (row, column) not in self._read:
            return Value()
        raw, certainty = self._read[row, column]
        page = self.page
        part = page.fractions(turned_back(box, page.turned, page.size))
        text, place = respelled(raw, page.text, part), page.frame.box(part)
        try:
            value, problem = read_value(text, field, hints), None
        except ValueError as error:
            value, problem = None, str(error)
        return Value(value, certainty, page.frame.number, place, raw, problem)

    def columns(self, hints: Hints) -> tuple[float, list[int | None]]:
        """How well the table fits the list, and the column of each of its fields."""
        fields = self.field.item.fields if self.field.item is not None else ()
        scores = np.array([[self._score(field, c, hints) for c in range(self.table.columns)] for field in fields])
        named = np.array([[_alike(field, self.text(0, c)) for c in range(self.table.columns)] for field in fields])
        choices = [*range(self.table.columns), *([None] * max(0, len(fields) - self.table.columns))]
        best: tuple[float, list[int | None]] = (-1.0, [])
        for chosen in itertools.permutations(choices, len(fields)):
            total = sum(scores[i, c] for i, c in enumerate(chosen) if c is not None) / len(fields)
            if total > best[0]:
                best = float(total), list(chosen)
        sure = max((named[i, c] for i, c in enumerate(best[1]) if c is not None), default=0.0)
        return (best[0] if sure >= NAMED else 0.0), best[1]

    def _score(self, field: Field, column: int, hints: Hints) -> float:
        """How well a column fits a field: half by its header, half by what its cells hold."""
        cells = [self.text(row, column) for row in range(1, len(self.table.rows))]
        cells = [cell for cell in cells if cell]
        if field.kind == "string":
            fits = [not re.fullmatch(r"[\W\d]*", cell) or "date" in field.label for cell in cells]
        else:
            fits = [_is_value(cell, field, hints) for cell in cells]
        return 0.5 * _alike(field, self.text(0, column)) + 0.5 * (sum(fits) / len(fits) if fits else 0.0)


def tables_for(field: Field, leveled: LeveledPage, page: ReadPage) -> list[AskedTable]:
    """The tables of a page that have as many columns as a list has fields.

    Args:
        field: the list.
        leveled: the page, its lines known.
        page: the same, for its boxes.
    """
    item = field.item
    if item is None or item.kind != "object" or not all(inner.is_leaf for inner in item.fields):
        return []
    least = max(2, min(len(item.fields), 3))
    tables = find_tables(leveled, columns=least)
    return [AskedTable(field, table, page) for table in tables if table.columns <= _MOST_COLUMNS]


def cell_images(asked: AskedTable, leveled: LeveledPage) -> Iterator[tuple[int, int, Image.Image]]:
    """Row, column and picture of every cell: what is printed on it, in the middle of a sheet of its paper."""
    cells = [cell for row in asked.table.rows for cell in row if cell is not None]
    height = float(np.median([cell[3] - cell[1] for cell in cells]))
    scale = min(2.0, 1.35 * LETTER / height)
    for number, row in enumerate(asked.table.rows):
        for column, cell in enumerate(row):
            if cell is not None:
                yield number, column, _on_paper(leveled.image, cell, scale, 0.25 * height)


def list_of_tables(field: Field, tables: Sequence[AskedTable], hints: Hints) -> Node:
    """The rows of the tables that fit a list best, in the order of the pages; null with the reason where none does.

    Args:
        field: the list.
        tables: those that may hold it, read.
        hints: how the document writes numbers and dates.
    """
    item = field.item
    if item is None or item.kind != "object" or not all(inner.is_leaf for inner in item.fields):
        return Node(leaf=Value(problem="a list that is no table of plain columns is not asked for; use a larger model"))
    scored = [(*table.columns(hints), table) for table in tables]
    best = max((score for score, _, _ in scored), default=0.0)
    if best < FITS:
        reason = "no table on the pages has such columns" if tables else "no table is seen on the pages"
        return Node(leaf=Value(problem=reason))
    chosen: dict[int, tuple[list[int | None], AskedTable]] = {}
    for score, columns, table in scored:
        # One table a page: that of the first page, and its like on the pages that follow.
        if score == max(s for s, _, t in scored if t.page.frame.number == table.page.frame.number) and score >= FITS:
            chosen.setdefault(table.page.frame.number, (columns, table))
    items = [row for columns, table in chosen.values() for row in _rows(item, columns, table, hints)]
    most = field.limits.max_items
    return Node(items=tuple(items if most is None else items[:most]))


def _rows(item: Field, columns: Sequence[int | None], table: AskedTable, hints: Hints) -> Iterator[Node]:
    """The rows of a table below its header; one of which most is missing is no item."""
    for row in range(1, len(table.table.rows)):
        values = [table.value(row, column, field, hints) for field, column in zip(item.fields, columns, strict=True)]
        if sum(value.box is not None for value in values) * 2 > len(values):
            yield Node(fields={field.name: Node(leaf=v) for field, v in zip(item.fields, values, strict=True)})


def _alike(field: Field, header: str) -> float:
    """How much a header is like the name of a field, from 0 to 1: "Qty" is short for "quantity"."""
    said = re.sub(r"[\W_]+", "", header.casefold())
    if not said:
        return 0.0
    names = [re.sub(r"[\W_]+", "", name.casefold()) for name in (field.label, field.name, field.description)]
    return max((_similar(name, said) for name in names if name), default=0.0)


def _similar(name: str, said: str) -> float:
    if name == said:
        return 1.0
    if said in name or name in said:
        return 0.85
    letters = iter(name)
    if said[0] == name[0] and len(said) >= 3 and all(letter in letters for letter in said):
        return 0.8
    return 0.7 * difflib.SequenceMatcher(None, name, said).ratio()


def _is_value(text: str, field: Field, hints: Hints) -> bool:
    try:
        return read_value(text, field, hints) is not None
    except ValueError:
        return False


def _on_paper(image: Image.Image, cell: Cell, scale: float, margin: float) -> Image.Image:
    assert cell is not None
    box = (
        max(0.0, cell[0] - margin), max(0.0, cell[1] - margin),
        min(image.width, cell[2] + margin), min(image.height, cell[3] + margin),
    )  # fmt: skip
    size = max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale))
    part = image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0).convert("RGB")
    edge = np.asarray(part)[[0, -1]].reshape(-1, 3)
    color = tuple(int(level) for level in np.median(edge, axis=0))
    sheet = Image.new("RGB", (max(_PAPER[0], size[0] + 2 * _MARGIN), max(_PAPER[1], size[1] + 2 * _MARGIN)), color)
    sheet.paste(part, (_MARGIN, (sheet.height - size[1]) // 2))
    return sheet
