"""The connector of the LLaVA models (arXiv 2310.03744)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import MlpConnectorConfig
from rave_mlx.elementwise import ACTIVATIONS
from rave_mlx.images import ImagePatches


class MlpConnector(nn.Module):
    """Two layers on every feature (LLaVA)."""

    def __init__(self, config: MlpConnectorConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.input_size, config.hidden_size, bias=config.bias)
        self.fc2 = nn.Linear(config.hidden_size, config.output_size, bias=config.bias)
        self._activate = ACTIVATIONS[config.activation]

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        return self.fc2(self._activate(self.fc1(x))).reshape(image.tokens, -1)
