"""A linear gate as extra head dimensions of stock attention.

With phi = identity the bias u_i . v_j is R more dimensions of the dot product: q' = [q~, u / scale], k' = [k~, v].
Stock fused attention then does everything, causal skipping included (the low-rank case of FlashBias, arXiv
2505.12044). In float32 it is exact: 5e-7 from float64, as is `chunked`. In half precision it is not: the gate's
features are rounded to the type of the queries, so that a bias of standard deviation 1 (of 4, 16) brings 3.6 (5.7, 12)
times the error of `chunked`, in bfloat16 6.0e-3 (9.5e-3, 1.7e-2) instead of 1.7e-3. There `attend` takes the kernels.
"""

from __future__ import annotations

import mlx.core as mx

from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.masks import Mask
from rave_mlx.attention.stock import stock

FUSED_WIDTHS = (64, 72, 80, 96, 128)
"""Head widths that MLX's fused attention takes for more than 8 queries on Metal (MLX 0.32)."""


def can_fold(gate: GateTerms, q: mx.array) -> bool:
    """Whether folding is exact and fast: a linear gate, float32, and a folded width that is still a fused one."""
    return gate.squash == "identity" and q.dtype == mx.float32 and q.shape[-1] + gate.v.shape[-1] <= FUSED_WIDTHS[-1]


def fold(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    """softmax(scale * q k^T + bias + mask) v through stock attention on widened heads.

    Args:
        q: queries (B, H, Lq, d).
        k: keys (B, G, Lk, d).
        v: values (B, G, Lk, d).
        scale: factor of the dot products.
        mask: None, "causal" or boolean, as of `attend`.
        gate: bias terms with squash "identity"; they are rounded to the dtype of q and k.

    Raises:
        ValueError: when the gate's squash is not the identity.
    """
    if gate is None:
        return stock(q, k, v, scale=scale, mask=mask)
    if gate.squash != "identity":
        raise ValueError(f"the fold path needs squash 'identity', the gate has {gate.squash!r}")
    width, wide = q.shape[-1], k.shape[-1] + gate.v.shape[-1]
    target = next((w for w in FUSED_WIDTHS if w >= wide), wide)
    ratio = q.shape[1] // k.shape[1]
    u = _spread(gate.u / scale, gate.groups, k.shape[1], ratio).astype(q.dtype)
    g = _spread(gate.v, gate.groups, k.shape[1], 1).astype(k.dtype)
    q = _pad_to(mx.concatenate([q, u], axis=-1), target)
    k = _pad_to(mx.concatenate([k, g], axis=-1), target)
    return stock(q, k, _pad_to(v, target), scale=scale, mask=mask)[..., :width]


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
