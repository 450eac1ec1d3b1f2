"""The connector of the LLaVA models (arXiv 2310.03744), and how LLaVA-NeXT lays out the features of many tiles."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from rave_mlx.backend.activations import ACTIVATIONS
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import MlpConnectorConfig
from rave_mlx.inputs.images.patches import Region
from rave_mlx.inputs.images.preprocess import ImagePatches


class MlpConnector(nn.Module):
    """Two layers on every feature (LLaVA).

    With a newline (LLaVA-NeXT) the features of the tile with the whole image come first. Those of the other tiles
    follow as the one image they show, row by row, without padding; the learned newline ends every row.
    """

    def __init__(self, config: MlpConnectorConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.input_size, config.hidden_size, bias=config.bias)
        self.fc2 = nn.Linear(config.hidden_size, config.output_size, bias=config.bias)
        if config.newline:
            self.newline = mx.zeros(config.output_size)
        self._activate = ACTIVATIONS[config.activation]
        self._lines = config.newline

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        if not self._lines:
            return self._project(x.flatten(0, 1))
        if image.region is None:
            return mx.concatenate([self._project(x[0]), self.newline[None]])
        region, whole, width = image.region, x.shape[1], self.newline.size
        # Padding is left out before the projection, which takes every feature by itself: it is never computed.
        projected = self._project(mx.concatenate([x[0], join_tiles(x[1:], image, region)]))
        lines = projected[whole:].reshape(region.height, region.width, width)
        lines = scale_features(lines, region.rows, region.columns)
        ends = mx.broadcast_to(self.newline, (region.rows, 1, width))
        lines = mx.concatenate([lines, ends], axis=1)
        return mx.concatenate([projected[:whole], lines.reshape(region.rows * (region.columns + 1), width)])

    def _project(self, x: mx.array) -> mx.array:
        return by_rows(lambda x: [self.fc2(self._activate(self.fc1(x)))], x, axis=0)[0]


def join_tiles(x: mx.array, image: ImagePatches, region: Region) -> mx.array:
    """Put the features of an image's tiles together as the rows of one image, without its padding.

    Args:
        x: (tiles, features, width), without the tile that has the whole image.
        image: the image, for the arrangement of its tiles.
        region: the part of them that is not padding, in features.

    Returns:
        (height * width of the region, width of a feature).
    """
    (rows, columns), side, width = image.arrangement, image.grid[1], x.shape[-1]
    grid = x.reshape(rows, columns, side, side, width).swapaxes(1, 2).reshape(rows * side, columns * side, width)
    grid = grid[region.top : region.top + region.height, region.left : region.left + region.width]
    return grid.reshape(region.height * region.width, width)


def scale_features(x: mx.array, rows: int, columns: int) -> mx.array:
    """Scale a grid of features bilinearly, as torch's `interpolate` without aligned corners.

    Args:
        x: (height, width, hidden).
        rows, columns: of the result (rows, columns, hidden).
    """
    for axis, count in ((0, rows), (1, columns)):
        if x.shape[axis] == count:
            continue
        low, high, share = _neighbours(x.shape[axis], count)
        weight = mx.array(share).reshape(-1, *[1] * (2 - axis))
        scaled = mx.take(x, mx.array(low), axis) * (1 - weight) + mx.take(x, mx.array(high), axis) * weight
        x = scaled.astype(x.dtype)
    return x


def _neighbours(size: int, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """For `count` points spread over `size` samples: the samples below and above each, and the share of the latter."""
    step = np.float32(size) / np.float32(count)
    place = np.maximum((np.arange(count, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5), 0)
    low = place.astype(np.int32)
    return low, np.minimum(low + 1, size - 1), place - low.astype(np.float32)
