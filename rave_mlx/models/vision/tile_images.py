"""What towers of tiles share: the tiles of several images are read as those of one."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

Grid = tuple[int, int, int]
"""Tiles of an image, and rows and columns of patches of a tile."""


class TileTower(nn.Module):
    """Base of towers that read every tile on its own, called with pixels and a grid."""

    def together(self, pixels: mx.array, grids: Sequence[Grid]) -> list[mx.array]:
        """Features of several images with tiles of one size, as of a call for each: one operation for all of them.

        Args:
            pixels: of the images, one after the other.
            grids: of each, whose rows and columns are equal.
        """
        tiles = np.cumsum([grid[0] for grid in grids]).tolist()
        return list(mx.split(self(pixels, (tiles[-1], *grids[0][1:])), tiles[:-1]))
