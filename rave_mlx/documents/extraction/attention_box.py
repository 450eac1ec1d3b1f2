"""From maps of attention to the box of what is read there.

While a model writes a value, its maps peak at the letters of it, one visual token after the other. The tokens that get
much of a row are the value's; those that lie together with the heaviest make its region. A visual token is as high as
a line or two, so the region is trimmed to the line of print that it lies on, and to the letters in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rave_mlx.documents.transcription.ink import Ink
from rave_mlx.inputs.images.token_boxes import TokenBoxes

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]

PART = 0.4
"""Share of a row's largest density from which on a visual token belongs to what is read."""
MOST = 0.5
"""Share of the image from which on a region says nothing: a resampler's tokens all show the whole of it."""
GAP = 1.5
"""Cells between two parts of a region, along the line."""
LEAST = 0.12
"""Share of its row that a peak must have for the row to count."""


def region(maps: Floats, places: TokenBoxes) -> Box | None:
    """The box around what the rows look at, in pixels of the image; None where they look at nothing in particular.

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
    found = _around(boxes[chosen[best]])
    return found if _area(found) < MOST * _area(_around(boxes)) else None


def trim(box: Box, ink: Ink, cell: tuple[float, float]) -> Box:
    """A region cut to the print in it: the line that fills most of it, and the words that lie in it for the most part.

    Args:
        box: in pixels.
        ink: of the image, as of `transcription.ink.find_ink`.
        cell: width and height of a visual token in pixels.
    """
    height, width = ink.shape
    left, right = max(0, int(box[0])), min(width, round(box[2]))
    above, below = max(0, int(box[1] - cell[1] / 2)), min(height, round(box[3] + cell[1] / 2))
    rows = ink[above:below, left:right].sum(axis=1)
    bands = _runs(rows > 0, 1)
    if not bands:
        return box
    weights = [_within(above + a, above + b, box[1], box[3]) * rows[a:b].sum() for a, b in bands]
    chosen = [band for band, w in zip(bands, weights, strict=True) if w > 0.5 * max(weights) and w > 0]
    if not chosen:
        return box
    top, bottom = above + chosen[0][0], above + chosen[-1][1]
    reach = round(cell[0])
    start, stop = max(0, left - reach), min(width, right + reach)
    columns = ink[top:bottom, start:stop].any(axis=0)
    words = _runs(columns, max(2, round(0.22 * (chosen[0][1] - chosen[0][0]))))
    kept = [(start + a, start + b) for a, b in words if 2 * _overlap(start + a, start + b, left, right) > b - a]
    if not kept:
        return box
    return float(kept[0][0]), float(top), float(kept[-1][1]), float(bottom)


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


def _within(start: float, stop: float, top: float, bottom: float) -> float:
    """Share of [start, stop) that lies in [top, bottom)."""
    return _overlap(start, stop, top, bottom) / (stop - start)
