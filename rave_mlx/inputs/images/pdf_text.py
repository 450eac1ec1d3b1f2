"""The text layer of a PDF page: what the file itself says stands there, and where.

A digital PDF knows its text; a scan does not, unless someone has laid recognised text under it. Both are read here in
reading order, with the box of every character on the page as `render_page` draws it. A layer whose fonts do not tell
which characters their glyphs are is recognised as unusable.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.images.pdf import OpenPdf
from rave_mlx.inputs.images.pdf_characters import Characters, read_characters
from rave_mlx.inputs.images.pdf_lines import in_reading_order, split_lines

UNUSABLE = 0.2
"""Share of characters that no one knows from which on a text layer is of no use."""

Box = tuple[float, float, float, float]
Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PageText:
    """The text of a page in reading order.

    Words are parted by a space, by a tab where the gap is that of a table's columns; lines by a line feed, and an empty
    line stands where a paragraph or another block begins.

    Attributes:
        text: all of it; empty for a scan.
        boxes: (n, 4) left, top, right, bottom of each character in fractions of the upright page, from 0 to 1; NaN for
            what parts words.
        hidden: (n,) marks of characters that are not painted, as those under a scan.
        unknown: share of the page's characters of which the file does not tell what they are.
    """

    text: str
    boxes: NDArray[np.float64]
    hidden: NDArray[np.bool_]
    unknown: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether there is text, and it can be trusted to be the page's."""
        return bool(self.text) and self.unknown < UNUSABLE

    def words(self) -> Iterator[Span]:
        """Where each word begins and ends in `text`."""
        return _between(self.text, " \t\n")

    def lines(self) -> Iterator[Span]:
        """Where each line begins and ends in `text`."""
        return _between(self.text, "\n")

    def box(self, start: int, stop: int) -> Box | None:
        """The box around characters [start, stop); None where there is nothing but space."""
        found = self.boxes[start:stop]
        found = found[np.isfinite(found[:, 0])]
        if not len(found):
            return None
        left, top = found[:, :2].min(axis=0).tolist()
        right, bottom = found[:, 2:].max(axis=0).tolist()
        return left, top, right, bottom

    def inside(self, part: Box) -> Span | None:
        """From the first to the last character whose middle lies in a part of the page; None where there is none.

        Args:
            part: left, top, right, bottom in fractions of the page.
        """
        x, y = (self.boxes[:, :2] + self.boxes[:, 2:]).T / 2
        found = np.flatnonzero((x >= part[0]) & (x <= part[2]) & (y >= part[1]) & (y <= part[3]))
        return (int(found[0]), int(found[-1]) + 1) if len(found) else None

    def boxes_of_lines(self, start: int, stop: int) -> list[Box]:
        """One box for each line that characters [start, stop) stand on."""
        inside = ((max(a, start), min(b, stop)) for a, b in self.lines() if a < stop and b > start)
        return [box for span in inside if (box := self.box(*span)) is not None]


def read_page_text(document: OpenPdf | bytes, page: int) -> PageText:
    """Read the text layer of one page of a PDF; empty for a page without one.

    Args:
        document: an open one, or the bytes of a file.
        page: from 1.

    Raises:
        ImageError: for a page that is not there, or damaged; for bytes, as `OpenPdf`.
    """
    if isinstance(document, bytes):
        with OpenPdf(document) as opened:
            return read_page_text(opened, page)
    with document.page(page) as found:
        characters = read_characters(found)
    return page_text(characters)


def page_text(found: Characters) -> PageText:
    """The characters of a page put into lines, in reading order."""
    lines = in_reading_order(split_lines(found))
    text: list[str] = []
    index: list[int] = []
    for line, following in zip_longest(lines, lines[1:]):
        for position, character in line.characters:
            text.append(character)
            index.append(position)
        if following is not None:
            ends = "\n\n" if following.begins_block(line) else "\n"
            text += ends
            index += [-1] * len(ends)
    at = np.array(index, np.int64)
    if not len(at):
        return PageText("", np.zeros((0, 4)), np.zeros(0, bool), 0.0)
    boxes = np.where((at >= 0)[:, None], found.ink[at].clip(0, 1), np.nan)
    painted = [i for i in index if i >= 0]
    unknown = [found.unmapped[i] or _is_unknown(found.text[i]) for i in painted]
    return PageText("".join(text), boxes, found.hidden[at] & (at >= 0), float(np.mean(unknown)))


def _is_unknown(character: str) -> bool:
    """Whether a character stands for a glyph that nobody knows: U+FFFD, private use, unassigned."""
    return character == "\ufffd" or unicodedata.category(character) in ("Co", "Cn", "Cc")


def _between(text: str, marks: str) -> Iterator[Span]:
    """The stretches of a text between marks, without empty ones."""
    start = 0
    for index, character in enumerate(text):
        if character in marks:
            if index > start:
                yield start, index
            start = index + 1
    if len(text) > start:
        yield start, len(text)
