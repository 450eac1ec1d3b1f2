"""Pair-gate attention as written on paper: explicit scores, O(Lq * Lk) memory. Every other path is tested
against this one, and this one against NumPy in float64."""

from __future__ import annotations

import mlx.core as mx

from rave_mlx.attention.gate import GateTerms, squash
from rave_mlx.attention.masks import Mask, as_bool


def reference(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    """softmax(scale * q k^T + bias + mask) v, computed in float32. Shapes as in `attend`."""
    ratio = q.shape[1] // k.shape[1]
    k32, v32 = (mx.repeat(x.astype(mx.float32), ratio, axis=1) for x in (k, v))
    scores = scale * q.astype(mx.float32) @ k32.swapaxes(-1, -2)
    if gate is not None:
        scores = scores + full_bias(gate, q.shape[1], k.shape[1])
    allowed = as_bool(mask, q.shape[2], k.shape[2])
    if allowed is not None:
        scores = mx.where(allowed, scores, -mx.inf)
    return (mx.softmax(scores, axis=-1) @ v32).astype(q.dtype)


def full_bias(gate: GateTerms, num_heads: int, num_kv_heads: int) -> mx.array:
    """The bias b (B, H, Lq, Lk) of every head, zero for heads without a gate."""
    ratio = num_heads // num_kv_heads
    x = gate.u @ mx.repeat(gate.v, ratio, axis=1).swapaxes(-1, -2)
    gated = squash(x, gate.squash, gate.limit)
    rows = {g: i for i, g in enumerate(gate.groups)}
    none = mx.zeros((gated.shape[0], ratio, *gated.shape[2:]))
    parts = [gated[:, rows[g] * ratio : (rows[g] + 1) * ratio] if g in rows else none for g in range(num_kv_heads)]
    return mx.concatenate(parts, axis=1)
