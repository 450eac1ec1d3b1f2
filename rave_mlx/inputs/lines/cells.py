"""Printed lines in the pieces that wide gaps part: the cells of a table's row, a label and the value beside it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.inputs.lines.ink import Ink, find_ink
from rave_mlx.inputs.lines.page_lines import MOST_PIXELS, LeveledPage, PageLine

_GAP = 1.3
"""White between two cells, in heights of the line; words of one text stand nearer together."""
_LEAST_MARKS = 6
"""Pixels of ink below which a piece is a speck."""
_LOW = 0.6
"""A piece lower than this share of its line (a dash, a full stop) is given the line's height."""


def split_into_cells(page: LeveledPage) -> tuple[LeveledPage, PageInk]:
    """A page whose lines are cells, and its ink.

    Args:
        page: with its lines found.
    """
    ink = PageInk.of(page.image)
    cells = [cell for line in page.lines for cell in _cells(ink, line)]
    return replace(page, lines=tuple(cells)), ink


class PageInk:
    """The ink of a page, which may be kept at a smaller scale.

    Attributes:
        ink: (height, width) marks.
        scale: pixels of `ink` for one of the page.
    """

    def __init__(self, ink: Ink, scale: float):
        self.ink, self.scale = ink, scale

    @classmethod
    def of(cls, image: Image.Image) -> PageInk:
        """The ink of a level page."""
        scale = min(1.0, math.sqrt(MOST_PIXELS / max(1, image.width * image.height)))
        if scale < 1:
            size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            image = image.resize(size, Image.Resampling.BOX)
        return cls(find_ink(image), scale)

    def within(self, box: tuple[float, float, float, float]) -> Ink:
        """The marks of a part of the page (left, top, right, bottom in the page's pixels)."""
        left, top, right, bottom = (max(0, round(side * self.scale)) for side in box)
        return self.ink[top:bottom, left:right]


def stretches(marks: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs of true values of a row of marks (n,), as [first, behind the last)."""
    edges = np.flatnonzero(np.diff(np.pad(marks, 1).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _cells(page: PageInk, line: PageLine) -> list[PageLine]:
    """The cells of a line, from the left; the line itself where it is one."""
    part = page.within(line.box)
    runs = stretches(np.asarray(part.any(axis=0))) if part.size else []
    pieces: list[tuple[int, int]] = []
    for first, behind in runs:
        if pieces and first - pieces[-1][1] <= _GAP * len(part):
            pieces[-1] = pieces[-1][0], behind
        else:
            pieces.append((first, behind))
    pieces = [piece for piece in pieces if part[:, piece[0] : piece[1]].sum() >= _LEAST_MARKS]
    if len(pieces) < 2:
        return [line]
    left, top = line.box[:2]
    out = []
    for first, behind in pieces:
        rows = np.flatnonzero(part[:, first:behind].any(axis=1))
        above, below = int(rows[0]), int(rows[-1]) + 1
        if below - above < _LOW * len(part):
            above, below = 0, len(part)
        sides = (
            left + first / page.scale,
            top + above / page.scale,
            left + behind / page.scale,
            top + below / page.scale,
        )
        out.append(replace(line, box=sides))
    return out
