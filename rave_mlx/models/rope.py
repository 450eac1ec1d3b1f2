"""Rotary positions (RoFormer, arXiv 2104.09864) in the rotate-half layout: one-dimensional, multimodal
(Qwen2-VL, arXiv 2409.12191) and two-dimensional for image patches. Tables are float32; how fast the pairs turn is
decided in `rope_scaling`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.backend.decode_ops import is_one_token, rotate
from rave_mlx.config import RopeConfig
from rave_mlx.models.rope_scaling import frequencies, rope_bucket


@dataclass(frozen=True)
class RotaryTable:
    """cos and sin of the angles, broadcastable to (B, H, L, d / 2)."""

    cos: mx.array
    sin: mx.array

    def apply(self, x: mx.array) -> mx.array:
        """Rotate (B, H, L, d): pairs are (i, i + d / 2)."""
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        cos, sin = self.cos.astype(x.dtype), self.sin.astype(x.dtype)
        return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def apply_both(self, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        """Rotate queries (B, H, L, d) and keys (B, G, L, d)."""
        if not is_one_token(q):
            return self.apply(q), self.apply(k)
        rotated = rotate(mx.concatenate([q, k], axis=1), *self._full_width)
        return rotated[:, : q.shape[1]], rotated[:, q.shape[1] :]

    @cached_property
    def _full_width(self) -> tuple[mx.array, mx.array]:
        """What a head and the head with its halves swapped are multiplied by (B, 1, L, d)."""
        return mx.concatenate([self.cos, self.cos], axis=-1), mx.concatenate([-self.sin, self.sin], axis=-1)


def text_table(config: RopeConfig, head_dim: int, positions: mx.array, longest: int | None = None) -> RotaryTable:
    """The rotary table of decoder tokens.

    Args:
        config: the settings. Without sections only the first of the three positions is used.
        head_dim: width of a head.
        positions: (B, 3, L): temporal, vertical and horizontal.
        longest: length in positions of the sequence that the tokens belong to, for scalings that follow it; None where
            these tokens end it, which is then read from the array (not traceable, and only done for such scalings).
    """
    if longest is None and config.scaling is not None and config.scaling.follows_length:
        longest = int(np.asarray(positions.max())) + 1
    turns, strength = frequencies(config, head_dim, rope_bucket(config, longest or 0))
    if config.sections is None:
        axes = positions[:, 0, :, None]
    else:
        axes = positions.swapaxes(1, 2)[..., mx.array(_axes(config.sections, config.interleaved))]
    angles = (axes.astype(mx.float32) * mx.array(turns, dtype=mx.float32))[:, None]
    cos, sin = mx.cos(angles), mx.sin(angles)
    return RotaryTable(cos, sin) if strength == 1 else RotaryTable(cos * strength, sin * strength)


def _axes(sections: tuple[int, ...], interleaved: bool) -> NDArray[np.int32]:
    """Which of the three positions each frequency turns with (see RopeConfig)."""
    if not interleaved:
        return np.repeat(np.arange(len(sections), dtype=np.int32), sections)
    axes = np.zeros(sum(sections), np.int32)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    return axes


def patch_table(theta: float, head_dim: int, rows: NDArray[np.int32], columns: NDArray[np.int32]) -> RotaryTable:
    """The rotary table of image patches: a quarter of the head turns with the row, a quarter with the column (twice).

    Args:
        theta: base of the frequencies.
        head_dim: width of a head, a multiple of 4.
        rows, columns: (patches,) where each stands in the image.
    """
    quarter = head_dim // 4
    frequencies = theta ** (-np.arange(quarter, dtype=np.float64) / quarter)
    angles = np.concatenate([rows[:, None] * frequencies, columns[:, None] * frequencies], axis=1)[None, None]
    return RotaryTable(mx.array(np.cos(angles).astype(np.float32)), mx.array(np.sin(angles).astype(np.float32)))
