"""The connector of Pixtral (arXiv 2410.07073), and with joined patches that of Mistral Small 3.1 and LightOnOCR."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import ACTIVATIONS
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import CellConnectorConfig
from rave_mlx.inputs.images.preprocess import ImagePatches


class CellConnector(nn.Module):
    """A two-layer MLP on every cell of patches, which a norm and a linear layer may have joined to one feature."""

    def __init__(self, config: CellConnectorConfig):
        super().__init__()
        if config.join:
            self.norm = nn.RMSNorm(config.input_size, config.norm_eps)
            self.join = nn.Linear(config.input_size * config.merge_size**2, config.input_size, bias=False)
        self.fc1 = nn.Linear(config.input_size, config.hidden_size, bias=config.bias)
        self.fc2 = nn.Linear(config.hidden_size, config.output_size, bias=config.bias)
        self._config = config

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(patches, tower width), the patches of a cell together -> (visual tokens, decoder hidden)."""
        patches, width = self._config.merge_size**2, x.shape[-1]
        # Patches that fill no cell come last.
        cells = x[: image.tokens * patches].reshape(-1, patches, width)
        return by_rows(self._project, cells, axis=0)[0]

    def _project(self, cells: mx.array) -> list[mx.array]:
        """(cells, patches a cell, tower width) -> (cells, decoder hidden)."""
        x = cells[:, 0]
        if self._config.join:
            # The joining layer reads channel after channel, each of all patches.
            x = self.join(self.norm(cells).swapaxes(1, 2).flatten(1))
        return [self.fc2(ACTIVATIONS[self._config.activation](self.fc1(x)))]
