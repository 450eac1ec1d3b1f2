"""Vision tower of the Qwen2.5-VL shape (arXiv 2502.13923).

Patches keep the image's own resolution. Most layers attend within square windows, a few over the whole image.
Windows at the right and bottom edge are smaller; patches are therefore sorted so that windows of one size stand
together, and each size is one batched attention call. Attention inside a window and over the whole image does not
depend on the order, which is undone after the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from rave_mlx.attention import attend
from rave_mlx.config import VisionConfig
from rave_mlx.elementwise import silu_mul
from rave_mlx.models.rope import RotaryTable, patch_table
from rave_mlx.parallel import by_rows

Grid = tuple[int, int, int]
Runs = tuple[tuple[int, int], ...]
"""(windows, patches a window) of runs of equally large windows."""


@dataclass(frozen=True)
class WindowPlan:
    """How the patches of one image are ordered for windowed attention.

    Attributes:
        order: for each place in the tower's order, the index of the visual token (merge_size^2 patches) there.
        runs: (windows, patches a window) of each run of equally large windows, in the tower's order.
        rows, columns: patch coordinates in the tower's order, for the rotary table.
    """

    order: NDArray[np.int32]
    runs: Runs
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]


def plan_windows(grid: Grid, config: VisionConfig) -> WindowPlan:
    """Order the patches of an image of `grid` (frames, patch rows, patch columns)."""
    frames, high, wide = grid
    merge = config.merge_size
    assert config.window_size is not None
    side = config.window_size // config.patch_size // merge
    cells_high, cells_wide = high // merge, wide // merge
    index = np.arange(frames * cells_high * cells_wide, dtype=np.int32)
    frame, rest = np.divmod(index, cells_high * cells_wide)
    row, column = np.divmod(rest, cells_wide)
    across, down = -(-cells_wide // side), -(-cells_high // side)
    window = (frame * down + row // side) * across + column // side
    size = np.bincount(window)[window]
    order = np.lexsort((index, window, -size)).astype(np.int32)
    sizes, counts = np.unique(np.bincount(window), return_counts=True)
    runs = tuple((int(n), int(s) * merge * merge) for s, n in zip(sizes[::-1], counts[::-1], strict=True))
    inner_row, inner_column = np.divmod(np.arange(merge * merge, dtype=np.int32), merge)
    rows = (row[order, None] * merge + inner_row).reshape(-1).astype(np.int32)
    columns = (column[order, None] * merge + inner_column).reshape(-1).astype(np.int32)
    return WindowPlan(order, runs, rows, columns)


class VisionAttention(nn.Module):
    """Multi-head attention without a mask: over runs of equal windows, or over everything."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self._heads = config.num_heads

    def __call__(self, qkv: mx.array, table: RotaryTable, runs: Runs) -> mx.array:
        """qkv (patches, 3 * hidden) -> heads side by side (patches, hidden); `runs` as in WindowPlan."""
        count, hidden = qkv.shape[0], qkv.shape[1] // 3
        width = hidden // self._heads
        q, k, v = qkv.reshape(count, 3, self._heads, width).transpose(1, 2, 0, 3)
        q, k = table.apply(q[None])[0], table.apply(k[None])[0]
        outputs: list[mx.array] = []
        start = 0
        for windows, size in runs:
            stop = start + windows * size
            shape = (self._heads, windows, size, width)
            parts = (t[:, start:stop].reshape(shape).swapaxes(0, 1) for t in (q, k, v))
            out = attend(*parts, scale=width**-0.5)
            outputs.append(out.transpose(0, 2, 1, 3).reshape(-1, hidden))
            start = stop
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)


class VisionMLP(nn.Module):
    """SwiGLU with biases."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(silu_mul(self.gate_proj(x), self.up_proj(x)))


class VisionLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1 = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.norm2 = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def __call__(self, x: mx.array, table: RotaryTable, runs: Runs) -> mx.array:
        (qkv,) = by_rows(lambda x: [self.attention.qkv(self.norm1(x))], x, axis=0)
        attended = self.attention(qkv, table, runs)
        return by_rows(self._finish, x, attended, axis=0)[0]

    def _finish(self, x: mx.array, attended: mx.array) -> list[mx.array]:
        x = x + self.attention.proj(attended)
        return [x + self.mlp(self.norm2(x))]


class QwenVision(nn.Module):
    """Patches to features. `patch_embed` holds the 3-D convolution as a matrix (its stride equals its size)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        pixels = config.channels * config.temporal_patch_size * config.patch_size**2
        self.patch_embed = nn.Linear(pixels, config.hidden_size, bias=False)
        self.layers = [VisionLayer(config) for _ in range(config.depth)]
        self._config = config

    def __call__(self, pixels: mx.array, grid: Grid) -> mx.array:
        """pixels (patches, channels * frames * patch^2) of one image in merge-block order -> (patches, hidden)."""
        config = self._config
        plan = plan_windows(grid, config)
        area = config.merge_size**2
        x = self.patch_embed(pixels)
        x = x.reshape(len(plan.order), area, -1)[mx.array(plan.order)].reshape(pixels.shape[0], -1)
        table = patch_table(config.rope_theta, config.hidden_size // config.num_heads, plan.rows, plan.columns)
        whole = self._whole_runs(grid)
        for index, layer in enumerate(self.layers):
            x = layer(x, table, whole if index in config.full_attention_layers else plan.runs)
        back = np.argsort(plan.order).astype(np.int32)
        return x.reshape(len(back), area, -1)[mx.array(back)].reshape(pixels.shape[0], -1)

    def _whole_runs(self, grid: Grid) -> Runs:
        frames, high, wide = grid
        if frames != 1:
            raise ValueError(f"the tower reads still images: 1 frame, not {frames}")
        return ((1, high * wide),)
