"""From the characters of a PDF page to its lines, in the order in which they are read.

Programs write a page in reading order, with its tables and columns, which geometry cannot tell apart for certain; so
the order of the file is kept. Only where it goes back up the page (a header that is written last, lines from the bottom
to the top) are its blocks sorted by their places, with recursive X-Y cuts (Nagy and Seth, 1984).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.images.pdf_characters import Characters

COLUMN_GAP = 1.3
"""Gap between words, in heights of the line, from which on it parts columns of a table."""
BLOCK_GAP = 0.55
"""Gap between lines, in heights of the line, from which on the next one begins a block."""
_RESIZED = 1.25
_WORD_GAP = 0.2
_SPACES = " \r\n\t\xa0"
_KINDS = {"R": "R", "AL": "R", "L": "L", "EN": "1", "AN": "1", "ES": "+", "CS": "+", "ET": "%"}
_LEFT_TO_RIGHT = re.compile(r"(?:1[1+%-]*)?L(?:[L1+%-]*[L1])?|%*1(?:[1+%]*1)?%*")
"""Stretches of a line from right to left that are read from left to right (as in UAX 9): Latin words, numbers."""
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")

Marks = list[tuple[int, str]]
"""Characters of a line with their places in `Characters`; -1 for the spaces that part words."""
Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A line of text, with its box in points, turned so that most text of the page is upright: from the ascenders to
    the descenders of its font."""

    characters: Marks
    left: float
    top: float
    right: float
    bottom: float

    def begins_block(self, before: Line) -> bool:
        """Whether a block begins with this line after `before`: a gap, another size of type, another place."""
        sizes = sorted((self.bottom - self.top, before.bottom - before.top))
        gap = self.top - before.bottom
        aside = self.left >= before.right or self.right <= before.left
        return aside or sizes[1] > _RESIZED * sizes[0] or not -sizes[0] < gap < BLOCK_GAP * sizes[0]


def split_lines(found: Characters) -> list[Line]:
    """The lines of a page in the order of its content, without what lies off the page."""
    cells = _upright(found.cells * np.tile(found.size, 2), found.direction)
    on_page: NDArray[np.bool_] = np.all((found.ink[:, :2] < 1) & (found.ink[:, 2:] > 0), axis=1)
    lines = []
    for match in re.finditer(r"[^\r\n]+", found.text):
        drawn = [i for i in range(*match.span()) if found.text[i] not in _SPACES and on_page[i]]
        if not drawn:
            continue
        box = cells[drawn]
        top, bottom = np.median(box[:, 1]), np.median(box[:, 3])
        height = float(bottom - top)
        kinds = [unicodedata.bidirectional(found.text[i]) for i in drawn]
        if kinds.count("R") + kinds.count("AL") > kinds.count("L"):
            tallest = float((box[:, 3] - box[:, 1]).max())
            characters = _from_right(drawn, found.text, cells, tallest)
        else:
            characters = _from_left(_sorted(drawn, cells), found, cells, height)
        lines.append(Line(characters, float(box[:, 0].min()), float(top), float(box[:, 2].max()), float(bottom)))
    return lines


def _upright(boxes: Boxes, direction: tuple[int, int]) -> Boxes:
    """Boxes in a frame in which text of a direction runs to the right, and its lines downwards."""
    across, down = direction
    corners = boxes.reshape(-1, 2, 2) @ np.array([(across, -down), (down, across)])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _sorted(drawn: Sequence[int], cells: Boxes) -> list[int]:
    """The characters of a line with its words from left to right: files may write the right end of a line first."""
    starts = [k for k, i in enumerate(drawn) if k == 0 or i != drawn[k - 1] + 1]
    words = [list(drawn[a:b]) for a, b in zip(starts, [*starts[1:], len(drawn)], strict=True)]
    if all(cells[b[0], 0] >= cells[a[0], 0] for a, b in pairwise(words)):
        return list(drawn)
    return [i for word in sorted(words, key=lambda word: float(cells[word[0], 0])) for i in word]


