"""Pixel shuffle: the connectors of Idefics3 (arXiv 2408.12637) and InternVL (arXiv 2404.16821).

Both make the features of scale x scale neighbouring patches one, row after row of the square; what follows differs.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import ACTIVATIONS
from rave_mlx.config import ShuffleConnectorConfig
from rave_mlx.inputs.images.preprocess import ImagePatches


def shuffle(x: mx.array, rows: int, columns: int, scale: int) -> mx.array:
    """Put the features of `scale` x `scale` neighbouring patches side by side.

    Args:
        x: (tiles, rows * columns, width), in reading order.
        rows, columns: of the patches in a tile, multiples of `scale`.
        scale: patches a side.

    Returns:
        (tiles, rows * columns / scale^2, scale^2 * width), in reading order.
    """
    tiles, _, width = x.shape
    x = x.reshape(tiles, rows // scale, scale, columns // scale, scale, width)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(tiles, rows * columns // scale**2, -1)


class ShuffleConnector(nn.Module):
    """Pixel shuffle, then a linear layer (Idefics3), or layer norm and a two-layer MLP (InternVL)."""

    def __init__(self, config: ShuffleConnectorConfig):
        super().__init__()
        wide = config.input_size * config.scale**2
        if config.hidden_size is None:
            self.proj = nn.Linear(wide, config.output_size, bias=False)
        else:
            self.norm = nn.LayerNorm(wide, config.norm_eps)
            self.fc1 = nn.Linear(wide, config.hidden_size)
            self.fc2 = nn.Linear(config.hidden_size, config.output_size)
        self._config = config

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        _, rows, columns = image.grid
        x = shuffle(x, rows, columns, self._config.scale)
        if self._config.hidden_size is None:
            x = self.proj(x)
        else:
            x = self.fc2(ACTIVATIONS[self._config.activation](self.fc1(self.norm(x))))
        return x.reshape(image.tokens, -1)
