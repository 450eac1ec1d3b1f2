"""A linear gate as extra head dimensions of stock attention.

With phi = identity the bias u_i . v_j is R more dimensions of the dot product: q' = [q~, u / scale], k' = [k~, v].
Stock fused attention then does everything, causal skipping included. Exact, not an approximation (the low-rank
case of FlashBias, arXiv 2505.12044).
"""

from __future__ import annotations

import mlx.core as mx

from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.masks import Mask

FUSED_WIDTHS = (64, 72, 80, 96, 128)
"""Head widths that MLX's fused attention takes for more than 8 queries on Metal (MLX 0.32)."""


def can_fold(gate: GateTerms, head_dim: int) -> bool:
    """Whether the gate is linear and the folded width still fits a fused head width."""
    return gate.squash == "identity" and head_dim + gate.v.shape[-1] <= FUSED_WIDTHS[-1]


def fold(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    """softmax(scale * q k^T + bias + mask) v through stock attention on widened heads. Shapes as in `attend`.

    Raises:
        ValueError: when the gate's squash is not the identity.
    """
    if gate is None:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    if gate.squash != "identity":
        raise ValueError(f"the fold path needs squash 'identity', the gate has {gate.squash!r}")
    width, wide = q.shape[-1], k.shape[-1] + gate.v.shape[-1]
    target = next((w for w in FUSED_WIDTHS if w >= wide), wide)
    ratio = q.shape[1] // k.shape[1]
    u = _spread(gate.u / scale, gate.groups, k.shape[1], ratio).astype(q.dtype)
    g = _spread(gate.v, gate.groups, k.shape[1], 1).astype(k.dtype)
    q = _pad_to(mx.concatenate([q, u], axis=-1), target)
    k = _pad_to(mx.concatenate([k, g], axis=-1), target)
    return mx.fast.scaled_dot_product_attention(q, k, _pad_to(v, target), scale=scale, mask=mask)[..., :width]


def _spread(x: mx.array, groups: tuple[int, ...], num_kv: int, ratio: int) -> mx.array:
    """Features of gated heads placed among all heads; ungated heads get zeros, so their bias is 0."""
    if groups == tuple(range(num_kv)):
        return x
    rows = {g: i for i, g in enumerate(groups)}
    none = mx.zeros((x.shape[0], ratio, *x.shape[2:]), x.dtype)
    parts = [x[:, rows[g] * ratio : (rows[g] + 1) * ratio] if g in rows else none for g in range(num_kv)]
    return mx.concatenate(parts, axis=1)


def _pad_to(x: mx.array, width: int) -> mx.array:
    return mx.pad(x, [(0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])]) if x.shape[-1] < width else x
