"""From maps of attention to the box of what is read there.

While a model writes a value, its maps peak at the letters of it, one visual token after the other. The tokens that get
much of a row are the value's; those that lie together with the heaviest make its region. A visual token is as high as
a line or two, so the region is trimmed to the line of print that it lies on, and to the letters in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.images.token_boxes import TokenBoxes
from rave_mlx.inputs.lines.ink import Ink

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]

PART = 0.4
"""Share of a row's largest density from which on a visual token belongs to what is read."""
MOST = 0.5
"""Share of the image from which on a region says nothing: a resampler's tokens all show the whole of it."""
LINE = 0.5
"""Share of the attention on a region's first line of print that another one has at least."""
WORD_GAP = 0.22
"""White between words, in heights of the line's ink."""
GAP = 1.5
"""Cells between two parts of a region, along the line."""
LEAST = 0.12
"""Share of its row that a peak must have for the row to count."""


@dataclass(frozen=True, eq=False)
class Region:
    """Visual tokens that lie together.

    Attributes:
        boxes: (k, 4) left, top, right, bottom of each in pixels of the image.
        weights: (k,) the density of attention on each.
        cell: width and height of a visual token.
    """

    boxes: Floats
    weights: Floats
    cell: tuple[float, float]

    @property
    def box(self) -> Box:
        """Around all of them."""
        return _around(self.boxes)


def find_region(maps: Floats, places: TokenBoxes) -> Region | None:
    """The visual tokens of what was read; None where the rows look at nothing in particular.

    Args:
        maps: (t, n) attention of t rows over the n visual tokens of one image.
        places: where those are.
    """
    located = np.isfinite(places.boxes).all(axis=1)
    boxes = places.boxes[located]
    if not len(boxes) or not len(maps):
        return None
    cells = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (places.cell[0] * places.cell[1])
    density = maps[:, located] / cells
    peak = density.max(axis=1)
    counted = density[peak >= LEAST * max(peak.max(), 1e-12)]
    part = counted >= PART * counted.max(axis=1, keepdims=True)
    weight = np.where(part, counted, 0.0).sum(axis=0)
    chosen = np.flatnonzero(weight)
    if not len(chosen):
        return None
    best = max(_groups(boxes[chosen], places.cell), key=lambda group: float(weight[chosen[group]].sum()))
    found = Region(boxes[chosen[best]], weight[chosen[best]], places.cell)
    return found if _area(found.box) < MOST * _area(_around(boxes)) else None


def trim(region: Region, ink: Ink) -> Box:
    """The print of a region: the line whose middle the attention lies on, and of it the words that are in the region.

    Args:
        region: in pixels of the image.
        ink: of the image, as of `transcription.ink.find_ink`.
    """
    height, width = ink.shape
    box, (across, down) = region.box, region.cell
    left, right = max(0, int(box[0])), min(width, round(box[2]))
    above, below = max(0, int(box[1] - down / 2)), min(height, round(box[3] + down / 2))
    bands = [(above + a, above + b) for a, b in _runs(np.any(ink[above:below, left:right], axis=1), 1)]
    weights = [_weight_on(region, a, b) for a, b in bands]
    found = []
    for (top, bottom), weight in zip(bands, weights, strict=True):
        if weight > LINE * max(weights):
            start, stop = max(0, left - round(across)), min(width, right + round(across))
            words = _runs(np.any(ink[top:bottom, start:stop], axis=0), max(2, round(WORD_GAP * (bottom - top))))
            spans = [(start + a, start + b) for a, b in words]
            kept = [(a, b) for a, b in spans if 2 * _overlap(a, b, left, right) > b - a]
            if kept:
                found.append((float(kept[0][0]), float(top), float(kept[-1][1]), float(bottom)))
    return _around(np.array(found)) if found else box


def _weight_on(region: Region, top: int, bottom: int) -> float:
    """The attention on a line of print: on visual tokens by the share of the line's middle half that they hold."""
    quarter = (bottom - top) / 4
    start, stop = top + quarter, bottom - quarter
    shares = [_overlap(start, stop, above, below) / (stop - start) for _, above, _, below in region.boxes]
    return float(region.weights @ np.array(shares))


def _groups(boxes: Floats, cell: tuple[float, float]) -> list[list[int]]:
    """Indices of boxes that lie together: beside each other with small gaps, or one below the other."""
    across, down = GAP * cell[0], 0.5 * cell[1]
    groups: list[list[int]] = []
    for index, (left, top, right, bottom) in enumerate(boxes):
        near = [
            group
            for group in groups
            if any(
                boxes[i, 0] < right + across
                and boxes[i, 2] > left - across
                and boxes[i, 1] < bottom + down
                and boxes[i, 3] > top - down
                for i in group
            )
        ]
        groups = [group for group in groups if group not in near] + [[*(i for group in near for i in group), index]]
    return groups


def _around(boxes: Floats) -> Box:
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    return left, top, right, bottom


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _runs(marks: NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """Stretches of marks, joined over gaps that are shorter than `gap`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    out: list[tuple[int, int]] = []
    for start, stop in edges.reshape(-1, 2).tolist():
        if out and start - out[-1][1] < gap:
            out[-1] = out[-1][0], stop
        else:
            out.append((start, stop))
    return out


def _overlap(start: float, stop: float, left: float, right: float) -> float:
    return max(0.0, min(stop, right) - max(start, left))
