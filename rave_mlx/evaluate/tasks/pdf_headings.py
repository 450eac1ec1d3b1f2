"""Headings of real pages: a PDF's own text layer says what stands where.

A heading is a line set clearly larger than most of the text. The page is drawn at 100 dots an inch and cut around the
heading, 400 pixels wide.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rave_mlx.errors import ModelError, UsageError
from rave_mlx.evaluate.item import Item

DPI = 100
"""Dots an inch at which pages are drawn; PDF counts in points, 72 an inch."""
WIDTH, HEIGHT = 400, 280
"""Most pixels of the part that is cut out."""
QUESTION = "What is the heading?"
_LARGER = 1.15
"""Type size of a heading at least, as a multiple of the usual one."""
_MARGIN = 12
"""Pixels left of and above the heading."""


@dataclass(frozen=True)
class _Line:
    """A line of text, its type size, and its box in points from the top left corner of the page."""

    text: str
    size: float
    left: float
    top: float
    right: float


def headings(path: Path, count: int) -> Iterator[Item]:
    """Questions for up to `count` headings of a PDF, one a page, spread over all of it.

    Raises:
        ModelError: without pypdfium2; UsageError: for a PDF that cannot be read, or without headings.
    """
    try:
        import pypdfium2
    except ImportError:
        raise ModelError("reading PDF pages needs the pdf extra: pip install 'rave-mlx[pdf]'") from None
    try:
        document = pypdfium2.PdfDocument(str(path))
    except pypdfium2.PdfiumError as error:
        raise UsageError(f"{path}: cannot be read as a PDF ({error})") from None
    pages = [_lines(document[i]) for i in range(len(document))]
    body = Counter(round(line.size, 1) for lines in pages for line in lines for _ in line.text)
    usual = max(body, key=lambda size: body[size], default=0.0)
    found = [(i, line) for i, lines in enumerate(pages) if (line := _heading(lines, usual)) is not None]
    if not found:
        raise UsageError(f"{path}: no headings in its text layer")
    chosen = found[:: max(1, len(found) // count)][:count]
    for number, (i, line) in enumerate(chosen, 1):
        tags = {"split": path.stem, "kind": "title"}
        yield Item(_cut(document[i], line), QUESTION, (line.text,), tags, progress=number / len(chosen))


def _heading(lines: list[_Line], usual: float) -> _Line | None:
    """The first line set larger than usual that fits the cut."""
    for line in lines:
        if line.size >= _LARGER * usual and (line.right - line.left) * DPI / 72 <= WIDTH - 2 * _MARGIN:
            return line
    return None


def _lines(page: Any) -> list[_Line]:
    """The lines of a page, in the order of its text layer."""
    import pypdfium2.raw as raw

    layer = page.get_textpage()
    height = page.get_height()
    out: list[_Line] = []
    start, text = 0, layer.get_text_range()
    for piece in text.replace("\r", "\n").split("\n"):
        begin, start = start, start + len(piece) + 1
        inked = [begin + i for i, c in enumerate(piece) if not c.isspace() and begin + i < layer.count_chars()]
        if not inked:
            continue
        boxes = [layer.get_charbox(i) for i in inked]
        # pypdfium2 has no method for the size of type.
        sizes = [float(raw.FPDFText_GetFontSize(layer.raw, ctypes.c_int(i).value)) for i in inked]
        top = height - max(box[3] for box in boxes)
        out.append(_Line(piece.strip(), max(sizes), min(b[0] for b in boxes), top, max(b[2] for b in boxes)))
    return out


def _cut(page: Any, line: _Line) -> Image.Image:
    """The page around a heading."""
    drawn: Image.Image = page.render(scale=DPI / 72).to_pil().convert("RGB")
    left = max(0, min(round(line.left * DPI / 72) - _MARGIN, drawn.width - WIDTH))
    top = max(0, round(line.top * DPI / 72) - _MARGIN)
    return drawn.crop((left, top, min(left + WIDTH, drawn.width), min(top + HEIGHT, drawn.height)))