def _from_left(drawn: Sequence[int], found: Characters, cells: Boxes, height: float) -> Marks:
    """The characters of a line with what parts its words: a space, or a tab between columns."""
    out: Marks = []
    for index, before in zip(drawn, [drawn[0], *drawn], strict=False):
        if index not in (before, before + 1):
            gap = float(cells[index, 0] - cells[before, 2])
            # Where the file itself has a space, the gap may be that of a justified line.
            spaced = " " in found.text[before + 1 : index] and not found.added[before + 1 : index].any()
            least = 2 * COLUMN_GAP if spaced else COLUMN_GAP
            out.append((-1, "\t" if gap > least * height else " "))
        out.append((index, found.text[index]))
    return out


def _from_right(drawn: Sequence[int], text: str, cells: Boxes, height: float) -> Marks:
    """A line that is read from right to left, numbers and Latin words in it excepted.

    Files disagree on the order of such characters, so their places decide; brackets are named as they are drawn, which
    is mirrored.
    """
    order = sorted(drawn, key=lambda i: -(cells[i, 0] + cells[i, 2]))
    row: Marks = []
    for index, before in zip(order, [order[0], *order], strict=False):
        gap = cells[before, 0] - cells[index, 2]
        if gap > _WORD_GAP * height:
            row.append((-1, "\t" if gap > COLUMN_GAP * height else " "))
        row.append((index, text[index]))
    kinds = "".join(_KINDS.get(unicodedata.bidirectional(character), "-") for _, character in row)
    out = [(index, character.translate(_MIRRORED)) for index, character in row]
    for match in _LEFT_TO_RIGHT.finditer(kinds):
        out[slice(*match.span())] = row[slice(*match.span())][::-1]
    return out


def in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """The lines as the file has them, or, where it goes back up the page, block by block as they lie."""
    blocks: list[list[Line]] = []
    for line in lines:
        if blocks and not line.begins_block(blocks[-1][-1]):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    boxes = np.array([_around(block) for block in blocks]).reshape(-1, 4)
    if not _goes_back(boxes):
        return list(lines)
    return [line for i in _cut(boxes, np.arange(len(blocks))) for line in blocks[i]]


def _around(block: Sequence[Line]) -> tuple[float, float, float, float]:
    """The box around the lines of a block."""
    return (
        min(line.left for line in block),
        min(line.top for line in block),
        max(line.right for line in block),
        max(line.bottom for line in block),
    )


def _goes_back(boxes: Boxes) -> bool:
    """Whether a block lies above one that came before it."""
    left, top, right, bottom = boxes.T
    middle = (top + bottom) / 2
    for i in range(1, len(boxes)):
        over = (left[:i] < right[i]) & (right[:i] > left[i])
        if (over & (bottom[i] <= middle[:i]) & (middle[i] <= top[:i])).any():
            return True
    return False


def _cut(boxes: Boxes, chosen: NDArray[np.int64]) -> list[int]:
    """Indices of blocks in reading order: columns from left to right where a gap parts all of them, else by rows."""
    if len(chosen) < 2:
        return [int(i) for i in chosen]
    height = float(np.median(boxes[chosen, 3] - boxes[chosen, 1]))
    for axis, least in ((0, min(height, 12.0)), (1, -np.inf)):
        order = chosen[np.argsort(boxes[chosen, axis], kind="stable")]
        gaps = boxes[order[1:], axis] - np.maximum.accumulate(boxes[order, axis + 2])[:-1]
        widest = int(np.argmax(gaps))
        if gaps[widest] > least and (axis == 1 or min(widest + 1, len(order) - widest - 1) > 1):
            return _cut(boxes, order[: widest + 1]) + _cut(boxes, order[widest + 1 :])
    raise AssertionError("rows can always be cut")
