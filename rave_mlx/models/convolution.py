"""Convolutions of 3 x 3 over the features of tiles, as a matrix over the nine neighbours of every place."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class Convolution(nn.Module):
    """A 3 x 3 convolution without bias, its weights (out, in * 9) as torch lays them out: channel after channel."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.proj = nn.Linear(inputs * 9, outputs, bias=False)
        self._stride = stride

    def __call__(self, x: mx.array) -> mx.array:
        """(tiles, rows, columns, in) -> (tiles, rows / stride, columns / stride, out), sizes rounded up."""
        tiles, rows, columns, _ = x.shape
        x, step = mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), self._stride
        shifted = [x[:, i : i + rows : step, j : j + columns : step] for i in range(3) for j in range(3)]
        projected: mx.array = self.proj(mx.stack(shifted, axis=-1).flatten(-2))
        return projected
