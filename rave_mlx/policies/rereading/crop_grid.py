"""Cutting a large page into overlapping panes, squares or strips, that a model reads in full."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.config import ImageConfig, Images
from rave_mlx.inputs.images.patches import RESAMPLE
from rave_mlx.inputs.images.preprocess import cut_patches
from rave_mlx.inputs.prompt.message import ImagePart, Original
from rave_mlx.policies.rereading.crops import Box, reading_scale

_SMALLER = 0.8
"""Factor from one size of the page to the next, until there are few enough panes."""
_CELL = 16
"""Side in pixels of the squares in which ink is looked for."""
_CONTRAST = 64
"""Difference between the darkest and the lightest grey of a square from which it has ink: more than noise or shadow."""
_MARGIN = 8
"""Pixels kept around what is printed."""


class Pane(NamedTuple):
    """A part of a page as an image of its own, and its box in pixels of the original."""

    image: ImagePart
    box: Box


def panes(page: ImagePart, original: Original, config: Images, *, most: int, overlap: float) -> list[Pane]:
    """The square panes of a page that have anything on them, row by row; none where they show no more than the page.

    A page of a PDF has no pixels of its own: its full size is the one that it was drawn in for its patches, and panes
    are cut from its finer original.

    Args:
        page: as the model reads it.
        original: its pixels.
        config: how images are read.
        most: the largest number of panes.
        overlap: share of a pane's side that the next one repeats.
    """
    side = reading_scale(page.patches, config) * math.sqrt(original.picture.width * original.picture.height)
    if isinstance(config, ImageConfig):
        # Whole cells, so that a pane of a picture at full size is not resampled.
        side = max(config.cell, side // config.cell * config.cell)
    return _cuts(page, original, config, lambda scale, _: (round(side / scale),) * 2, most, overlap)


def strips(page: ImagePart, original: Original, config: Images, *, most: int, overlap: float) -> list[Pane]:
    """Panes as wide as what is printed, from top to bottom: a row is never cut in two.

    None where square panes are as wide, and for models of tiles, which see every image in the shape of its tiles.

    Args:
        page: as the model reads it.
        original: its pixels.
        config: how images are read.
        most: the largest number of strips.
        overlap: share of a strip's height that the next one repeats.
    """
    if not isinstance(config, ImageConfig):
        return []
    area = reading_scale(page.patches, config) ** 2 * original.picture.width * original.picture.height
    cell = config.cell

    def size(scale: float, wide: int) -> tuple[int, int] | None:
        columns = math.ceil(wide * scale / cell)
        # At least one: strips of a page too wide for that are too many, so that they are cut from a smaller copy.
        rows = max(1, int(area / (columns * cell) // cell))
        return (wide, round(rows * cell / scale)) if rows < columns else None

    return _cuts(page, original, config, size, most, overlap)


def _cuts(
    page: ImagePart,
    original: Original,
    config: Images,
    size: Callable[[float, int], tuple[int, int] | None],
    most: int,
    overlap: float,
) -> list[Pane]:
    """Panes of the largest copy of a page of which no more than `most` are needed; none of one as small as is read.

    `size`: width and height of a pane in pixels of the original, from (scale of the copy, width of what is printed);
    None where there is none of that shape.
    """
    marks = ink(np.asarray(original.picture.convert("L")))
    whole = printed(marks, original.picture.size)
    scale, reads = 1.0, reading_scale(page.patches, config)
    while whole is not None and scale > reads:
        shape = size(scale, whole[2] - whole[0])
        if shape is None:
            return []
        boxes = [box for box in grid(whole, shape, overlap) if has_ink(marks, box)]
        if len(boxes) <= most:
            return [Pane(_cut(original, box, scale, config), box) for box in boxes]
        scale *= _SMALLER
    return []


def grid(whole: Box, size: tuple[int, int], overlap: float) -> list[Box]:
    """Boxes of one size that cover a box, evenly spread, row by row.

    Args:
        whole: what is covered, in pixels.
        size: their width and height, or less where `whole` is smaller.
        overlap: share of a side that the next box repeats, at least.
    """
    (left, top, right, bottom), (wide, high) = whole, size
    columns, rows = _starts(left, right, wide, overlap), _starts(top, bottom, high, overlap)
    return [(x, y, min(x + wide, right), min(y + high, bottom)) for y in rows for x in columns]


def ink(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which squares of a page (height, width) have anything on them that stands out from the paper."""
    height, width = grey.shape
    pad = (0, -height % _CELL), (0, -width % _CELL)
    squares = np.pad(grey, pad, mode="edge").reshape(-(-height // _CELL), _CELL, -(-width // _CELL), _CELL)
    contrast = squares.max(axis=(1, 3)).astype(np.int16) - squares.min(axis=(1, 3))
    marks: NDArray[np.bool_] = contrast >= _CONTRAST
    return marks


def printed(marks: NDArray[np.bool_], size: tuple[int, int]) -> Box | None:
    """The part of a page of `size` (width, height) that is printed on; None for a blank one."""
    rows, columns = np.flatnonzero(marks.any(axis=1)), np.flatnonzero(marks.any(axis=0))
    if not rows.size:
        return None
    left, top = (max(0, int(edge[0]) * _CELL - _MARGIN) for edge in (columns, rows))
    right, bottom = (
        min(most, (int(edge[-1]) + 1) * _CELL + _MARGIN) for edge, most in zip((columns, rows), size, strict=True)
    )
    return left, top, right, bottom


def has_ink(marks: NDArray[np.bool_], box: Box) -> bool:
    """Whether a box touches a square with ink."""
    left, top, right, bottom = box
    return bool(marks[top // _CELL : -(-bottom // _CELL), left // _CELL : -(-right // _CELL)].any())


def _starts(first: int, end: int, side: int, overlap: float) -> list[int]:
    """Where stretches of length `side` begin that cover [first, end), evenly spread."""
    length = end - first
    if length <= side:
        return [first]
    count = math.ceil((length - side) / max(1.0, side * (1 - overlap))) + 1
    return [first + round(i * (length - side) / (count - 1)) for i in range(count)]


def _cut(original: Original, box: Box, scale: float, config: Images) -> ImagePart:
    """A box of the original as an image of its own, from a copy scaled by `scale`."""
    cut: Image.Image = original.picture.crop(box)
    kept = Original(cut, original.image_tokens)
    if scale < 1:
        sides = max(1, round(cut.width * scale)), max(1, round(cut.height * scale))
        cut = cut.resize(sides, RESAMPLE[config.resample])
    return ImagePart(cut_patches(cut, config, original.image_tokens), kept)
