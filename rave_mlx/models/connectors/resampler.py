"""Perceiver resampler (Flamingo, arXiv 2204.14198) as AKI (arXiv 2503.02597) uses it.

Differences from the cross-attention of a decoder: keys and values are the features *and* the latents, normalised by
two norms of their own and projected by the same matrices; nothing is masked and nothing has a position; the feed-
forward brings its own norm. No layer but the last projection has a bias.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.attention import attend
from rave_mlx.backend.activations import gelu
from rave_mlx.config import ResamplerConfig
from rave_mlx.inputs.images.preprocess import ImagePatches


class ResamplerAttention(nn.Module):
    """Latents attend to the features of a tile and to themselves."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        width, inner = config.hidden_size, config.num_heads * config.head_dim
        self.feature_norm = nn.LayerNorm(width, config.norm_eps)
        self.latent_norm = nn.LayerNorm(width, config.norm_eps)
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, inner, bias=False)
        self.v_proj = nn.Linear(width, inner, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)
        self._heads, self._scale = config.num_heads, config.head_dim**-0.5

    def __call__(self, latents: mx.array, features: mx.array) -> mx.array:
        """(tiles, latents, width) and (tiles, features, width) -> (tiles, latents, width)."""
        latents = self.latent_norm(latents)
        context = mx.concatenate([self.feature_norm(features), latents], axis=1)
        q, k, v = (
            x.reshape(*x.shape[:2], self._heads, -1).swapaxes(1, 2)
            for x in (self.q_proj(latents), self.k_proj(context), self.v_proj(context))
        )
        out = attend(q, k, v, scale=self._scale)
        return self.o_proj(out.swapaxes(1, 2).reshape(*latents.shape[:2], -1))


class ResamplerMLP(nn.Module):
    """Norm, then two layers with GELU."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        width, inner = config.hidden_size, config.hidden_size * config.mlp_ratio
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.fc1 = nn.Linear(width, inner, bias=False)
        self.fc2 = nn.Linear(inner, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(gelu(self.fc1(self.norm(x))))


class ResamplerLayer(nn.Module):
    """Attention and MLP, each added to the latents."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        self.attention = ResamplerAttention(config)
        self.mlp = ResamplerMLP(config)

    def __call__(self, latents: mx.array, features: mx.array) -> mx.array:
        latents = latents + self.attention(latents, features)
        return latents + self.mlp(latents)


class Resampler(nn.Module):
    """Learned latents that attend to the features of a tile and to themselves, then go to the decoder's width."""

    def __init__(self, config: ResamplerConfig):
        super().__init__()
        self.latents = mx.zeros((config.latents, config.hidden_size))
        self.layers = [ResamplerLayer(config) for _ in range(config.depth)]
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.projection = nn.Linear(config.hidden_size, config.output_size)

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden): `latents` tokens a tile, in order."""
        latents = mx.broadcast_to(self.latents, (x.shape[0], *self.latents.shape))
        for layer in self.layers:
            latents = layer(latents, x)
        tokens: mx.array = self.projection(self.norm(latents))
        return tokens.reshape(image.tokens, -1)
