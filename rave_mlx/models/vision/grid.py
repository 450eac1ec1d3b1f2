"""Vision tower of the Pixtral models (arXiv 2410.07073): patches at the image's own resolution, every layer over the
whole image."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from rave_mlx.attention import attend
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import GridVisionConfig
from rave_mlx.inputs.images.patch_order import patch_order
from rave_mlx.models.rope import RotaryTable
from rave_mlx.models.vision.qwen import GatedMLP

Grid = tuple[int, int, int]


def alternating_table(theta: float, head_dim: int, rows: NDArray[np.int32], columns: NDArray[np.int32]) -> RotaryTable:
    """The rotary table of image patches: frequencies 0, 2, 4, ... turn with the row, the others with the column.

    Args:
        theta: base of the frequencies.
        head_dim: width of a head, even.
        rows, columns: (patches,) where each stands in the image.
    """
    half = head_dim // 2
    frequencies = theta ** (-np.arange(half, dtype=np.float64) / half)
    angles = np.concatenate([rows[:, None] * frequencies[::2], columns[:, None] * frequencies[1::2]], axis=1)
    angles = angles[None, None]
    return RotaryTable(mx.array(np.cos(angles).astype(np.float32)), mx.array(np.sin(angles).astype(np.float32)))


class GridAttention(nn.Module):
    """Multi-head attention of all patches of an image to each other, without biases."""

    def __init__(self, config: GridVisionConfig):
        super().__init__()
        width = config.hidden_size
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self._heads = config.num_heads

    def project(self, x: mx.array) -> list[mx.array]:
        """Queries, keys and values (patches, hidden) from normed states."""
        return [self.q_proj(x), self.k_proj(x), self.v_proj(x)]

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, table: RotaryTable, images: int = 1) -> mx.array:
        """(patches, hidden) each, of so many images of one size -> heads side by side."""
        shape = q.shape
        q, k, v = (x.reshape(images, shape[0] // images, self._heads, -1).swapaxes(1, 2) for x in (q, k, v))
        out = attend(table.apply(q), table.apply(k), v, scale=q.shape[-1] ** -0.5)
        return out.swapaxes(1, 2).reshape(shape)


class GridLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: GridVisionConfig):
        super().__init__()
        self.norm1 = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.norm2 = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = GridAttention(config)
        self.mlp = GatedMLP(config, bias=False)

    def __call__(self, x: mx.array, table: RotaryTable, images: int = 1) -> mx.array:
        q, k, v = by_rows(lambda x: self.attention.project(self.norm1(x)), x, axis=0)
        return by_rows(self._finish, x, self.attention(q, k, v, table, images), axis=0)[0]

    def _finish(self, x: mx.array, attended: mx.array) -> list[mx.array]:
        """The layer from the joined heads (patches, hidden) on."""
        x = x + self.attention.o_proj(attended)
        return [x + self.mlp(self.norm2(x))]


class GridVision(nn.Module):
    """Patches to features. `patch_embed` holds the convolution as a matrix (its stride equals its size)."""

    def __init__(self, config: GridVisionConfig):
        super().__init__()
        self.patch_embed = nn.Linear(config.channels * config.patch_size**2, config.hidden_size, bias=False)
        self.pre_norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.layers = [GridLayer(config) for _ in range(config.depth)]
        self._config = config

    def __call__(self, pixels: mx.array, grid: Grid) -> mx.array:
        """Features of one image; layers beyond the last state that is one are not run.

        Args:
            pixels: (patches, channels * patch^2), in the order of `patch_order`.
            grid: (1, patch rows, patch columns).

        Returns:
            (patches, feature size) in the order of `pixels`.
        """
        return self.together(pixels, [grid])[0]

    def together(self, pixels: mx.array, grids: Sequence[Grid]) -> list[mx.array]:
        """Features of several images of one size, as of a call for each: one operation for all of them.

        Args:
            pixels: of the images, one after the other.
            grids: of each, which are equal.
        """
        grid, images = grids[0], len(grids)
        config = self._config
        rows, columns = patch_order(grid[1], grid[2], config.merge_size)
        table = alternating_table(config.rope_theta, config.hidden_size // config.num_heads, rows, columns)
        states = {0: self.pre_norm(self.patch_embed(pixels))}
        for index in range(max(config.feature_layers)):
            state = self.layers[index](states[index], table, images)
            if index not in config.feature_layers:
                del states[index]
            states[index + 1] = state
        return list(mx.split(mx.concatenate([states[i] for i in config.feature_layers], axis=-1), images))
