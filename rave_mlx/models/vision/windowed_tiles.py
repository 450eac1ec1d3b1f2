"""The vision tower of SAM (arXiv 2304.02643) over square tiles, as GOT-OCR 2.0 (2409.01704) reads pages with it.

Scores have a bias by the distance of query and key in rows and in columns, each the product of the query with a learned
vector. `attend` knows no such bias; it is the same to lengthen the queries by these products and the keys by marks of
their row and column.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from rave_mlx.attention import attend
from rave_mlx.backend.activations import ACTIVATIONS
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import WindowVisionConfig
from rave_mlx.models.convolution import Convolution
from rave_mlx.models.vision.rescale import rescaled_line, rescaled_square
from rave_mlx.models.vision.tile_images import Grid, TileTower


class WindowAttention(nn.Module):
    """Multi-head attention within squares of patches, with relative positions."""

    def __init__(self, config: WindowVisionConfig, side: int):
        super().__init__()
        width = config.hidden_size
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.proj = nn.Linear(width, width)
        if config.relative_positions:
            self.rows = mx.zeros((2 * side - 1, width // config.num_heads))
            self.columns = mx.zeros((2 * side - 1, width // config.num_heads))
        self._heads, self._relative = config.num_heads, config.relative_positions

    def __call__(self, qkv: mx.array, side: int) -> mx.array:
        """(squares, side^2, 3 * hidden) -> heads side by side (squares, side^2, hidden)."""
        squares, patches, _ = qkv.shape
        q, k, v = qkv.reshape(squares, patches, 3, self._heads, -1).transpose(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        if self._relative:
            q, k, scale = self._lengthened(q, side, scale), _marked(k, side), 1.0
        out = attend(q, k, v, scale=scale)
        return out.swapaxes(1, 2).reshape(squares, patches, -1)

    def _lengthened(self, q: mx.array, side: int, scale: float) -> mx.array:
        """Scaled queries (squares, heads, side^2, d + 2 side) with their biases for every row and column of keys.

        Squares of another side than the learned distances are for have these scaled.
        """
        place = np.arange(side)
        between = mx.array((place[:, None] - place + side - 1).astype(np.int32))
        grid = q.reshape(*q.shape[:2], side, side, -1)
        down, across = (rescaled_line(x, 2 * side - 1)[between].swapaxes(1, 2) for x in (self.rows, self.columns))
        rows = grid @ down
        columns = (grid.swapaxes(2, 3) @ across).swapaxes(2, 3)
        biases = mx.concatenate([rows, columns], axis=-1).reshape(*q.shape[:3], 2 * side)
        return mx.concatenate([q * scale, biases], axis=-1)


def _marked(k: mx.array, side: int) -> mx.array:
    """Keys (squares, heads, side^2, d + 2 side) with marks of their row and column."""
    row, column = np.divmod(np.arange(side * side), side)
    marks = np.concatenate([row[:, None] == np.arange(side), column[:, None] == np.arange(side)], axis=1)
    shown = mx.broadcast_to(mx.array(marks).astype(k.dtype), (*k.shape[:3], 2 * side))
    return mx.concatenate([k, shown], axis=-1)


class WindowLayer(nn.Module):
    """Pre-norm attention within windows of a tile, or over all of it, and MLP."""

    def __init__(self, config: WindowVisionConfig, layer: int):
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, config.norm_eps)
        self.norm2 = nn.LayerNorm(width, config.norm_eps)
        self.attention = WindowAttention(config, config.window(layer))
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self._window = None if config.sees_all(layer) else config.window_size
        self._activate = ACTIVATIONS[config.activation]

    def __call__(self, x: mx.array) -> mx.array:
        """(tiles, rows, columns, hidden) -> the same; tiles are squares."""
        tiles, rows, columns, hidden = x.shape
        side = rows if self._window is None else self._window
        down, across = -(-rows // side), -(-columns // side)
        filled = [(0, 0), (0, down * side - rows), (0, across * side - columns), (0, 0)]
        normed = mx.pad(self.norm1(x), filled).reshape(tiles, down, side, across, side, hidden)
        squares = normed.swapaxes(2, 3).reshape(-1, side * side, hidden)
        (qkv,) = by_rows(lambda x: [self.attention.qkv(x)], squares, axis=0)
        attended = self.attention(qkv, side).reshape(tiles, down, across, side, side, hidden).swapaxes(2, 3)
        attended = attended.reshape(tiles, down * side, across * side, hidden)[:, :rows, :columns]
        flat = by_rows(self._finish, x.reshape(-1, hidden), attended.reshape(-1, hidden), axis=0)[0]
        return flat.reshape(x.shape)

    def _finish(self, x: mx.array, attended: mx.array) -> list[mx.array]:
        """The layer from the joined heads (patches, hidden) on."""
        x = x + self.attention.proj(attended)
        return [x + self.fc2(self._activate(self.fc1(self.norm2(x))))]


class WindowVision(TileTower):
    """Patches of tiles to their features."""

    def __init__(self, config: WindowVisionConfig):
        super().__init__()
        self.patch_embed = nn.Linear(config.channels * config.patch_size**2, config.hidden_size)
        if config.positions:
            self.positions = mx.zeros((config.side**2, config.hidden_size))
        self.layers = [WindowLayer(config, i) for i in range(config.depth)]
        self.neck1 = nn.Linear(config.hidden_size, config.output_size, bias=False)
        self.neck_norm1 = nn.LayerNorm(config.output_size, 1e-6)
        self.neck2 = Convolution(config.output_size, config.output_size)
        self.neck_norm2 = nn.LayerNorm(config.output_size, 1e-6)
        self._positions = config.positions

    def __call__(self, pixels: mx.array, grid: Grid) -> mx.array:
        """pixels (tiles * patches, channels * patch^2) of one image -> (tiles, patches, feature size).

        `grid`: tiles, patch rows and patch columns of a tile, which is a square. Where it is not as large as the
        learned positions are for, they are scaled.
        """
        tiles, rows, columns = grid
        x = self.patch_embed(pixels).reshape(tiles, rows * columns, -1)
        x = x + rescaled_square(self.positions, rows) if self._positions else x
        x = x.reshape(tiles, rows, columns, -1)
        for layer in self.layers:
            x = layer(x)
        features: mx.array = self.neck_norm2(self.neck2(self.neck_norm1(self.neck1(x))))
        return features.reshape(tiles, rows * columns, -1)
