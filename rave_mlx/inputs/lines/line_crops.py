"""Pictures of single printed lines, in the size in which a small model reads them best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.inputs.lines.page_lines import Box, LeveledPage, PageLine

_DPI, _MOST_PIXELS = 160, 8_000_000
"""How a page of a PDF is drawn: print of 10 points is then about as high as it is shown to the model."""
HEIGHT, _WIDEST = 17.0, 848
"""Height of a line's ink, and the widest picture, in pixels; of 14, 16, 18, 20 and 24 the built-in model makes the
fewest errors at 16 to 18."""
_LEAST = 64
"""Smallest side of a picture."""
_LONGEST = 28.0
"""Width in heights from which on a line is read in parts: of longer texts the built-in model leaves out words."""
_PALE = 40
"""Difference in grey from the paper up to which there is no ink between two words."""
_MARGIN = 0.45
"""Paper around a line, in heights of it."""
_AROUND = 0.25
"""The same for a line reader."""
_LONGEST_PICTURE = 6400
"""Width in pixels of a line reader's longest picture, some 300 letters: what is longer is a rule, and no text."""
_NEAR = 0.12
"""How far beyond its ink a line's own pixels reach, in heights of it; what stands further out is its neighbours'."""
_FAINTEST, _INK = 40.0, 235.0
"""Least difference in grey between paper and ink that is stretched to `_INK`."""


@dataclass(frozen=True, eq=False)
class LineCrop:
    """A line, or a part of a long one, to be read.

    Attributes:
        picture: of it, with some paper around.
        line: where the line stands on the leveled page.
        box: where the line stands on the page, in fractions of its sides.
        most: tokens that it can have, one a byte.
        goes_on: whether it is the continuation of the line before it in the list.
    """

    picture: Image.Image
    line: PageLine
    box: Box
    most: int
    goes_on: bool = False


def page_pixels(size: tuple[float, float] | None) -> int:
    """How many pixels a page is drawn with, of a size in points; None for a picture, which has those that it has."""
    if size is None:
        return _MOST_PIXELS
    return max(1, min(_MOST_PIXELS, round(size[0] * size[1] * (_DPI / 72) ** 2)))


def crop_lines(page: LeveledPage, height: float = HEIGHT) -> list[LineCrop]:
    """The pictures of a page's lines, in reading order; long lines in several parts.

    Args:
        page: with its lines.
        height: of a line's ink in a picture, in pixels.
    """
    image = page.image.convert("RGB")
    usual = median([line.height for line in page.lines]) if page.lines else 1.0
    crops = []
    for line in page.lines:
        left, top, right, bottom = page.original(line.box)
        box = (left / image.width, top / image.height, right / image.width, bottom / image.height)
        bounded = tuple(min(1.0, max(0.0, side)) for side in box)
        for number, part in enumerate(_parts(image, line, usual)):
            # Letters are a quarter of a line's height wide at least.
            most = 24 + int(4 * part.width / max(1.0, part.height))
            crops.append(LineCrop(_crop(image, part, height), line, bounded, most, number > 0))  # type: ignore[arg-type]
    return crops


def line_pictures(page: LeveledPage, height: int) -> list[Image.Image]:
    """The pictures of a page's lines as they are, each line whole, in reading order.

    Args:
        page: with its lines.
        height: of the pictures, in pixels, the paper above and below the ink included.
    """
    image, pictures = page.image.convert("RGB"), []
    for line in page.lines:
        left, top, right, bottom = line.box
        around = _AROUND * line.height
        part = image.crop((round(left - around), round(top - around), round(right + around), round(bottom + around)))
        width = min(_LONGEST_PICTURE, max(1, round(part.width * height / part.height)))
        pictures.append(part.resize((width, height), Image.Resampling.BILINEAR))
    return pictures


def _parts(image: Image.Image, line: PageLine, usual: float) -> list[PageLine]:
    """A line in parts that are short enough to be read completely, cut in the spaces between words."""
    height = max(line.height, 0.8 * usual)
    count = math.ceil(line.width / (_LONGEST * height))
    if count < 2:
        return [line]
    left, top, right, bottom = map(round, line.box)
    grey = np.asarray(image.crop((left, top, right, bottom)).convert("L"), np.float32)
    white = np.abs(grey - np.median(grey)).max(axis=0) < _PALE
    edges = np.flatnonzero(np.diff(np.pad(white, 1).astype(np.int8)))
    gaps = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 0.16 * height]
    cuts = [0.0]
    for number in range(1, count):
        wanted, reach = (right - left) * number / count, 0.35 * (right - left) / count
        near = [
            (b - a - 0.1 * abs((a + b) / 2 - wanted), (a + b) / 2) for a, b in gaps if abs((a + b) / 2 - wanted) < reach
        ]
        if near:
            cuts.append(max(near)[1])
    cuts.append(float(right - left))
    return [replace(line, box=(left + a, line.box[1], left + b, line.box[3])) for a, b in pairwise(cuts)]


def _crop(image: Image.Image, line: PageLine, height: float) -> Image.Image:
    """The picture of a line: dark print on white paper, without what its neighbours leave in the margin."""
    left, top, right, bottom = line.box
    margin, near = _MARGIN * line.height, _NEAR * line.height
    outer = (round(left - margin), round(top - margin), round(right + margin), round(bottom + margin))
    inner = (left - near, top - near, right + near, bottom + near)
    kept = (
        max(0, math.floor(inner[0])), max(0, math.floor(inner[1])),
        min(image.width, math.ceil(inner[2])), min(image.height, math.ceil(inner[3])),
    )  # fmt: skip
    part = _printed(np.asarray(image.crop(kept).convert("L"), np.float32))
    whole = Image.new("L", (outer[2] - outer[0], outer[3] - outer[1]), 255)
    whole.paste(Image.fromarray(part), (kept[0] - outer[0], kept[1] - outer[1]))
    scale = min(height / line.height, _WIDEST / whole.width)
    if abs(scale - 1) > 0.06:
        size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        whole = whole.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    padded = Image.new("RGB", (max(_LEAST, whole.width), max(_LEAST, whole.height)), (255, 255, 255))
    padded.paste(whole, (0, (padded.height - whole.height) // 2))
    return padded


def _printed(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(height, width) grey levels of print on white: paper becomes 255, what differs most from it nearly black."""
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    difference = np.abs(grey - np.median(edge))
    strongest = max(_FAINTEST, float(np.percentile(difference, 99)))
    return np.asarray(np.clip(255 - difference * (_INK / strongest), 0, 255), np.uint8)
