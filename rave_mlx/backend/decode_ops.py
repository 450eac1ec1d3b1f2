"""Operations of a decode step in fewer pieces: for one float32 token on a CPU, norms and rotations are compiled.

A written token is a few hundred operations on vectors; in a small model they cost more than the matrix products between
them. Shapes stay the same from token to token, so one trace each is all that is kept, while `mx.fast.rms_norm` is
twelve operations on a CPU. Everything else (several tokens, half precision, GPUs, no g++) takes MLX's usual way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend

_SHAPES = 64


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm`, in one kernel where it normalises a single float32 token on a CPU."""

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., L, width) / rms(x) * weight."""
        if not is_one_token(x) or self.weight.dtype != mx.float32:
            normalized: mx.array = super().__call__(x)
            return normalized
        return _compiled(_norm, tuple(x.shape))(x, self.weight, _number(self.eps))


def is_one_token(x: mx.array) -> bool:
    """Whether x (..., L, width) is one float32 token on a CPU on which kernels can be compiled."""
    return x.shape[-2] == 1 and x.dtype == mx.float32 and backend.current().kind == "cpu" and backend.current().jit


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotary positions of one token: x times `cos`, plus x with its halves swapped times `sin`.

    Args:
        x: (B, H, 1, d).
        cos: (B, 1, 1, d).
        sin: (B, 1, 1, d), negative in its first half.
    """
    return _compiled(_rotate, tuple(x.shape))(x, cos, sin)


def normalised_affine(x: mx.array, project: mx.array, offset: mx.array, eps: float) -> mx.array:
    """x / rms(x) @ project + offset: the gate's features of one query.

    Args:
        x: (B, H, 1, d).
        project: (H, d, R).
        offset: (H, 1, R).
        eps: added to the mean square of x.
    """
    # The sum of squares as a product: one operation instead of two.
    share, squares = _number(1 / x.shape[-1]), x @ x.swapaxes(-1, -2)
    return _compiled(_scaled_affine, tuple(x.shape))(x @ project, squares, share, offset, _number(eps))


def _scaled_affine(product: mx.array, squares: mx.array, share: mx.array, offset: mx.array, eps: mx.array) -> mx.array:
    return product * mx.rsqrt(squares * share + eps) + offset


def _norm(x: mx.array, weight: mx.array, eps: mx.array) -> mx.array:
    return x * mx.rsqrt(mx.mean(mx.square(x), axis=-1, keepdims=True) + eps) * weight


def _rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    half = x.shape[-1] // 2
    return x * cos + mx.concatenate([x[..., half:], x[..., :half]], axis=-1) * sin


@lru_cache(maxsize=_SHAPES)
def _number(value: float) -> mx.array:
    return mx.array(value)


@lru_cache(maxsize=_SHAPES)
def _compiled(function: Callable[..., mx.array], shape: tuple[int, ...]) -> Callable[..., mx.array]:
    # The shape is part of the key only: MLX never forgets a trace of a function, so each shape has its own.
    return mx.compile(function)
