"""Pages that models write in HTML, into blocks: QwenVL HTML, Chandra's layout blocks, tables.

Boxes stand in `data-bbox`, as "x0 y0 x1 y1" or "[x0, y0, x1, y1]"; they are handed out as they are written, in whatever
they count. What is not closed is read as a browser would.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from rave_mlx.documents.transcription.blocks import Block, Box, Kind
from rave_mlx.documents.transcription.table import Cell, Table, place_cells

_KINDS: dict[str, Kind] = {
    "p": "paragraph",
    "div": "paragraph",
    "section": "paragraph",
    "address": "paragraph",
    "blockquote": "paragraph",
    "li": "list item",
    "pre": "code",
    "figcaption": "caption",
    "header": "page header",
    "footer": "page footer",
}
_LABELS: dict[str, Kind] = {
    "caption": "caption",
    "footnote": "footnote",
    "equation-block": "formula",
    "formula": "formula",
    "page-header": "page header",
    "page-footer": "page footer",
    "image": "picture",
    "figure": "picture",
    "picture": "picture",
    "section-header": "heading",
    "title": "title",
    "list-item": "list item",
    "code-block": "code",
    "table": "table",
}
"""What `data-label` and `class` of an element, and the categories of other formats, say it is."""
_LARGEST_SPAN = 1000


def read_html(text: str) -> list[Block]:
    """The blocks of a page in HTML."""
    reader = _Reader(text)
    reader.feed(text)
    reader.close()
    reader.flush(len(text))
    reader.end_table(len(text))
    return reader.blocks


def read_table(text: str) -> Table:
    """The first table of an HTML text; one without cells where there is none."""
    return next((block.table for block in read_html(text) if block.table is not None), Table(()))


def labelled(label: str) -> Kind | None:
    """What a label like "Section-Header" says of a block."""
    return _LABELS.get(label.strip().lower().replace("_", "-").replace(" ", "-"))


@dataclass
class _Open:
    """An element that is open."""

    tag: str
    kind: Kind | None
    level: int
    box: Box | None


@dataclass
class _OpenTable:
    """A table that is being read."""

    start: int
    box: Box | None
    rows: list[list[Cell]] = field(default_factory=list)
    cell: tuple[bool, int, int] | None = None
    text: list[str] = field(default_factory=list)
    caption: list[str] | None = None


class _Reader(HTMLParser):
    """Collects blocks while the elements go by."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._starts = [0, *(m.end() for m in re.finditer("\n", source))]
        self._open: list[_Open] = []
        self._lists: list[list[int]] = []
        self._text: list[str] = []
        self._begin = 0
        self._tables: list[_OpenTable] = []
        self._skipped = 0

    @property
    def _position(self) -> int:
        line, column = self.getpos()
        return self._starts[min(line, len(self._starts)) - 1] + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in ("style", "script", "head"):
            self._skipped += tag != "head"
        elif self._tables and tag != "table":
            self._start_in_table(tag, values)
        elif tag == "table":
            self._start_table(values)
        elif tag == "br":
            self._text.append("\n")
        elif tag == "img":
            self._picture(values)
        elif tag in ("ul", "ol"):
            self.flush(self._position)
            self._lists.append([0 if tag == "ol" else -1])
        elif tag == "math":
            self._text.append("$$" if values.get("display") == "block" else "$")
            self._open.append(_Open("math:" + ("$$" if values.get("display") == "block" else "$"), None, 0, None))
        elif tag == "input":
            checked = "checked" in values
            self._text.append("☑ " if checked else "☐ " if values.get("type") in ("checkbox", "radio") else "")
        elif tag in _KINDS or re.fullmatch(r"h[1-6]", tag):
            self._start_block(tag, values)

    def _start_block(self, tag: str, values: dict[str, str]) -> None:
        self.flush(self._position)
        heading = re.fullmatch(r"h([1-6])", tag)
        named = labelled(values.get("data-label", "")) or labelled(values.get("class", ""))
        if tag == "li" and self._lists and self._lists[-1][0] >= 0:
            self._lists[-1][0] += 1
        kind = "heading" if heading else _KINDS[tag] if tag not in ("div", "p", "section") or not named else named
        self._open.append(_Open(tag, kind, int(heading[1]) if heading else 0, read_box(values.get("data-bbox"))))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script"):
            self._skipped = max(0, self._skipped - 1)
        elif tag == "table":
            self.end_table(self._position + len("</table>"))
        elif self._tables:
            self._end_in_table(tag)
        elif tag in ("ul", "ol"):
            self.flush(self._position)
            if self._lists:
                self._lists.pop()
        elif tag == "math":
            mark = next((o.tag.removeprefix("math:") for o in reversed(self._open) if o.tag.startswith("math:")), None)
            if mark is not None:
                self._text.append(mark)
                self._close("math:" + mark)
        elif any(o.tag == tag for o in self._open):
            self.flush(self._position)
            self._close(tag)

    def _close(self, tag: str) -> None:
        """Close the innermost element of a name and what is open in it."""
        while self._open:
            if self._open.pop().tag == tag:
                return

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self._tables:
            table = self._tables[-1]
            target = table.caption if table.caption is not None else table.text if table.cell is not None else None
            if target is not None:
                target.append(data)
            return
        if not self._text and data.strip():
            self._begin = self._position
        self._text.append(data)

    def flush(self, stop: int) -> None:
        """End the block at hand."""
        raw, self._text = "".join(self._text), []
        blocks = [o for o in self._open if not o.tag.startswith("math:")]
        owner = blocks[-1] if blocks else _Open("", "paragraph", 0, None)
        kind = owner.kind or "paragraph"
        text = raw.strip("\n") if kind == "code" else _squeeze(raw)
        if not text.strip():
            return
        box = next((o.box for o in reversed(blocks) if o.box is not None), None)
        labels = [o.kind for o in blocks if o.kind not in (None, "paragraph", "table")]
        if kind == "paragraph" and labels:
            kind = labels[-1]  # the p in a div that is labelled a caption
        if kind == "formula":
            text = text.strip("$ \n")
        level = owner.level or (2 if kind == "heading" else 1 if kind == "title" else 0)
        marker, depth = "-", 0
        if kind == "list item":
            depth = max(0, len(self._lists) - 1)
            marker = f"{self._lists[-1][0]}." if self._lists and self._lists[-1][0] > 0 else "-"
        span = (min(self._begin, stop), stop)
        self.blocks.append(Block(kind, text, level=level or depth, marker=marker, box=box, span=span))

    def _picture(self, values: dict[str, str]) -> None:
        self.flush(self._position)
        box = read_box(values.get("data-bbox"))
        box = box or next((o.box for o in reversed(self._open) if o.box is not None), None)
        text = _squeeze(values.get("alt", ""))
        if box is not None or text:
            self.blocks.append(Block("picture", text, box=box, span=(self._position, self._position + 1)))

    def _start_table(self, values: dict[str, str]) -> None:
        if self._tables and self._tables[-1].cell is not None:
            self._tables.append(_OpenTable(self._position, None))  # its text goes into the cell around it
            return
        self.flush(self._position)
        box = read_box(values.get("data-bbox"))
        box = box or next((o.box for o in reversed(self._open) if o.box is not None), None)
        self._tables.append(_OpenTable(self._position, box))

    def _start_in_table(self, tag: str, values: dict[str, str]) -> None:
        table = self._tables[-1]
        if tag == "tr":
            self._end_cell()
            table.rows.append([])
        elif tag in ("td", "th"):
            self._end_cell()
            table.rows = table.rows or [[]]
            table.cell = (tag == "th", _span(values.get("rowspan")), _span(values.get("colspan")))
        elif tag == "caption":
            table.caption = []
        elif tag in ("br", "p", "li", "div"):
            table.text.append("\n")
        elif tag == "math":
            table.text.append("$")
        elif tag == "input":
            table.text.append("☑ " if "checked" in values else "☐ ")
        elif tag == "img" and values.get("alt"):
            table.text.append(values["alt"])

    def _end_in_table(self, tag: str) -> None:
        table = self._tables[-1]
        if tag in ("td", "th", "tr"):
            self._end_cell()
        elif tag == "caption" and table.caption is not None:
            text = _squeeze("".join(table.caption))
            table.caption = None
            if text:
                self.blocks.append(Block("caption", text, span=(table.start, self._position)))
        elif tag == "math":
            table.text.append("$")

    def _end_cell(self) -> None:
        table = self._tables[-1]
        if table.cell is not None:
            header, rows, columns = table.cell
            table.rows[-1].append(Cell(_squeeze("".join(table.text)), 0, 0, rows, columns, header))
        table.cell, table.text = None, []

    def end_table(self, stop: int) -> None:
        """End the table at hand, where there is one."""
        if not self._tables:
            return
        self._end_cell()
        table = self._tables.pop()
        placed = place_cells(table.rows)
        if self._tables:
            self._tables[-1].text.append("\n" + placed.to_text() + "\n")
        elif placed.cells:
            block = Block("table", placed.to_text(), table=placed, box=table.box, span=(table.start, stop))
            self.blocks.append(block)


def read_box(text: str | None) -> Box | None:
    """Four numbers as they are written; None for anything else."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text or "")
    if len(numbers) != 4:
        return None
    sides = [float(number) for number in numbers]
    left, right = sorted((sides[0], sides[2]))
    top, bottom = sorted((sides[1], sides[3]))
    return left, top, right, bottom


def _span(text: str | None) -> int:
    """How many rows or columns a cell covers; what makes no sense is one."""
    return min(int(text), _LARGEST_SPAN) if text and text.isdecimal() and len(text) < 6 and int(text) > 0 else 1


def _squeeze(text: str) -> str:
    """Text with single spaces, lines kept."""
    return "\n".join(line for line in (" ".join(part.split()) for part in text.split("\n")) if line)
