"""Pair-gate attention as written on paper: explicit scores, O(Lq * Lk) memory.

Every other path is tested against this one, and this one against NumPy in float64.
"""

from __future__ import annotations

import mlx.core as mx

from rave_mlx.attention.gate import GateTerms, squash
from rave_mlx.attention.masks import Mask, as_bool, with_a_key


def reference(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    """softmax(scale * q k^T + bias + mask) v with every score in memory, computed in float32.

    Args:
        q: queries (B, H, Lq, d).
        k: keys (B, G, Lk, d).
        v: values (B, G, Lk, d).
        scale: factor of the dot products.
        mask: None, "causal" or boolean, as of `attend`; it may differ between heads.
        gate: bias terms.
    """
    scores = full_scores(q, k, scale=scale, gate=gate)
    allowed = as_bool(mask, q.shape[2], k.shape[2])
    has_key = None
    if allowed is not None:
        allowed, has_key = with_a_key(allowed)
        scores = mx.where(allowed, scores, -mx.inf)
    out = (mx.softmax(scores, axis=-1) @ _by_head(v, q.shape[1])).astype(q.dtype)
    return out if has_key is None else mx.where(has_key, out, mx.zeros((), out.dtype))


def full_scores(q: mx.array, k: mx.array, *, scale: float, gate: GateTerms | None = None) -> mx.array:
    """The scores scale * q k^T + bias (B, H, Lq, Lk) of every head in float32, before any mask."""
    scores = scale * q.astype(mx.float32) @ _by_head(k, q.shape[1]).swapaxes(-1, -2)
    return scores if gate is None else scores + full_bias(gate, q.shape[1], k.shape[1])


def full_bias(gate: GateTerms, num_heads: int, num_kv_heads: int) -> mx.array:
    """The bias b (B, H, Lq, Lk) of every head, zero for heads without a gate."""
    ratio = num_heads // num_kv_heads
    x = gate.u @ mx.repeat(gate.v, ratio, axis=1).swapaxes(-1, -2)
    gated = squash(x, gate.squash, gate.limit)
    rows = {g: i for i, g in enumerate(gate.groups)}
    none = mx.zeros((gated.shape[0], ratio, *gated.shape[2:]))
    parts = [gated[:, rows[g] * ratio : (rows[g] + 1) * ratio] if g in rows else none for g in range(num_kv_heads)]
    return mx.concatenate(parts, axis=1)


def _by_head(x: mx.array, num_heads: int) -> mx.array:
    """Keys or values (B, G, Lk, d) in float32, repeated for the query heads that share them: (B, H, Lk, d)."""
    return mx.repeat(x.astype(mx.float32), num_heads // x.shape[1], axis=1)
