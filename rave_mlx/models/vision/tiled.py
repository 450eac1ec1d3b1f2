"""A vision transformer over square tiles: CLIP (arXiv 2103.00020), SigLIP (2303.15343), InternViT (2312.14238).

Every tile is read on its own, with learned positions, and attends to itself only; the tiles of an image are one batch.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend
from rave_mlx.attention import attend
from rave_mlx.backend.activations import ACTIVATIONS
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import TileVisionConfig
from rave_mlx.models.vision.tile_images import Grid, TileTower


def _norm(config: TileVisionConfig) -> nn.Module:
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.hidden_size, config.norm_eps)


class TileAttention(nn.Module):
    """Multi-head attention within each tile."""

    def __init__(self, config: TileVisionConfig):
        super().__init__()
        width = config.hidden_size
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, width)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(width, 1e-6)
            self.k_norm = nn.RMSNorm(width, 1e-6)
        self._heads, self._qk_norm = config.num_heads, config.qk_norm

    def project(self, x: mx.array) -> list[mx.array]:
        """Queries, keys and values (..., hidden) from normalized states."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return [self.q_norm(q), self.k_norm(k), v] if self._qk_norm else [q, k, v]

    def __call__(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """(tiles, patches, hidden) each -> heads side by side."""
        tiles, patches, hidden = q.shape
        q, k, v = (x.reshape(tiles, patches, self._heads, -1).swapaxes(1, 2) for x in (q, k, v))
        if tiles > 1 and backend.current().kind == "cpu" and backend.current().attention is None:
            # Blocks of queries are longer, and products faster, than with all tiles at once.
            out = mx.concatenate(
                [self._attend(*(mx.contiguous(x[i : i + 1]) for x in (q, k, v))) for i in range(tiles)]
            )
        else:
            out = self._attend(q, k, v)
        return out.swapaxes(1, 2).reshape(tiles, patches, hidden)

    @staticmethod
    def _attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return attend(q, k, v, scale=q.shape[-1] ** -0.5)


class TileMLP(nn.Module):
    """Two layers."""

    def __init__(self, config: TileVisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self._activate = ACTIVATIONS[config.activation]

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(self._activate(self.fc1(x)))


class TileLayer(nn.Module):
    """Pre-norm attention and MLP, each optionally scaled by a learned vector."""

    def __init__(self, config: TileVisionConfig):
        super().__init__()
        self.norm1, self.norm2 = _norm(config), _norm(config)
        self.attention = TileAttention(config)
        self.mlp = TileMLP(config)
        if config.layer_scale:
            self.scale1 = mx.ones(config.hidden_size)
            self.scale2 = mx.ones(config.hidden_size)
        self._scaled = config.layer_scale

    def __call__(self, x: mx.array) -> mx.array:
        q, k, v = by_rows(lambda x: self.attention.project(self.norm1(x)), x, axis=1)
        return by_rows(self._finish, x, self.attention(q, k, v), axis=1)[0]

    def _finish(self, x: mx.array, attended: mx.array) -> list[mx.array]:
        """The layer from the joined heads (tiles, states, hidden) on."""
        branch = self.attention.o_proj(attended)
        x = x + (branch * self.scale1 if self._scaled else branch)
        branch = self.mlp(self.norm2(x))
        return [x + (branch * self.scale2 if self._scaled else branch)]


class TileVision(TileTower):
    """Vision transformer from the patches of tiles to their features."""

    def __init__(self, config: TileVisionConfig):
        super().__init__()
        width = config.hidden_size
        self.patch_embed = nn.Linear(config.channels * config.patch_size**2, width, bias=config.patch_bias)
        if config.class_token:
            self.class_token = mx.zeros(width)
        self.positions = mx.zeros((config.side**2 + config.class_token, width))
        if config.pre_norm:
            self.pre_norm = nn.LayerNorm(width, config.norm_eps)
        self.layers = [TileLayer(config) for _ in range(config.depth)]
        if config.post_norm:
            self.post_norm = nn.LayerNorm(width, config.norm_eps)
        self._config = config

    def __call__(self, pixels: mx.array, grid: Grid) -> mx.array:
        """pixels (tiles * patches, channels * patch^2) of one image -> (tiles, features a tile, feature size).

        `grid`: tiles, patch rows and patch columns of a tile.
        """
        return self.read(pixels, grid)[0]

    def read(self, pixels: mx.array, grid: Grid) -> tuple[mx.array, int, mx.array]:
        """The features as of a call, the last layer that they passed, and what entered it (tiles, states, hidden)."""
        config = self._config
        tiles, rows, columns = grid
        x = self.patch_embed(pixels).reshape(tiles, rows * columns, -1)
        if config.class_token:
            first = mx.broadcast_to(self.class_token, (tiles, 1, config.hidden_size))
            x = mx.concatenate([first, x], axis=1)
        x = x + self.positions
        return self._select(self.pre_norm(x) if config.pre_norm else x)

    def _select(self, x: mx.array) -> tuple[mx.array, int, mx.array]:
        """`read` from embedded patches: the layers up to the last state that is a feature, and no further."""
        config = self._config
        whole = -1 in config.feature_layers
        last = config.depth if whole else max(config.feature_layers)
        states: dict[int, mx.array] = {}
        entering = x
        for index in range(last + 1):
            entering, x = x, self.layers[index - 1](x) if index else x
            if index in config.feature_layers:
                states[index] = x
        if whole:
            states[-1] = self.post_norm(x) if config.post_norm else x
        features = mx.concatenate([states[i] for i in config.feature_layers], axis=-1)
        kept = features[:, 1:] if config.class_token and not config.keep_class_token else features
        return kept, last - 1, entering
