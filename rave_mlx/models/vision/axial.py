"""Vision tower of the Gemma 4 shape: patches at the image's own resolution, norms before and after both parts of a
layer, learned positions of columns and rows beside rotary ones."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from rave_mlx.attention import attend
from rave_mlx.backend.activations import gated
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import AxialVisionConfig
from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.patch_order import patch_order
from rave_mlx.models.rope import RotaryTable

Grid = tuple[int, int, int]


class ClippedLinear(nn.Module):
    """A matrix whose input and output may be clipped to bounds that are no weights: training leaves them alone."""

    def __init__(self, width: int, output: int, clipped: bool):
        super().__init__()
        self.linear = nn.Linear(width, output, bias=False)
        if clipped:
            self.input_min, self.output_min = mx.array(-mx.inf), mx.array(-mx.inf)
            self.input_max, self.output_max = mx.array(mx.inf), mx.array(mx.inf)

    def __call__(self, x: mx.array) -> mx.array:
        if "input_min" not in self:
            return self.linear(x)
        out: mx.array = self.linear(mx.clip(x, self.input_min, self.input_max))
        return mx.clip(out, self.output_min, self.output_max)


class AxialAttention(nn.Module):
    """Attention of all patches of an image to each other; queries, keys and values are normed, scores unscaled."""

    def __init__(self, config: AxialVisionConfig):
        super().__init__()
        width, clipped = config.hidden_size, config.clipped
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = ClippedLinear(width, queries, clipped)
        self.k_proj = ClippedLinear(width, keys, clipped)
        self.v_proj = ClippedLinear(width, keys, clipped)
        self.o_proj = ClippedLinear(queries, width, clipped)
        self.q_norm = nn.RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, config.norm_eps)
        self._width, self._eps = config.head_dim, config.norm_eps

    def project(self, x: mx.array) -> list[mx.array]:
        """Normed queries, keys and values (patches, heads, d) from normed states (patches, hidden)."""
        q, k, v = (y.reshape(len(x), -1, self._width) for y in (self.q_proj(x), self.k_proj(x), self.v_proj(x)))
        return [self.q_norm(q), self.k_norm(k), mx.fast.rms_norm(v, None, self._eps)]

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, tables: tuple[RotaryTable, RotaryTable]) -> mx.array:
        """(patches, heads, d) each -> heads side by side; tables turn the first half of a head, and the second."""
        q, k, v = (x.swapaxes(0, 1)[None] for x in (q, k, v))
        half = self._width // 2

        def turned(x: mx.array) -> mx.array:
            return mx.concatenate([tables[0].apply(x[..., :half]), tables[1].apply(x[..., half:])], axis=-1)

        out = attend(turned(q), turned(k), v, scale=1.0)
        return out[0].swapaxes(0, 1).reshape(q.shape[2], -1)


class AxialMLP(nn.Module):
    """act(gate) * up."""

    def __init__(self, config: AxialVisionConfig):
        super().__init__()
        width, inner, clipped = config.hidden_size, config.intermediate_size, config.clipped
        self.gate_proj = ClippedLinear(width, inner, clipped)
        self.up_proj = ClippedLinear(width, inner, clipped)
        self.down_proj = ClippedLinear(inner, width, clipped)
        self._activation = config.activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(gated(self._activation, self.gate_proj(x), self.up_proj(x)))


class AxialLayer(nn.Module):
    """Attention and MLP, each between two norms."""

    def __init__(self, config: AxialVisionConfig):
        super().__init__()
        self.norm1, self.attention_out_norm, self.norm2, self.mlp_out_norm = (
            nn.RMSNorm(config.hidden_size, config.norm_eps) for _ in range(4)
        )
        self.attention = AxialAttention(config)
        self.mlp = AxialMLP(config)

    def __call__(self, x: mx.array, tables: tuple[RotaryTable, RotaryTable]) -> mx.array:
        q, k, v = by_rows(lambda x: self.attention.project(self.norm1(x)), x, axis=0)
        return by_rows(self._finish, x, self.attention(q, k, v, tables), axis=0)[0]

    def _finish(self, x: mx.array, attended: mx.array) -> list[mx.array]:
        """The layer from the joined heads (patches, heads * d) on."""
        x = x + self.attention_out_norm(self.attention.o_proj(attended))
        return [x + self.mlp_out_norm(self.mlp(self.norm2(x)))]


class AxialVision(nn.Module):
    """Patches to features. `positions` (2, n, hidden) are those of columns, then those of rows."""

    def __init__(self, config: AxialVisionConfig):
        super().__init__()
        self.patch_embed = nn.Linear(config.channels * config.patch_size**2, config.hidden_size, bias=False)
        self.positions = mx.zeros((2, config.positions, config.hidden_size))
        self.layers = [AxialLayer(config) for _ in range(config.depth)]
        self._config = config

    def __call__(self, pixels: mx.array, grid: Grid) -> mx.array:
        """Features of one image.

        Args:
            pixels: (patches, channels * patch^2), in the order of `patch_order`.
            grid: (1, patch rows, patch columns).

        Returns:
            (patches, hidden) in the order of `pixels`.

        Raises:
            ImageError: for more patches a side than there are positions.
        """
        config = self._config
        check_positions(grid, config.positions)
        rows, columns = patch_order(grid[1], grid[2], config.merge_size)
        # The matrix reads pixel after pixel, each with all of its channels.
        pixels = pixels.reshape(len(pixels), config.channels, -1).swapaxes(1, 2).flatten(1)
        x = self.patch_embed(pixels) + self.positions[0][mx.array(columns)] + self.positions[1][mx.array(rows)]
        tables = _table(config, columns), _table(config, rows)
        for layer in self.layers:
            x = layer(x, tables)
        return x


def check_positions(grid: Grid, positions: int) -> None:
    """Refuse an image with more patches a side than there are learned positions.

    Raises:
        ImageError: for such an image.
    """
    if max(grid[1:]) > positions:
        raise ImageError(
            f"{grid[2]} x {grid[1]} patches of an image are more than the {positions} a side that the model has "
            "positions for; lower --image-tokens or crop the image"
        )


def _table(config: AxialVisionConfig, places: NDArray[np.int32]) -> RotaryTable:
    """The rotary table of half a head, for one axis of patches."""
    quarter = config.head_dim // 4
    angles = places[:, None] * config.rope_theta ** (-np.arange(quarter, dtype=np.float64) / quarter)
    cos, sin = (mx.array(turn(angles)[None, None].astype(np.float32)) for turn in (np.cos, np.sin))
    return RotaryTable(cos, sin)
