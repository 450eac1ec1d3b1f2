"""MLX's own attention, without a gate, with one property added: a query without a key gives zero."""

from __future__ import annotations

import mlx.core as mx

from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.masks import Mask, with_a_key


def stock(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    """softmax(scale * q k^T + mask) v by `mx.fast.scaled_dot_product_attention`.

    Args:
        q: queries (B, H, Lq, d).
        k: keys (B, G, Lk, d).
        v: values (B, G, Lk, d).
        scale: factor of the dot products.
        mask: None, "causal" or boolean, as of `attend`.
        gate: None; the parameter is there because all paths have it.

    Raises:
        ValueError: when there is a gate, which this path would leave out.
    """
    if gate is not None:
        raise ValueError("the stock path has no gate; use fold, kernel, chunked or reference")
    if not isinstance(mask, mx.array):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    # MLX gives NaN or the mean of all values for a query without a key, depending on the kernel it takes.
    mask, has_key = with_a_key(mask)
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    return mx.where(has_key, out, mx.zeros((), out.dtype))
