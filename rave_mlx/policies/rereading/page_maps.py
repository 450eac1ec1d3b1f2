"""Attention over visual tokens as a map of the page.

A page read at native resolution has a grid of visual tokens already. Tiles, an overview beside them, padding and
newline tokens are laid over the page by `inputs.images.token_boxes`; where several tokens show the same place, their
densities add.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.config import LMMConfig
from rave_mlx.inputs.images.patches import ImagePatches
from rave_mlx.inputs.images.token_boxes import locate_tokens

Floats = NDArray[np.float64]


def page_maps(values: Floats, image: ImagePatches, config: LMMConfig) -> Floats:
    """Maps (..., rows, columns) of attention (..., n) over the n visual tokens of an image.

    A cell is as large as the smallest visual token. A larger token's attention is spread evenly over its box, so the
    unit is attention per cell; on a native grid this is a mere change of shape.

    Args:
        values: attention (..., n).
        image: its patches.
        config: of the model that reads it.
    """
    assert config.image is not None
    assert config.connector is not None
    found = locate_tokens(image, config.image, config.connector)
    columns, rows = (max(1, round(side / cell)) for side, cell in zip(image.size, found.cell, strict=True))
    located = np.isfinite(found.boxes).all(axis=1)
    boxes = found.boxes[located]
    flat = values.reshape(-1, values.shape[-1])[:, located].T
    cells = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (found.cell[0] * found.cell[1])
    density = flat / cells[:, None]
    # Four corners a box in a table of differences; its sums along both axes are the map.
    corners = np.zeros((rows + 1, columns + 1, flat.shape[1]))
    edges = boxes * np.tile([columns / image.size[0], rows / image.size[1]], 2)
    left, top, right, bottom = np.rint(edges).astype(np.int64).T
    for x, y, sign in ((left, top, 1), (right, top, -1), (left, bottom, -1), (right, bottom, 1)):
        np.add.at(corners, (y, x), sign * density)
    filled = corners.cumsum(axis=0).cumsum(axis=1)[:rows, :columns]
    # What rounding leaves where no token lies must not pass for attention.
    return filled.round(12).transpose(2, 0, 1).reshape(*values.shape[:-1], rows, columns)


def enlarged(grid: Floats, size: tuple[int, int]) -> Floats:
    """A map (rows, columns) scaled to `size` (width, height), bilinearly."""
    return np.asarray(Image.fromarray(grid.astype(np.float32)).resize(size, Image.Resampling.BILINEAR), np.float64)


def share_inside(grid: Floats, size: tuple[int, int], box: tuple[float, float, float, float]) -> float:
    """How much of a map lies in a box, from 0 to 1; cells on its edge count in part.

    Args:
        grid: the map (rows, columns), not negative; 0 where there is nothing on it.
        size: width and height of the page in pixels.
        box: left, top, right, bottom in pixels.
    """
    total = grid.sum()
    if total <= 0:
        return 0.0
    inside = [
        np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None) / np.diff(edges)
        for edges, start, end in (
            (np.linspace(0, size[1], grid.shape[0] + 1), box[1], box[3]),
            (np.linspace(0, size[0], grid.shape[1] + 1), box[0], box[2]),
        )
    ]
    return float(inside[0] @ grid @ inside[1] / total)
