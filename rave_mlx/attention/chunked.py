"""Exact attention one block of queries at a time: the path for CPUs, and for gates where no fused kernel is.

Scores exist for one block only, so memory is O(block * Lk) instead of O(Lq * Lk) a head; keys after a block's
last query are never touched, which halves causal work. Blocks and head sets are independent, and on a CPU each
MLX stream runs on a thread of its own, so they are dealt out over the backend's streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.attention.gate import GateTerms, squash
from rave_mlx.attention.head_groups import PARALLEL_SCORES, take
from rave_mlx.attention.masks import Mask, causal, with_a_key
from rave_mlx.backend.activations import LOG2E, exp2, exp2_down, tanh_limit

_SCORES = 1 << 21
"""Scores of one block, so that they stay in a core's cache between the softmax's passes over them."""
_ROWS = (16, 256)
"""Fewest and most queries of a block."""
FEW_QUERIES = 8
"""Queries up to which one pass over all heads costs less than passes over gated and ungated heads apart: products
of so few are bound by reading the keys."""
_LOWEST = -1e30
"""Below every score, and finite: the maximum of a query without a key."""


@dataclass(frozen=True)
class _HeadSet:
    """KV heads that share one treatment: gated or not."""

    groups: tuple[int, ...]
    gate: GateTerms | None


def chunked(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Mask = None,
    gate: GateTerms | None = None,
    block: int | None = None,
    fused: bool | None = None,
) -> mx.array:
    """softmax(scale * q k^T + bias + mask) v, one block of queries at a time.

    Args:
        q: queries (B, H, Lq, d).
        k: keys (B, G, Lk, d).
        v: values (B, G, Lk, dv).
        scale: factor of the dot products.
        mask: None, "causal" (with Lq <= Lk) or boolean and the same for all heads.
        gate: bias terms.
        block: queries taken at a time; None keeps a block's scores in the cache of a core.
        fused: True gives each block to MLX's fused attention with the bias as its mask, False computes the softmax
            here; None takes the first on a GPU, and the second on a CPU, where MLX's own softmax is slow.

    Returns:
        (B, H, Lq, dv) in q's dtype; zero for a query that may attend to no key.

    Raises:
        ValueError: for a mask that differs between heads.
    """
    batch, num_heads, num_queries, _ = q.shape
    num_kv, num_keys = k.shape[1], k.shape[2]
    ratio = num_heads // num_kv
    q = q.reshape(batch, num_kv, ratio, num_queries, -1)
    sets = _head_sets(num_kv, gate, together=num_queries <= FEW_QUERIES)
    fewest, most = _ROWS
    block = block or min(most, max(fewest, _SCORES // (batch * num_heads * num_keys)))
    blocks = [(i, min(i + block, num_queries)) for i in range(0, num_queries, block)]
    fused = backend.current().kind != "cpu" if fused is None else fused
    one_block = _fused_block if fused else _block
    if not fused and num_queries > FEW_QUERIES:
        v = _with_ones(v)
    streams: Sequence[mx.ThreadLocalStream | None] = backend.streams()
    if len(streams) < 2 or q.size // q.shape[-1] * num_keys < PARALLEL_SCORES:
        streams = [None]
    if len(streams) > 1 and len(sets) == len(blocks) == 1:
        sets = [part for whole in sets for part in _halve(whole)]
    outputs: list[mx.array] = []
    task = 0
    for heads in sets:
        qs, ks, vs = (take(x, heads.groups) for x in (q, k, v))
        rows: list[mx.array] = []
        for start, stop in blocks:
            stream = streams[task % len(streams)]
            task += 1
            with mx.stream(stream or mx.default_stream(mx.default_device())):
                rows.append(one_block(qs, ks, vs, heads, mask, scale, start, stop))
        outputs.append(rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=3))
    out = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=1)
    order = [g for heads in sets for g in heads.groups]
    if order != sorted(order):
        out = out[:, [order.index(g) for g in range(num_kv)]]
    return out.reshape(batch, num_heads, num_queries, -1)


def _with_ones(v: mx.array) -> mx.array:
    """Values (B, G, Lk, dv) in float32 with a column of ones, whose product with the weights is their sum.

    A sum of its own is another pass over the scores. The rows lie one after the other, as MLX's products on a CPU want
    them: it copies others for every block.
    """
    return mx.concatenate([v.astype(mx.float32), mx.ones((*v.shape[:3], 1))], axis=-1)


def _block(
    q: mx.array, k: mx.array, v: mx.array, heads: _HeadSet, mask: Mask, scale: float, start: int, stop: int
) -> mx.array:
    """Queries [start, stop) of one head set, in float32; q (B, G, ratio, Lq, d), k (B, G, Lk, d), v (B, G, Lk, dv).

    The values of more than a few queries are `_with_ones`.
    """
    batch, groups, ratio, num_queries, _ = q.shape
    rows = stop - start
    num_keys = _seen(mask, k.shape[2], num_queries, stop)
    k, v = (x[:, :, :num_keys].astype(mx.float32) for x in (k, v))
    queries = q[..., start:stop, :].astype(mx.float32) * (scale * LOG2E)
    scores = queries.reshape(batch, groups, ratio * rows, -1) @ k.swapaxes(-1, -2)
    if heads.gate is not None:
        scores = scores + _block_bias(heads.gate, groups, ratio, start, stop, num_keys, factor=LOG2E)
    allowed = _block_mask(mask, start, stop, num_keys)
    if allowed is not None:
        split = scores.reshape(batch, groups, ratio, rows, num_keys)
        scores = mx.where(allowed, split, -mx.inf).reshape(scores.shape)
    top = mx.max(scores, axis=-1, keepdims=True)
    # Only a boolean mask can leave a query without a key: its weights are then 0, and so is its output.
    top = mx.maximum(top, _LOWEST) if isinstance(mask, mx.array) else top
    if num_queries > FEW_QUERIES:
        out = exp2_down(scores - mx.stop_gradient(top)) @ v
        out, total = out[..., :-1], out[..., -1:]
    else:
        weights = exp2(scores - mx.stop_gradient(top))
        out, total = weights @ v, mx.sum(weights, axis=-1, keepdims=True)
    out = out / (mx.where(total > 0, total, 1.0) if isinstance(mask, mx.array) else total)
    return out.astype(q.dtype).reshape(batch, groups, ratio, rows, -1)


def _fused_block(
    q: mx.array, k: mx.array, v: mx.array, heads: _HeadSet, mask: Mask, scale: float, start: int, stop: int
) -> mx.array:
    """The same through MLX's fused attention: the bias enters as an additive mask of this block only.

    In float32 also for half-precision inputs, because a mask in float16 would round the bias to 1e-3.
    """
    batch, groups, ratio, num_queries, width = q.shape
    rows = stop - start
    num_keys = _seen(mask, k.shape[2], num_queries, stop)
    bias = mx.zeros((1, 1, 1, 1, 1))
    if heads.gate is not None:
        split = (batch, groups, ratio, rows, num_keys)
        bias = _block_bias(heads.gate, groups, ratio, start, stop, num_keys).reshape(split)
    allowed = _block_mask(mask, start, stop, num_keys)
    has_key = None
    if allowed is not None:
        if isinstance(mask, mx.array):
            allowed, has_key = with_a_key(allowed)
        bias = mx.where(allowed, bias, -mx.inf)
    additive = mx.broadcast_to(bias, (batch, groups, ratio, rows, num_keys)).reshape(batch, -1, rows, num_keys)
    queries = q[..., start:stop, :].reshape(batch, groups * ratio, rows, width)
    inputs = (x.astype(mx.float32) for x in (queries, k[:, :, :num_keys], v[:, :, :num_keys]))
    out = mx.fast.scaled_dot_product_attention(*inputs, scale=scale, mask=additive)
    out = out.astype(q.dtype).reshape(batch, groups, ratio, rows, -1)
    return out if has_key is None else mx.where(has_key, out, mx.zeros((), out.dtype))


def _seen(mask: Mask, num_keys: int, num_queries: int, stop: int) -> int:
    """How many leading keys the queries before `stop` can see."""
    return num_keys - num_queries + stop if isinstance(mask, str) else num_keys


def _block_bias(
    gate: GateTerms, num_groups: int, ratio: int, start: int, stop: int, num_keys: int, factor: float = 1.0
) -> mx.array:
    """`factor` times the bias (B, G, ratio * rows, Lk), for the visual span and the gated (leading) KV heads only."""
    low, high = (min(x, num_keys) for x in gate.span)
    batch, groups, _, width = gate.v.shape
    u = gate.u.reshape(batch, groups, ratio, -1, width)[..., start:stop, :].reshape(batch, groups, -1, width)
    columns = gate.v[:, :, low:high].swapaxes(-1, -2) if gate.columns is None else gate.columns
    x = u @ columns
    if gate.squash == "tanh":
        bias = tanh_limit(x, gate.limit, factor)
    else:
        bias = squash(x, gate.squash, gate.limit)
        bias = bias if factor == 1.0 else factor * bias
    if high - low == num_keys and groups == num_groups:
        return bias
    return mx.pad(bias, [(0, 0), (0, num_groups - groups), (0, 0), (low, num_keys - high)])


def _block_mask(mask: Mask, start: int, stop: int, num_keys: int) -> mx.array | None:
    """Boolean, broadcastable to (B, G, ratio, rows, Lk), or None when the block sees every key."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return None if stop - start == 1 else causal(stop - start, num_keys)
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    rows = mask[:, :, start:stop] if mask.shape[2] > 1 else mask
    if rows.shape[1] != 1:
        raise ValueError("a mask that differs between heads is not supported by the chunked path")
    return rows[:, :, None]


def _head_sets(num_kv: int, gate: GateTerms | None, *, together: bool) -> list[_HeadSet]:
    if gate is None or (together and gate.groups == tuple(range(len(gate.groups)))):
        return [_HeadSet(tuple(range(num_kv)), gate)]
    rest = tuple(g for g in range(num_kv) if g not in gate.groups)
    return [_HeadSet(gate.groups, gate)] + ([_HeadSet(rest, None)] if rest else [])


def _halve(heads: _HeadSet) -> list[_HeadSet]:
    """Two sets of half the KV heads each, for one long block on two streams; gates stay whole."""
    if heads.gate is not None or len(heads.groups) < 2:
        return [heads]
    middle = len(heads.groups) // 2
    return [_HeadSet(heads.groups[:middle], None), _HeadSet(heads.groups[middle:], None)]
