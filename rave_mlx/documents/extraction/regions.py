"""Parts of a page that a small model reads in full: blocks of print, cut at white space, with letters of one size.

The built-in model sees a quarter of a megapixel and was trained on short pages whose letters are about ten pixels high.
A sheet of paper is larger. So its page is leveled, scaled until its letters have that height, and cut between lines
that stand apart, into regions that overlap by a block: each is as large as the model reads in full, or smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from PIL import Image

from rave_mlx.config import ImageConfig
from rave_mlx.inputs.images.patches import RESAMPLE
from rave_mlx.inputs.lines.page_lines import LeveledPage, PageLine

Box = tuple[float, float, float, float]

PAGE_PIXELS = 3_900_000
"""Pixels that a page of a PDF is drawn with before it is cut: A4 at 200 dpi."""
LETTER = 10.0
"""Height in pixels of the letters in the pages that the built-in model was trained on."""
_MARGIN = 0.8
"""White around a region, in heights of a line."""
_APART = 0.9
"""White between two blocks, in heights of a line."""
_HIGHEST = 6
"""Lines of a region at most."""


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a page.

    Attributes:
        image: what the model is shown.
        box: the part, in pixels of the leveled page.
        scale: pixels of `image` for one of the leveled page.
    """

    image: Image.Image
    box: Box
    scale: float


def cut_regions(page: LeveledPage, config: ImageConfig, *, letter: float = LETTER) -> list[Region]:
    """The regions of a leveled page from top to bottom; none of an empty page.

    Args:
        page: its lines are known.
        config: how much the model reads in full.
        letter: height in pixels that the usual line's letters get.
    """
    if not page.lines:
        return []
    height = median(line.height for line in page.lines)
    # A line's ink reaches from the ascenders to the descenders: about 1.35 times a capital's height.
    scale = min(1.0 if height < 8 else 2.0, 1.35 * letter / height)
    spans = list(_windows(_blocks(page.lines, height), config.max_pixels, scale, height))
    return [_cut(page.image, _around(span, _MARGIN * height, page.image.size), scale, config) for span in spans]


def turned_back(box: Box, turned: float, size: tuple[int, int]) -> Box:
    """The upright box on a page as it was, around a box of the leveled page.

    Args:
        box: in pixels of the leveled page.
        turned: degrees by which the page leaned.
        size: width and height of the page in pixels.
    """
    if not turned:
        return box
    angle, middle_x, middle_y = math.radians(turned), size[0] / 2, size[1] / 2
    corners = [(x - middle_x, y - middle_y) for x in (box[0], box[2]) for y in (box[1], box[3])]
    xs = [middle_x + x * math.cos(angle) + y * math.sin(angle) for x, y in corners]
    ys = [middle_y - x * math.sin(angle) + y * math.cos(angle) for x, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _blocks(lines: Sequence[PageLine], height: float) -> list[list[PageLine]]:
    """Lines that stand close below or beside each other, from top to bottom."""
    blocks: list[list[PageLine]] = []
    bottom = float("-inf")
    for line in sorted(lines, key=lambda line: line.box[1]):
        if line.box[1] - bottom > _APART * height or not blocks:
            blocks.append([])
        blocks[-1].append(line)
        bottom = max(bottom, line.box[3])
    return blocks


def _windows(blocks: Sequence[list[PageLine]], pixels: int, scale: float, height: float) -> Iterator[list[PageLine]]:
    """Runs of blocks that fit into `pixels` after scaling, each but the first begun with the last block of the one
    before; a block that does not fit is cut between its lines."""
    pieces = [piece for block in blocks for piece in _fitting(block, pixels, scale, height)]
    start = 0
    while start < len(pieces):
        stop = start + 1
        while stop < len(pieces) and _fits([li for p in pieces[start : stop + 1] for li in p], pixels, scale, height):
            stop += 1
        yield [line for piece in pieces[start:stop] for line in piece]
        if stop == len(pieces):
            return
        start = stop - 1 if stop - start > 1 else stop


def _fitting(block: list[PageLine], pixels: int, scale: float, height: float) -> Iterator[list[PageLine]]:
    """A block as it is, or in parts that fit, which share a line."""
    start = 0
    while start < len(block):
        stop = start + 1
        while stop < len(block) and _fits(block[start : stop + 1], pixels, scale, height):
            stop += 1
        yield block[start:stop]
        if stop == len(block):
            return
        start = stop - 1 if stop - start > 1 else stop


def _fits(lines: Sequence[PageLine], pixels: int, scale: float, height: float) -> bool:
    left, top, right, bottom = _bounds(lines)
    margin = 2 * _MARGIN * height
    area = (right - left + margin) * (bottom - top + margin) * scale**2
    return area <= pixels and bottom - top <= _HIGHEST * 1.6 * height


def _bounds(lines: Sequence[PageLine]) -> Box:
    boxes = [line.box for line in lines]
    return min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)


def _around(lines: Sequence[PageLine], margin: float, size: tuple[int, int]) -> Box:
    left, top, right, bottom = _bounds(lines)
    return max(0, left - margin), max(0, top - margin), min(size[0], right + margin), min(size[1], bottom + margin)


def _cut(image: Image.Image, box: Box, scale: float, config: ImageConfig) -> Region:
    """The part of a page in a box, scaled; by less where it would be more than the model reads in full."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(scale, (config.max_pixels / (width * height)) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    part = image.resize(size, RESAMPLE[config.resample], box=box, reducing_gap=3.0)
    return Region(part, box, scale)
