"""Tables: cells with the rows and columns they span, from and to HTML and Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says; may have several lines.
        row, column: where it begins, from 0.
        rows, columns: how many it covers.
        header: whether it names a column or a row.
    """

    text: str
    row: int
    column: int
    rows: int = 1
    columns: int = 1
    header: bool = False


@dataclass(frozen=True)
class Table:
    """A table; places that no cell covers are empty.

    Attributes:
        cells: by row, then column.
    """

    cells: tuple[Cell, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return (
            max((c.row + c.rows for c in self.cells), default=0),
            max((c.column + c.columns for c in self.cells), default=0),
        )

    @property
    def is_plain(self) -> bool:
        """Whether every cell covers one place, so that Markdown can say it."""
        return all(c.rows == c.columns == 1 for c in self.cells)

    def grid(self) -> list[list[str]]:
        """The texts by row and column; a merged cell stands where it begins, and is empty beyond."""
        rows, columns = self.size
        out = [[""] * columns for _ in range(rows)]
        for cell in self.cells:
            out[cell.row][cell.column] = cell.text
        return out

    def to_text(self) -> str:
        """A line a row, tabs between cells."""
        return "\n".join("\t".join(_one_line(text) for text in row) for row in self.grid())

    def to_markdown(self) -> str:
        """A pipe table; HTML where cells are merged, which Markdown has no way to say."""
        if not self.is_plain:
            return self.to_html()
        rows = [[_escape(text) for text in row] for row in self.grid()]
        if not rows:
            return ""
        head, *body = rows
        lines = [head, ["---"] * len(head), *body]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

    def to_html(self) -> str:
        """A `table` element."""
        rows, _ = self.size
        lines = []
        for row in range(rows):
            cells = "".join(_cell_html(c) for c in self.cells if c.row == row)
            lines.append(f"<tr>{cells}</tr>")
        return "<table>\n" + "\n".join(lines) + "\n</table>"


def place_cells(rows: Iterable[Sequence[Cell]]) -> Table:
    """Put cells into a table as a browser does: each at the first place of its row that is still free.

    Args:
        rows: cells of each row; their `row` and `column` are not looked at.
    """
    taken: set[tuple[int, int]] = set()
    placed = []
    for number, cells in enumerate(rows):
        column = 0
        for cell in cells:
            while (number, column) in taken:
                column += 1
            placed.append(Cell(cell.text, number, column, cell.rows, cell.columns, cell.header))
            taken.update((number + r, column + c) for r in range(cell.rows) for c in range(cell.columns))
            column += cell.columns
    return Table(tuple(placed))


_SEPARATOR = re.compile(r"\s*\|?\s*:?-{1,}:?\s*(\|\s*:?-{1,}:?\s*)*\|?\s*")


def is_separator(line: str) -> bool:
    """Whether a line is what stands between the head and the body of a Markdown table."""
    return "-" in line and "|" in line and _SEPARATOR.fullmatch(line) is not None


def from_markdown(lines: Sequence[str]) -> Table:
    """A table from the lines of a pipe table."""
    rows: list[list[Cell]] = []
    head = next((number for number, line in enumerate(lines) if is_separator(line)), 0)
    for number, line in enumerate(lines):
        if is_separator(line) and number == head:
            continue
        texts = [_unescape(text) for text in re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))]
        rows.append([Cell(text, 0, 0, header=number < head) for text in texts])
    return place_cells(rows)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    return "<br>".join(lines).replace("\\", "\\\\").replace("|", "\\|")


def _unescape(text: str) -> str:
    text = re.sub(r"\\([\\|])", r"\1", text.strip())
    return re.sub(r"\s*<br\s*/?>\s*", "\n", text)


def _cell_html(cell: Cell) -> str:
    tag = "th" if cell.header else "td"
    spans = "".join(
        f' {name}="{count}"' for name, count in (("rowspan", cell.rows), ("colspan", cell.columns)) if count > 1
    )
    text = html.escape(cell.text, quote=False).replace("\n", "<br>")
    return f"<{tag}{spans}>{text}</{tag}>"
