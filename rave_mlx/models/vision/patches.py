"""Images without a vision tower: pixels of large patches to features, with learned positions of columns and rows."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import PatchVisionConfig
from rave_mlx.inputs.images.patch_order import patch_order
from rave_mlx.models.vision.axial import Grid, check_positions


class PatchVision(nn.Module):
    """Patches to features. `positions` (n, 2, hidden) are those of columns and of rows."""

    def __init__(self, config: PatchVisionConfig):
        super().__init__()
        pixels, width = config.channels * config.patch_size**2, config.hidden_size
        self.pre_norm = nn.LayerNorm(pixels, config.norm_eps)
        self.patch_embed = nn.Linear(pixels, width)
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.positions = mx.zeros((config.positions, 2, width))
        self.post_norm = nn.LayerNorm(width, config.norm_eps)
        self._config = config

    def __call__(self, pixels: mx.array, grid: Grid) -> mx.array:
        """Features of one image.

        Args:
            pixels: (patches, channels * patch^2), in reading order.
            grid: (1, patch rows, patch columns).

        Returns:
            (patches, hidden).

        Raises:
            ImageError: for more patches a side than there are positions.
        """
        check_positions(grid, self._config.positions)
        rows, columns = patch_order(grid[1], grid[2], 1)
        places = self.positions[mx.array(columns), 0] + self.positions[mx.array(rows), 1]
        return by_rows(self._embed, pixels, places, axis=0)[0]

    def _embed(self, pixels: mx.array, places: mx.array) -> list[mx.array]:
        """Pixels (patches, channels * patch^2) and positions (patches, hidden) to features."""
        # The matrix reads pixel after pixel, each with all of its channels.
        pixels = pixels.reshape(len(pixels), self._config.channels, -1).swapaxes(1, 2).flatten(1)
        return [self.post_norm(self.norm(self.patch_embed(self.pre_norm(pixels))) + places)]
