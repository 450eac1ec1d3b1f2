"""Pixel shuffle: the connectors of Idefics3 (arXiv 2408.12637) and InternVL (arXiv 2404.16821)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import ShuffleConnectorConfig
from rave_mlx.images import ImagePatches


class ShuffleConnector(nn.Module):
    """Pixel shuffle, then a linear layer (Idefics3) or an MLP (InternVL)."""

    def __init__(self, config: ShuffleConnectorConfig):
        super().__init__()
        raise NotImplementedError

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        raise NotImplementedError
