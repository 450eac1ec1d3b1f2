"""Attention on a CPU by the compiled kernels (`backend.cpu.block_attention`): the softmax of a block of scores while
they are in a core's cache, between the two products of the BLAS."""

from __future__ import annotations

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.attention.chunked import FEW_QUERIES
from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.gradient import differentiable
from rave_mlx.attention.kernels.fused import Packed
from rave_mlx.attention.masks import Mask
from rave_mlx.backend.cpu.block_attention import Bias


def takes_blocks(q: mx.array, k: mx.array | Packed, v: mx.array | Packed, mask: Mask, gate: GateTerms | None) -> bool:
    """Whether the kernels are there and cover a call: float32, more than a few queries, no mask but the causal one."""
    if q.shape[2] <= FEW_QUERIES or isinstance(mask, mx.array) or isinstance(k, Packed) or isinstance(v, Packed):
        return False
    if backend.current().attention is None or {q.dtype, k.dtype, v.dtype} != {mx.float32} or 0 in v.shape:
        return False
    return gate is None or gate.squash in ("tanh", "identity")


def blocks(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    """softmax(scale * q k^T + bias + mask) v, with the gradient of the train path.

    Args:
        q: queries (B, H, Lq, d).
        k: keys (B, G, Lk, d).
        v: values (B, G, Lk, dv).
        scale: factor of the dot products.
        mask: None or "causal".
        gate: bias terms.

    Returns:
        (B, H, Lq, dv).

    Raises:
        ValueError: for a call that the kernels do not cover.
    """
    attention = backend.current().attention
    if attention is None or not takes_blocks(q, k, v, mask, gate):
        raise ValueError("the kernels do not cover this call; use chunked or reference")

    def forward(q: mx.array, k: mx.array, v: mx.array, mask: Mask, gate: GateTerms | None) -> tuple[mx.array, mx.array]:
        return attention(q, k, v, scale, mask is not None, None if gate is None else _bias(gate, k.shape[1]))

    return differentiable(forward, q, k, v, scale=scale, mask=mask, gate=gate)[0]


def _bias(gate: GateTerms, num_kv: int) -> Bias:
    places = tuple(gate.groups.index(g) if g in gate.groups else -1 for g in range(num_kv))
    bound = gate.limit if gate.squash == "tanh" else None
    return Bias(gate.u.astype(mx.float32), gate.v.astype(mx.float32), *gate.span, bound, places)
