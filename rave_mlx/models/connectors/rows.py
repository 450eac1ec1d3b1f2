"""The connector of HunyuanOCR, whose rows of visual tokens have ends."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import ACTIVATIONS
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import RowConnectorConfig
from rave_mlx.inputs.images.preprocess import ImagePatches


class RowConnector(nn.Module):
    """Cells of patches to the decoder's width, with learned features after every row, and before and after all rows.

    `separator` is a weight of the published models that nothing reads.
    """

    def __init__(self, config: RowConnectorConfig):
        super().__init__()
        width, out = config.input_size, config.output_size
        self.norm = nn.RMSNorm(width, config.norm_eps)
        self.join = nn.Linear(width * config.merge_size**2, 2 * width)
        self.widen = nn.Linear(2 * width, 4 * width)
        self.proj = nn.Linear(4 * width, out)
        self.out_norm = nn.RMSNorm(out, config.norm_eps)
        self.newline = mx.zeros(4 * width)
        self.begin, self.end, self.separator = mx.zeros(out), mx.zeros(out), mx.zeros(out)
        self._side, self._activate = config.merge_size, ACTIVATIONS[config.activation]

    def __call__(self, states: Sequence[mx.array], image: ImagePatches) -> mx.array:
        """(patches, tower width) of the last layer, the patches of a cell together -> (visual tokens, decoder
        hidden)."""
        rows, columns = (count // self._side for count in image.grid[1:])
        cells = states[0].reshape(rows * columns, self._side**2, states[0].shape[-1])
        (wide,) = by_rows(self._join, cells, axis=0)
        ends = mx.broadcast_to(self.newline, (rows, 1, wide.shape[-1]))
        lines = mx.concatenate([wide.reshape(rows, columns, -1), ends], axis=1)
        tokens = self.proj(lines.reshape(rows * (columns + 1), -1))
        whole: mx.array = self.out_norm(mx.concatenate([self.begin[None], tokens, self.end[None]]))
        return whole

    def _join(self, cells: mx.array) -> list[mx.array]:
        """(cells, patches a cell, tower width) -> (cells, 4 * tower width)."""
        # The joining layer reads channel after channel, each of all patches.
        return [self.widen(self._activate(self.join(self.norm(cells).swapaxes(1, 2).flatten(1))))]
