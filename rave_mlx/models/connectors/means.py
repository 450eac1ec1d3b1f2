"""The connector of Gemma 4: the mean of the patches of a cell, a norm without a weight, a matrix."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import MeanConnectorConfig
from rave_mlx.inputs.images.preprocess import ImagePatches


class MeanConnector(nn.Module):
    """The mean of a cell's patches, standardized where the configuration says so; a norm, a matrix.

    `feature_offset` and `feature_factor` are statistics and no weights: training leaves them alone.
    """

    def __init__(self, config: MeanConnectorConfig):
        super().__init__()
        if config.standardize:
            self.feature_offset, self.feature_factor = mx.zeros(config.input_size), mx.ones(config.input_size)
        self.projection = nn.Linear(config.input_size, config.output_size, bias=False)
        self._patches, self._eps = config.merge_size**2, config.norm_eps
        self._factor = config.input_size**0.5 if config.widen else 1.0

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(patches, tower width), the patches of a cell together -> (visual tokens, decoder hidden)."""
        width, dtype = x.shape[-1], x.dtype
        x = x.astype(mx.float32).reshape(-1, self._patches, width).mean(axis=1) * self._factor
        if "feature_offset" in self:
            x = (x - self.feature_offset) * self.feature_factor
        return self.projection(mx.fast.rms_norm(x.astype(dtype), None, self._eps))
