"""The connector of Granite-Docling: pixel shuffle on one of two paths, fixed places, states of several layers."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from rave_mlx.backend.activations import gelu
from rave_mlx.config import PathConnectorConfig, TileVisionConfig
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.models.connectors.shuffle import shuffle

_BASE = 10000.0


def places(side: int, width: int) -> NDArray[np.float32]:
    """The fixed position (side^2, width) of every token of a tile, in reading order.

    A quarter each: sine and cosine of the column times frequencies from 1 down to almost 1 / 10,000, then of the row.

    Args:
        side: tokens a side of the tile.
        width: a multiple of 4.
    """
    frequencies = _BASE ** -(np.arange(width // 4) / (width // 4))
    rows, columns = np.divmod(np.arange(side**2), side)
    angles = [np.outer(x, frequencies) for x in (columns, rows)]
    return np.concatenate([f(x) for x in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


class StateMerger(nn.Module):
    """A layer norm and a two-layer MLP on a shuffled state of the tower."""

    def __init__(self, wide: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(wide)
        self.fc1 = nn.Linear(wide, width)
        self.fc2 = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(gelu(self.fc1(self.norm(x))))


class Path(nn.Module):
    """What the two paths have of their own: `scale` x `scale` features become one token."""

    def __init__(self, config: PathConnectorConfig, side: int, scale: int):
        super().__init__()
        wide, width = config.input_size * scale**2, config.output_size
        self.proj = nn.Linear(wide, width, bias=False)
        self.states = [StateMerger(wide, width) for _ in range(config.states)]
        self._scale, self._places = scale, mx.array(places(side // scale, width))

    def __call__(self, x: mx.array, states: list[mx.array], rows: int, columns: int) -> tuple[mx.array, list[mx.array]]:
        """Tokens (tiles, tokens, decoder hidden) from normed features, and the same of each further state.

        Args:
            x, states: (tiles, rows * columns, tower width).
            rows, columns: of the patches of a tile.
        """
        token = self.proj(shuffle(x, rows, columns, self._scale))
        token = token + self._places.astype(token.dtype)
        pairs = zip(self.states, states, strict=True)
        return token, [merge(shuffle(state, rows, columns, self._scale)) for merge, state in pairs]


class PageRouter(nn.Module):
    """Says for which pages the fine path is worth its tokens; kept for exports, see `PathConnectorConfig`."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.attention = nn.Linear(width, 1)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, 1)


class PathConnector(nn.Module):
    """Norms and a matrix that both paths share, around the path that is taken."""

    def __init__(self, config: PathConnectorConfig, vision: TileVisionConfig):
        super().__init__()
        self.norm_in = nn.LayerNorm(config.input_size)
        self.coarse = Path(config, vision.side, config.scale)
        if config.fine:
            self.fine = Path(config, vision.side, config.scale // 2)
        self.norm_mid = nn.LayerNorm(config.output_size)
        self.proj = nn.Linear(config.output_size, config.output_size, bias=False)
        self.norm_out = nn.LayerNorm(config.output_size)
        if config.router_size is not None:
            self.router = PageRouter(config.input_size, config.router_size)
        self._config = config

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, (1 + n) * tower width) -> (visual tokens, (1 + n) * decoder hidden)."""
        _, rows, columns = image.grid
        config = self._config
        last, *states = mx.split(x, 1 + config.states, axis=-1)
        path = self.coarse if config.path == "coarse" else self.fine
        token, deep = path(self.norm_in(last), states, rows, columns)
        token = self.norm_out(self.proj(gelu(self.norm_mid(token))))
        token = token if config.token_scale == 1 else token * config.token_scale
        return mx.concatenate([token, *deep], axis=-1).reshape(image.tokens, -1)
