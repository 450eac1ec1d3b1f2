"""The connector of DeepSeek-OCR 2 (arXiv 2601.20552)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import ViewConnectorConfig
from rave_mlx.inputs.images.preprocess import ImagePatches


class ViewConnector(nn.Module):
    """A linear layer on the tokens of all views of an image, and a learned vector that ends it."""

    def __init__(self, config: ViewConnectorConfig):
        super().__init__()
        self.proj = nn.Linear(config.input_size, config.output_size)
        self.ending = mx.zeros(config.output_size)

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tokens of all views, tower width) -> (visual tokens, decoder hidden)."""
        return mx.concatenate([self.proj(x), self.ending[None]])
