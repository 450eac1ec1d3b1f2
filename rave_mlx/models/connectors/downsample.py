"""The connector of GLM-4V (arXiv 2507.01006) and GLM-OCR."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import ACTIVATIONS, gelu
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import DownsampleConnectorConfig
from rave_mlx.inputs.images.preprocess import ImagePatches


class DownsampleConnector(nn.Module):
    """The patches of a cell joined by a linear layer, then a linear layer, layer norm and GELU, then a gated MLP."""

    def __init__(self, config: DownsampleConnectorConfig):
        super().__init__()
        width, inner = config.output_size, config.hidden_size
        self.join = nn.Linear(config.input_size * config.merge_size**2, width)
        self.proj = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self._patches, self._activate = config.merge_size**2, ACTIVATIONS[config.activation]

    def __call__(self, states: Sequence[mx.array], image: ImagePatches) -> mx.array:
        """(patches, tower width) of the last layer, the patches of a cell together -> (visual tokens, decoder
        hidden)."""
        cells = states[0].reshape(-1, self._patches, states[0].shape[-1])
        return by_rows(self._project, cells, axis=0)[0]

    def _project(self, cells: mx.array) -> list[mx.array]:
        """(cells, patches a cell, tower width) -> (cells, decoder hidden)."""
        # The joining layer reads channel after channel, each of all patches.
        x = gelu(self.norm(self.proj(self.join(cells.swapaxes(1, 2).flatten(1)))))
        return [self.down_proj(self._activate(self.gate_proj(x)) * self.up_proj(x))]
