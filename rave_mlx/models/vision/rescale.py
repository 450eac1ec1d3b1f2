"""Learned positions of a tower brought to another number of places, as torch's `interpolate` does: its places are
float32 numbers, whose rounding shows."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray


def rescaled_line(x: mx.array, count: int) -> mx.array:
    """Vectors along a line (size, width) at `count` places, linearly between the nearest two: (count, width)."""
    return x if x.shape[0] == count else (mx.array(_linear(x.shape[0], count)) @ x).astype(x.dtype)


def rescaled_square(x: mx.array, count: int) -> mx.array:
    """Vectors of a square of places (side^2, width) at count x count places: (count^2, width).

    Cubically, smoothed where the square becomes smaller (`antialias`), in float32.
    """
    side = round(x.shape[0] ** 0.5)
    if side == count:
        return x
    weights = mx.array(_cubic(side, count))
    rows = (weights @ x.astype(mx.float32).reshape(side, -1)).reshape(count, side, -1)
    return (weights @ rows).reshape(count * count, -1).astype(x.dtype)


@lru_cache(maxsize=64)
def _linear(size: int, count: int) -> NDArray[np.float32]:
    """(count, size): the share of each of `size` samples in each of `count` places."""
    half, step = np.float32(0.5), np.float32(size / count)
    place = np.maximum((np.arange(count, dtype=np.float32) + half) * step - half, 0)
    low = np.minimum(place.astype(int), size - 1)
    weights = np.zeros((count, size), np.float32)
    np.add.at(weights, (np.arange(count), low), 1 - (place - low))
    np.add.at(weights, (np.arange(count), np.minimum(low + 1, size - 1)), place - low)
    return weights


@lru_cache(maxsize=64)
def _cubic(size: int, count: int) -> NDArray[np.float32]:
    """The same by Keys' cubic (a = -0.5), as wide as a step between the places where that is wider than a sample."""
    half, step = np.float32(0.5), np.float32(size / count)
    width = max(step, np.float32(1))
    centre = (np.arange(count, dtype=np.float32) + half) * step
    first = np.maximum((centre - 2 * width + half).astype(int), 0)[:, None]
    last = np.minimum((centre + 2 * width + half).astype(int), size)[:, None]
    sample = np.arange(size)
    t = np.abs((sample.astype(np.float32) - centre[:, None] + half) / width)
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0)) * ((sample >= first) & (sample < last))
    shares: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares
