"""Vision tower of the Qwen-VL models: Qwen2-VL (arXiv 2409.12191), Qwen2.5-VL (2502.13923), Qwen3-VL (2511.21631).
PaddleOCR-VL (2510.14528), GLM-4V (2507.01006), GLM-OCR and HunyuanOCR have it with other switches.

Patches keep the image's own resolution. Layers attend over the whole image, or, in Qwen2.5-VL, most of them within
square windows (see `windows`).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from rave_mlx.attention import attend
from rave_mlx.backend.activations import ACTIVATIONS, gated
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import GridVisionConfig, VisionConfig
from rave_mlx.models.rope import RotaryTable, patch_table
from rave_mlx.models.vision.windows import Grid, Runs, WindowPlan, interpolation, plan_windows


class VisionAttention(nn.Module):
    """Multi-head attention without a mask: over runs of equal windows, or over everything."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width, bias = config.hidden_size, config.qkv_bias
        if config.fused_qkv:
            self.qkv = nn.Linear(width, 3 * width, bias=bias)
        else:
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.proj = nn.Linear(width, width, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm, self.k_norm = (nn.RMSNorm(width // config.num_heads, config.norm_eps) for _ in range(2))
        self._heads, self._fused, self._qk_norm = config.num_heads, config.fused_qkv, config.qk_norm

    def project(self, x: mx.array) -> mx.array:
        """Queries, keys and values side by side (patches, 3 * hidden) from normalized states (patches, hidden)."""
        if self._fused:
            return self.qkv(x)
        return mx.concatenate([self.q_proj(x), self.k_proj(x), self.v_proj(x)], axis=-1)

    def __call__(self, qkv: mx.array, table: RotaryTable | None, runs: Runs, images: int = 1) -> mx.array:
        """Attend within runs of windows.

        Args:
            qkv: (patches, 3 * hidden) of one image, or of several of one size, one after the other.
            table: of the patches of an image.
            runs: of an image, as in WindowPlan.
            images: how many there are.

        Returns:
            Heads side by side (patches, hidden).
        """
        hidden = qkv.shape[1] // 3
        width = hidden // self._heads
        q, k, v = qkv.reshape(images, -1, 3, self._heads, width).transpose(2, 3, 0, 1, 4)
        q, k = (self.q_norm(q), self.k_norm(k)) if self._qk_norm else (q, k)
        if table is not None:
            q, k = table.apply(q), table.apply(k)
        outputs: list[mx.array] = []
        start = 0
        for windows, size in runs:
            stop = start + windows * size
            shape = (self._heads, images * windows, size, width)
            parts = (t[:, :, start:stop].reshape(shape).swapaxes(0, 1) for t in (q, k, v))
            out = attend(*parts, scale=width**-0.5)
            outputs.append(out.transpose(0, 2, 1, 3).reshape(images, -1, hidden))
            start = stop
        return (outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=1)).reshape(-1, hidden)


class GatedMLP(nn.Module):
    """act(gate) * up (Qwen2.5-VL, Pixtral)."""

    def __init__(self, config: VisionConfig | GridVisionConfig, bias: bool):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=bias)
        self._activation = config.activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(gated(self._activation, self.gate_proj(x), self.up_proj(x)))


class PlainMLP(nn.Module):
    """Two layers (Qwen2-VL, Qwen3-VL)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self._activate = ACTIVATIONS[config.activation]

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(self._activate(self.fc1(x)))


def _norm(config: VisionConfig) -> nn.Module:
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.hidden_size, config.norm_eps)


class VisionLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1, self.norm2 = _norm(config), _norm(config)
        self.attention = VisionAttention(config)
        self.mlp = GatedMLP(config, config.mlp_bias) if config.mlp == "gated" else PlainMLP(config)

    def __call__(self, x: mx.array, table: RotaryTable | None, runs: Runs, images: int = 1) -> mx.array:
        (qkv,) = by_rows(lambda x: [self.attention.project(self.norm1(x))], x, axis=0)
        attended = self.attention(qkv, table, runs, images)
        return by_rows(self._finish, x, attended, axis=0)[0]

    def _finish(self, x: mx.array, attended: mx.array) -> list[mx.array]:
        """The layer from the joined heads (patches, hidden) on."""
        x = x + self.attention.proj(attended)
        return [x + self.mlp(self.norm2(x))]


class QwenVision(nn.Module):
    """Patches to features. `patch_embed` holds the 3-D convolution as a matrix (its stride equals its size)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        pixels = config.channels * config.temporal_patch_size * config.patch_size**2
        self.patch_embed = nn.Linear(pixels, config.hidden_size, bias=config.patch_bias)
        if config.position_side is not None:
            self.positions = mx.zeros((config.position_side**2 + config.position_class, config.hidden_size))
        if config.pre_norm:
            self.pre_norm = _norm(config)
        self.layers = [VisionLayer(config) for _ in range(config.depth)]
        if config.post_norm:
            self.post_norm = _norm(config)
        self._config = config

    def __call__(self, pixels: mx.array, grid: Grid) -> list[mx.array]:
        """Features of one image.

        Args:
            pixels: (patches, channels * frames * patch^2), the patches of each visual token together.
            grid: (1, patch rows, patch columns).

        Returns:
            (patches, hidden) in the order of `pixels`: the last layer's states, then those of the deepstack layers.
        """
        return self._read(pixels, grid, 1)

    def together(self, pixels: mx.array, grids: Sequence[Grid]) -> list[list[mx.array]]:
        """Features of several images of one size, as of a call for each: one operation for all of them.

        Args:
            pixels: of the images, one after the other.
            grids: of each, which are equal.
        """
        states = self._read(pixels, grids[0], len(grids))
        return [list(parts) for parts in zip(*(mx.split(state, len(grids)) for state in states), strict=True)]

    def _read(self, pixels: mx.array, grid: Grid, images: int) -> list[mx.array]:
        """As of a call, for so many images of one size, one after the other."""
        if grid[0] != 1:
            raise ValueError(f"the tower reads still images: 1 frame, not {grid[0]}")
        config = self._config
        plan = plan_windows(grid, config)
        x = self._reorder(self.patch_embed(pixels), plan.order, images)
        x = self.pre_norm(x) if config.pre_norm else x
        if config.position_side is not None:
            positions = self._learned_positions(plan, grid, config.position_side)
            x = x + (positions if images == 1 else mx.tile(positions, (images, 1)))
        width = config.hidden_size // config.num_heads
        table = patch_table(config.rope_theta, width, plan.rows, plan.columns) if config.rotary else None
        whole = ((1, pixels.shape[0] // images),)
        deep: list[mx.array] = []
        for index, layer in enumerate(self.layers):
            x = layer(x, table, whole if index in config.full_attention_layers else plan.runs, images)
            if index in config.deepstack_layers:
                deep.append(x)
        if config.post_norm:
            x = self.post_norm(x)
        back = np.argsort(plan.order).astype(np.int32)
        return [self._reorder(state, back, images) for state in (x, *deep)]

    def _reorder(self, x: mx.array, order: NDArray[np.int32], images: int) -> mx.array:
        """(patches, hidden) with the groups of patches behind an image's visual tokens in another order."""
        if self._config.window_size is None:
            return x
        cells = x.reshape(images, len(order), -1, x.shape[-1])
        return mx.take(cells, mx.array(order), axis=1).reshape(x.shape)

    def _learned_positions(self, plan: WindowPlan, grid: Grid, side: int) -> mx.array:
        """(patches, hidden) in the tower's order."""
        config = self._config
        table = self.positions[1:] if config.position_class else self.positions
        found = interpolation(plan, grid, side, config.position_fit, config.position_filter)

        def mix(places: mx.array, weights: mx.array) -> list[mx.array]:
            return [(table[places] * weights[..., None]).sum(axis=1).astype(table.dtype)]

        return by_rows(mix, *map(mx.array, found), axis=0)[0]
