"""The printed lines of a page in reading order: where they stand, told from white space alone.

Rows of ink are lines; a white gutter between two blocks of running text makes them columns, which are read one after
the other. A gutter in a table or a form makes no columns: its rows are read across (recursive XY-cut, Nagy and Seth
1984, with that exception).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.inputs.lines.ink import Ink, find_ink, letter_height, skew

Box = tuple[float, float, float, float]
"""left, top, right, bottom."""

_LEVEL = 0.15
"""Degrees of skew below which a page is left as it is."""
MOST_PIXELS = 4_000_000
"""Larger pages are looked at in this size."""
_COLUMN_WIDTH, _COLUMN_FILL, _COLUMN_LINES = 11.0, 0.7, 3
"""What makes a block a column of text: its width in line heights, how much of it its lines fill, how many there are."""
_TALL, _BLOCK_GAP = 1.7, 1.5
"""A band so many line heights tall is looked at for blocks side by side, with so much white between them."""
_APART = 6.0
"""Width in line heights that is enough where the lines of two blocks do not stand at the same heights."""


@dataclass(frozen=True)
class PageLine:
    """One printed line.

    Attributes:
        box: left, top, right, bottom of its ink in pixels of the leveled page.
        column: lines with the same number stand below each other in one block or column.
    """

    box: Box
    column: int

    @property
    def height(self) -> float:
        """Of its ink, in pixels."""
        return self.box[3] - self.box[1]

    @property
    def width(self) -> float:
        """Of its ink, in pixels."""
        return self.box[2] - self.box[0]


@dataclass(frozen=True)
class LeveledPage:
    """A page whose lines are level, and where they stand.

    Attributes:
        image: the page, turned back by `turned`.
        turned: degrees by which it leaned.
        lines: its lines in reading order.
    """

    image: Image.Image
    turned: float
    lines: tuple[PageLine, ...]

    def original(self, box: Box) -> Box:
        """The upright box, in pixels of the page as it was, around a box of the leveled page."""
        if not self.turned:
            return box
        angle = math.radians(self.turned)
        middle_x, middle_y = self.image.width / 2, self.image.height / 2
        corners = [(x - middle_x, y - middle_y) for x in (box[0], box[2]) for y in (box[1], box[3])]
        xs = [middle_x + x * math.cos(angle) + y * math.sin(angle) for x, y in corners]
        ys = [middle_y - x * math.sin(angle) + y * math.cos(angle) for x, y in corners]
        return min(xs), min(ys), max(xs), max(ys)


def find_lines(image: Image.Image) -> LeveledPage:
    """Level a page and find its printed lines; none on an empty page.

    Args:
        image: of any mode; text that stands upside down or on its side is not recognised as such.
    """
    scale = min(1.0, math.sqrt(MOST_PIXELS / max(1, image.width * image.height)))
    looked = (
        image
        if scale == 1
        else image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX
        )
    )
    ink = find_ink(looked)
    turned = skew(ink)
    if abs(turned) >= _LEVEL:
        paper = _paper_color(image)
        image = image.rotate(-turned, Image.Resampling.BICUBIC, fillcolor=paper)
        ink = find_ink(looked.rotate(-turned, Image.Resampling.BICUBIC, fillcolor=paper))
    else:
        turned = 0.0
    found = _Reader(ink).lines()
    scaled = [replace(line, box=tuple(side / scale for side in line.box)) for line in found]  # type: ignore[arg-type]
    return LeveledPage(image, turned, tuple(scaled))


def _paper_color(image: Image.Image) -> tuple[int, ...] | int:
    """The commonest colour of a page, roughly."""
    small = np.asarray(image.resize((32, 32), Image.Resampling.BOX))
    middle = np.median(small.reshape(32 * 32, -1), axis=0).astype(int)
    return int(middle[0]) if len(middle) == 1 else tuple(int(x) for x in middle)


@dataclass(frozen=True)
class _Band:
    """Rows [top, bottom) with ink, between rows without."""

    top: int
    bottom: int

    @property
    def height(self) -> int:
        return self.bottom - self.top


class _Reader:
    """Cuts the ink of one page into lines."""

    def __init__(self, ink: Ink):
        self.ink = ink
        self.column = -1
        letter = letter_height(ink)
        heights = [b.height for b in _bands(ink) if 0.8 * letter <= b.height <= 2.1 * letter]
        self.pitch = float(np.median(heights)) if heights else 1.4 * letter

    def lines(self) -> list[PageLine]:
        height, width = self.ink.shape
        found = self._read(0, width, 0, height, 0)
        return [line for line in found if self._is_text(line)]

    def _is_text(self, line: PageLine) -> bool:
        """Whether there is enough ink for a letter: not a speck, not what is left of a rule."""
        left, top, right, bottom = map(int, line.box)
        marks = int(self.ink[top:bottom, left:right].sum())
        # What is left of a rule is flat and full; letters leave most of their line white.
        flat = line.width > 5 * line.height and marks > 0.55 * line.width * line.height
        speck = line.height < 0.45 * self.pitch and marks < 0.04 * line.width * line.height
        return bottom - top >= 4 and right - left >= 3 and marks >= 8 and not flat and not speck

    def _read(self, left: int, right: int, top: int, bottom: int, depth: int) -> list[PageLine]:
        """The lines of a part of the page, in reading order."""
        part = self.ink[top:bottom, left:right]
        bands = self._whole(part, _bands(part))
        out: list[PageLine] = []
        self.column += 1
        number = 0
        while number < len(bands):
            stop, gutter = self._columns(part, bands, number) if depth < 4 else (number, None)
            if gutter is None:
                band = bands[number]
                for piece in self._pieces(part, band):
                    out += self._line(left, top, part, piece, depth)
                number += 1
                continue
            first, last = top + bands[number].top, top + bands[stop - 1].bottom
            out += self._read(left, left + gutter[0], first, last, depth + 1)
            out += self._read(left + gutter[1], right, first, last, depth + 1)
            self.column += 1
            number = stop
        return out

    def _line(self, left: int, top: int, part: Ink, piece: _Band, depth: int) -> list[PageLine]:
        """The line of a band; the lines of the blocks side by side in it, where those stand at different heights."""
        box = _ink_box(part, piece)
        found = self._staggered(part[piece.top : piece.bottom]) if depth < 4 else []
        if not found:
            return [PageLine((left + box[0], top + box[1], left + box[2], top + box[3]), self.column)]
        first, last = top + piece.top, top + piece.bottom
        column = self.column
        lines = [line for a, b in found for line in self._read(left + a, left + b, first, last, depth + 1)]
        self.column = max(column, self.column) + 1
        return lines

    def _staggered(self, part: Ink) -> list[tuple[int, int]]:
        """Left and right of each block in a band that white parts from the next, where one of them has several lines
        (whose white rows the others cover); none where the band is a line."""
        if part.shape[0] < _TALL * self.pitch:
            return []
        inked = np.flatnonzero(part.any(axis=0))
        gaps = np.flatnonzero(np.diff(inked) > _BLOCK_GAP * self.pitch)
        if not len(gaps):
            return []
        edges = [int(inked[0]), *(int(inked[g] + inked[g + 1]) // 2 for g in gaps), int(inked[-1]) + 1]
        blocks = list(pairwise(edges))
        counts = [
            sum(b.height >= 0.4 * self.pitch for b in self._whole(part[:, a:e], _bands(part[:, a:e])))
            for a, e in blocks
        ]
        return blocks if max(counts) > 1 else []

    def _whole(self, part: Ink, bands: Sequence[_Band]) -> list[_Band]:
        """Bands without those that are a piece of a letter only (the dot of an i, an accent, an underline): these join
        the nearer neighbour."""
        joined: list[_Band] = []
        for band in bands:
            before = joined[-1] if joined else None
            if before is not None:
                lower, higher = sorted((before.height, band.height))
                piece = lower < 0.3 * higher or lower < 0.25 * self.pitch
                if piece and band.top - before.bottom <= 0.18 * max(higher, 0.6 * self.pitch):
                    joined[-1] = _Band(before.top, band.bottom)
                    continue
            joined.append(band)
        return joined

    def _pieces(self, part: Ink, band: _Band) -> list[_Band]:
        """A band as one line, or as the lines in it that touch each other."""
        count = round(band.height / (1.15 * self.pitch))
        if count < 2:
            return [band]
        profile = part[band.top : band.bottom].sum(axis=1).astype(float)
        cuts, step = [0], band.height / count
        for number in range(1, count):
            low, high = int((number - 0.35) * step), int((number + 0.35) * step) + 1
            cuts.append(low + int(np.argmin(profile[low:high])))
        cuts.append(band.height)
        weakest = max((profile[c] for c in cuts[1:-1]), default=0.0)
        # A large heading is one band of several pitches as well, but has no row that is nearly white.
        if weakest > 0.3 * profile[profile > 0].mean():
            return [band]
        return [_Band(band.top + a, band.top + b) for a, b in pairwise(cuts) if b - a > 2]

    def _columns(self, part: Ink, bands: Sequence[_Band], start: int) -> tuple[int, tuple[int, int] | None]:
        """The longest run of bands from `start` that a gutter parts into two columns of text: where it ends, and the
        gutter; None for none."""
        best: tuple[int, tuple[int, int] | None] = (start, None)
        filled = np.zeros(part.shape[1], bool)
        for stop in range(start + 1, len(bands) + 1):
            band = bands[stop - 1]
            filled |= part[band.top : band.bottom].any(axis=0)
            gutters = self._gutters(filled, stop - start)
            if not gutters:
                across = np.flatnonzero(filled)
                if len(across) and across[-1] - across[0] > 0.6 * len(filled):
                    break
                continue  # so far only one of the columns has begun
            rows = part[bands[start].top : band.bottom]
            fitting = [g for g in gutters if self._are_columns(rows[:, : g[0]], rows[:, g[1] :])]
            if fitting:
                best = stop, max(fitting, key=lambda g: g[1] - g[0])
        return best

    def _gutters(self, filled: Ink, count: int) -> list[tuple[int, int]]:
        """White stretches [left, right) between ink, as wide as a gutter."""
        columns = np.flatnonzero(filled)
        if len(columns) < 2:
            return []
        gaps = np.flatnonzero(np.diff(columns) > max(5.0, (0.45 if count >= 6 else 1.0) * self.pitch))
        return [(int(columns[g]) + 1, int(columns[g + 1])) for g in gaps]

    def _are_columns(self, left: Ink, right: Ink) -> bool:
        """Whether two blocks side by side are running text, each with several lines that fill most of its width."""
        sides = [self._block(left), self._block(right)]
        if any(len(middles) < _COLUMN_LINES or fill < _COLUMN_FILL for middles, fill, _ in sides):
            return False
        if self._has_cells(left) or self._has_cells(right):
            return False
        narrowest = min(width for _, _, width in sides) / self.pitch
        distances = np.abs(sides[0][0][:, None] - sides[1][0][None]).min(axis=1)
        rows = float((distances < 0.2 * self.pitch).mean())
        return narrowest >= (_COLUMN_WIDTH if rows > 0.5 else _APART)

    def _has_cells(self, part: Ink) -> bool:
        """Whether most lines of a block have wide gaps in them, as rows of a table do."""
        bands = [b for b in self._whole(part, _bands(part)) if b.height >= 0.4 * self.pitch]
        gapped = 0
        for band in bands:
            inked = np.flatnonzero(part[band.top : band.bottom].any(axis=0))
            gapped += len(inked) > 1 and int(np.diff(inked).max()) > 0.9 * self.pitch
        return gapped > 0.5 * len(bands)

    def _block(self, part: Ink) -> tuple[NDArray[np.float64], float, float]:
        """The middles of a block's lines in pixels, how much of its width the usual one fills, and that width."""
        across = np.flatnonzero(part.any(axis=0))
        width = float(across[-1] + 1 - across[0]) if len(across) else 1.0
        bands = [piece for b in self._whole(part, _bands(part)) for piece in self._pieces(part, b)]
        boxes = [_ink_box(part, b) for b in bands if b.height >= 0.4 * self.pitch]
        middles = np.array([(box[1] + box[3]) / 2 for box in boxes])
        return middles, float(np.median([box[2] - box[0] for box in boxes])) / width if boxes else 0.0, width


def _bands(part: Ink) -> list[_Band]:
    """The rows with ink, from the top, as bands between white rows."""
    rows = part.any(axis=1)
    edges = np.flatnonzero(np.diff(np.pad(rows, 1).astype(np.int8)))
    return [_Band(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _ink_box(part: Ink, band: _Band) -> tuple[int, int, int, int]:
    """The box around the ink of a band."""
    rows = part[band.top : band.bottom]
    across, down = np.flatnonzero(rows.any(axis=0)), np.flatnonzero(rows.any(axis=1))
    if not len(across):
        return 0, band.top, 0, band.bottom
    return int(across[0]), band.top + int(down[0]), int(across[-1]) + 1, band.top + int(down[-1]) + 1
