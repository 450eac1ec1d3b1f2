"""A tower whose visual tokens are learned queries, which an encoder with a decoder's layers reads after the features of
a view (DeepSeek-OCR 2, arXiv 2601.20552)."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from rave_mlx.config import QueryVisionConfig
from rave_mlx.models.convolution import Convolution
from rave_mlx.models.decoder_layer import DecoderLayer
from rave_mlx.models.norms import text_norm
from rave_mlx.models.rope import Consecutive, text_rotation
from rave_mlx.models.step import Step
from rave_mlx.models.vision.tile_images import Grid
from rave_mlx.models.vision.windowed_tiles import WindowVision


class Queries(nn.Module):
    """So many learned vectors, as a module of their own: MLX freezes no list of arrays."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.vectors = mx.zeros((count, width))


class QueryVision(nn.Module):
    """Patches of an image's views to its visual tokens, view after view."""

    def __init__(self, config: QueryVisionConfig):
        super().__init__()
        encoder, width = config.encoder(), config.hidden_size
        self.patches = WindowVision(config.patches)
        self.halve1 = Convolution(config.patches.output_size, config.middle_size, stride=2)
        self.halve2 = Convolution(config.middle_size, width, stride=2)
        self.queries = [Queries(count, width) for count in config.queries]
        self.layers = [DecoderLayer(encoder, i, None) for i in range(config.depth)]
        self.norm = text_norm(encoder, width)
        self._config, self._encoder = config, encoder

    def __call__(self, pixels: mx.array, grid: Grid) -> mx.array:
        """pixels (patches, channels * patch^2) of one image -> visual tokens (tokens, hidden).

        `grid`: tiles, patch rows and patch columns of a tile. The patches that follow those of the tiles are of the one
        view of the whole image, which is a square.
        """
        tiles, rows, columns = grid
        first = tiles * rows * columns
        side = math.isqrt(pixels.shape[0] - first)
        found = [self.view(pixels[:first], grid)] if tiles else []
        return mx.concatenate([*found, self.view(pixels[first:], (1, side, side))]) if side else found[0]

    def view(self, pixels: mx.array, grid: Grid) -> mx.array:
        """Patches of views of one size -> their tokens (views * queries, hidden)."""
        views, rows, columns = grid
        features = self.patches(pixels, grid).reshape(views, rows, columns, -1)
        features = self.halve2(self.halve1(features)).reshape(views, -1, self._config.hidden_size)
        seen = features.shape[1]
        queries = self.queries[self._config.asked(seen)].vectors
        x = mx.concatenate([features, mx.broadcast_to(queries, (views, *queries.shape))], axis=1)
        for layer in self.layers:
            x = layer(x, self._step(x, seen), None)
        tokens: mx.array = self.norm(x[:, seen:]).flatten(0, 1)
        return tokens

    def _step(self, x: mx.array, seen: int) -> Step:
        """What the layers know about `seen` features and the queries after them."""
        length, encoder = x.shape[1], self._encoder
        rotation = text_rotation(encoder.rope, encoder.head_dim, Consecutive((0,), length), None, x.dtype)
        keys = np.arange(length)
        mask = mx.array((keys <= keys[:, None]) | (keys < seen))[None, None]
        return Step(rotation, mask, mask, None, None)
