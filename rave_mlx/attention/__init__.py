"""The only door from a decoder layer (or a vision layer) to a softmax.

`attend` decides how attention is computed; callers never do. Every path gives the numbers of `reference`:

| path      | when                                                                     |
|-----------|--------------------------------------------------------------------------|
| stock     | no gate, or no visual key yet: MLX's fused attention (on a CPU: chunked) |
| fold      | a linear gate whose widened heads stock attention still fuses (Metal, CUDA) |
| chunked   | any other gate: blocks of queries, memory O(block * Lk)                  |
| reference | tests: explicit scores in float32                                        |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.attention.chunked import chunked
from rave_mlx.attention.fold import can_fold, fold
from rave_mlx.attention.gate import GateTerms, PairGate
from rave_mlx.attention.masks import Mask, padded
from rave_mlx.attention.reference import reference

Path = Literal["stock", "fold", "chunked", "reference"]

__all__ = ["GateTerms", "Mask", "PairGate", "Path", "attend", "choose_path", "padded"]


def attend(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Mask = None,
    gate: GateTerms | None = None,
    path: Path | None = None,
) -> mx.array:
    """softmax(scale * q k^T + bias + mask) v.

    Args:
        q: rotated queries (B, H, Lq, d).
        k, v: rotated keys and values (B, G, Lk, d), H a multiple of G.
        mask: None, "causal" (aligned to the last key) or boolean, broadcastable to (B, 1, Lq, Lk).
        gate: bias terms; None for none.
        path: force one path; None lets the backend and the gate decide.

    Returns:
        (B, H, Lq, d) in q's dtype.

    Raises:
        ValueError: for a forced path that cannot compute this call.
    """
    if gate is not None and gate.span[0] >= gate.span[1]:
        gate = None
    return _PATHS[path or choose_path(gate, q.shape[-1])](q, k, v, scale=scale, mask=mask, gate=gate)


def choose_path(gate: GateTerms | None, head_dim: int) -> Path:
    """The path `attend` takes for a gate and head width on the current backend."""
    if backend.current().kind == "cpu":
        return "chunked"
    if gate is None:
        return "stock"
    return "fold" if can_fold(gate, head_dim) else "chunked"


def _stock(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    if gate is not None:
        raise ValueError("the stock path has no gate; use fold, chunked or reference")
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


_PATHS: dict[Path, Callable[..., mx.array]] = {
    "stock": _stock,
    "fold": fold,
    "chunked": chunked,
    "reference": reference,
}
