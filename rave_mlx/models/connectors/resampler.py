"""Perceiver resampler (Flamingo, arXiv 2204.14198) as AKI uses it."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import ResamplerConfig
from rave_mlx.images import ImagePatches


class Resampler(nn.Module):
    """Learned latents that attend to the features of a tile and to themselves."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        raise NotImplementedError

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        raise NotImplementedError
