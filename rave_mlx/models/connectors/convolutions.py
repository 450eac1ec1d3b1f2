"""The connector of GOT-OCR 2.0 (arXiv 2409.01704)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import ConvConnectorConfig
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.models.convolution import Convolution


class ConvConnector(nn.Module):
    """Two convolutions that halve both sides of the square of features, then a linear layer."""

    def __init__(self, config: ConvConnectorConfig):
        super().__init__()
        self.conv1 = Convolution(config.input_size, 2 * config.input_size, stride=2)
        self.conv2 = Convolution(2 * config.input_size, config.output_size, stride=2)
        self.proj = nn.Linear(config.output_size, config.output_size)

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        tiles, rows, columns = image.grid
        x = self.conv2(self.conv1(x.reshape(tiles, rows, columns, -1)))
        projected: mx.array = self.proj(x.reshape(image.tokens, -1))
        return projected
