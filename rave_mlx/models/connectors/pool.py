"""The connector of Gemma 3 (arXiv 2503.19786): the mean of features over squares, a norm, a matrix."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import PoolConnectorConfig
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.models.norms import OffsetRMSNorm


class PoolConnector(nn.Module):
    """The mean of pool x pool neighbouring features, a norm, a matrix (tower width, decoder hidden) as in the files."""

    def __init__(self, config: PoolConnectorConfig):
        super().__init__()
        self.norm = OffsetRMSNorm(config.input_size, config.norm_eps)
        self.projection = mx.zeros((config.input_size, config.output_size))
        self._pool = config.pool

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        tiles, rows, columns = image.grid
        pool, width = self._pool, x.shape[-1]
        high, wide = rows // pool, columns // pool
        x = x.reshape(tiles, rows, columns, width)[:, : high * pool, : wide * pool]
        x = x.reshape(tiles, high, pool, wide, pool, width).mean(axis=(2, 4))
        return self.norm(x.reshape(tiles * high * wide, width)) @ self.projection
