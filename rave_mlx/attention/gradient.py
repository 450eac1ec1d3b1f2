"""Gradients of gated attention in memory that grows with the sequence, not with its square.

The forward pass keeps its output and the log-sum-exp of every row. The backward pass rebuilds the scores of one block
of queries at a time from them: with p = exp(s - lse), dp = do . v and delta = do . o,

    ds = p (dp - delta),   dx = ds phi'(x),   dq = scale ds k,   dk = scale ds^T q,   dv = p^T do,
    du = dx w,             dw = dx^T u        (u, w: the gate's query and key features)

and the gate's parameters get theirs from du and dw. Everything is float32 inside. Blocks are chained, so that the
scores of one are gone before those of the next exist; on a CPU the heads are dealt out over the backend's streams,
one chain a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx

from rave_mlx.attention.gate import GateTerms, Squash, squash
from rave_mlx.attention.head_groups import Heads, after, head_sets, joined, rows, streams_of, to_keys, unstack
from rave_mlx.attention.masks import Mask
from rave_mlx.backend.activations import LOG2E, exp2, tanh_limit

Forward = Callable[[mx.array, mx.array, mx.array, Mask, GateTerms | None], tuple[mx.array, mx.array]]
"""(q, k, v, mask, gate) to (out, lse); lse in natural log, -inf for a query without a key."""

_BLOCK = 128


@dataclass(frozen=True)
class _Gate:
    """What is not an array of `GateTerms`."""

    groups: tuple[int, ...]
    span: tuple[int, int]
    squash: Squash
    limit: float

    @classmethod
    def of(cls, terms: GateTerms) -> _Gate:
        return cls(terms.groups, terms.span, terms.squash, terms.limit)

    def terms(self, u: mx.array, v: mx.array) -> GateTerms:
        return GateTerms(u, v, self.groups, self.span, self.squash, self.limit)


def train(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Mask = None,
    gate: GateTerms | None = None,
    block: int = _BLOCK,
) -> mx.array:
    """softmax(scale * q k^T + bias + mask) v for training: its gradient takes memory that is linear in the length.

    Args:
        q: queries (B, H, Lq, d).
        k: keys (B, G, Lk, d).
        v: values (B, G, Lk, d).
        scale: factor of the dot products.
        mask: None, "causal" or boolean, as of `attend`; it may differ between heads.
        gate: bias terms; u and v have gradients too, inside the gate's span.
        block: queries whose scores are in memory at a time.

    Returns:
        (B, H, Lq, d) in q's dtype. A query that may attend to no key gives zero and has no gradient.
    """

    def forward(q: mx.array, k: mx.array, v: mx.array, mask: Mask, gate: GateTerms | None) -> tuple[mx.array, mx.array]:
        return _forward(q, k, v, scale, mask, gate, block)

    return differentiable(forward, q, k, v, scale=scale, mask=mask, gate=gate, block=block)[0]


def differentiable(
    forward: Forward,
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Mask = None,
    gate: GateTerms | None = None,
    block: int = _BLOCK,
) -> tuple[mx.array, mx.array]:
    """Attention computed by `forward`, with the gradient of this module.

    Args:
        forward: what computes output and log-sum-exp from the arguments that follow.
        q: queries (B, H, Lq, d).
        k: keys (B, G, Lk, d).
        v: values (B, G, Lk, d).
        scale: factor of the dot products.
        mask: None, "causal" or boolean, as of `attend`.
        gate: bias terms.
        block: queries whose scores the backward pass keeps in memory at a time.

    Returns:
        Output (B, H, Lq, d) and log-sum-exp (B, H, Lq), differentiable in q, k, v and the gate's u and v.
    """
    constants = None if gate is None else _Gate.of(gate)
    primals = [q, k, v] + ([] if gate is None else [gate.u, gate.v]) + ([mask] if isinstance(mask, mx.array) else [])

    def split(arrays: Sequence[mx.array]) -> tuple[GateTerms | None, Mask]:
        terms = None if constants is None else constants.terms(arrays[3], arrays[4])
        return terms, (arrays[-1] if isinstance(mask, mx.array) else mask)

    @mx.custom_function
    def attention(*arrays: mx.array) -> tuple[mx.array, mx.array]:
        terms, allowed = split(arrays)
        return forward(arrays[0], arrays[1], arrays[2], allowed, terms)

    @attention.vjp
    def attention_vjp(
        arrays: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> list[mx.array]:
        terms, allowed = split(arrays)
        grads = _backward(arrays[0], arrays[1], arrays[2], scale, allowed, terms, cotangents, outputs, block)
        return grads + ([mx.zeros_like(arrays[-1])] if isinstance(mask, mx.array) else [])

    return cast(tuple[mx.array, mx.array], attention(*primals))


def _forward(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Mask, gate: GateTerms | None, block: int
) -> tuple[mx.array, mx.array]:
    sets = head_sets(q, k, v, gate)
    parts = []
    for heads, stream in zip(sets, streams_of(sets, q, k), strict=True):
        with mx.stream(stream):
            parts.append(_set_forward(heads, scale, mask, gate, block))
    out, lse = (joined([part[i] for part in parts], sets) for i in range(2))
    return out.reshape(q.shape).astype(q.dtype), lse.reshape(q.shape[:3])


def _set_forward(
    heads: Heads, scale: float, mask: Mask, gate: GateTerms | None, block: int
) -> tuple[mx.array, mx.array]:
    """Output (B, g, ratio, Lq, d) and log-sum-exp (B, g, ratio, Lq, 1)."""
    values: list[mx.array] = []
    totals: list[mx.array] = []
    for start, stop in _blocks(heads.q.shape[3], block):
        now = after(heads, values[-1:] + totals[-1:])
        scores = _scores(now, scale, mask, gate, start, stop).scores
        top = mx.maximum(mx.max(scores, axis=-1, keepdims=True), -1e30)
        weights = exp2(scores - top)
        total = mx.sum(weights, axis=-1, keepdims=True)
        out = (weights @ now.v[:, :, : scores.shape[-1]]) / mx.maximum(total, 1e-30)
        values.append(unstack(out, now))
        totals.append(unstack((top + mx.log2(total)) / LOG2E, now))
    return mx.concatenate(values, axis=3), mx.concatenate(totals, axis=3)


def _backward(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    scale: float,
    mask: Mask,
    gate: GateTerms | None,
    cotangents: Sequence[mx.array],
    outputs: Sequence[mx.array],
    block: int,
) -> list[mx.array]:
    """Gradients of q, k, v and, with a gate, of u and w."""
    sets = head_sets(q, k, v, gate, cotangents, outputs)
    parts = []
    for heads, stream in zip(sets, streams_of(sets, q, k), strict=True):
        with mx.stream(stream):
            parts.append(_set_backward(heads, scale, mask, gate, block))
    grads = [joined([part[i] for part in parts], sets) for i in range(3)]
    shaped = [g.reshape(x.shape).astype(x.dtype) for g, x in zip(grads, (q, k, v), strict=True)]
    if gate is None:
        return shaped
    gated = [i for i, heads in enumerate(sets) if heads.u is not None]
    features = [joined([parts[i][n] for i in gated], [sets[i] for i in gated]) for n in (3, 4)]
    by_row = [sorted(gate.groups).index(g) for g in gate.groups]
    return shaped + [
        x[:, by_row].reshape(like.shape).astype(like.dtype) for x, like in zip(features, (gate.u, gate.v), strict=True)
    ]


def _set_backward(heads: Heads, scale: float, mask: Mask, gate: GateTerms | None, block: int) -> list[mx.array]:
    """dq, dk, dv and, for gated heads, du, dw."""
    num_keys = heads.k.shape[2]
    dk, dv = mx.zeros_like(heads.k), mx.zeros_like(heads.v)
    dw = None if heads.w is None else mx.zeros_like(heads.w)
    dq: list[mx.array] = []
    du: list[mx.array] = []
    for start, stop in _blocks(heads.q.shape[3], block):
        now = after(heads, [dk, dv, *([] if dw is None else [dw]), *dq[-1:], *du[-1:]] if start else [])
        rebuilt = _scores(now, scale, mask, gate, start, stop)
        keys = rebuilt.scores.shape[-1]
        lse, do = rows(now.lse, start, stop), rows(now.do, start, stop)
        p = exp2(rebuilt.scores - mx.where(mx.isinf(lse), 0.0, lse) * LOG2E)
        ds = p * (do @ now.v[:, :, :keys].swapaxes(-1, -2) - rows(now.delta, start, stop))
        dq.append(unstack(scale * (ds @ now.k[:, :, :keys]), now))
        dk = dk + to_keys(scale * (ds.swapaxes(-1, -2) @ rows(now.q, start, stop)), 0, num_keys)
        dv = dv + to_keys(p.swapaxes(-1, -2) @ do, 0, num_keys)
        if now.u is None or now.w is None or gate is None or dw is None:
            continue
        if rebuilt.x is None or rebuilt.bias is None:
            du.append(mx.zeros_like(now.u[..., start:stop, :]))
            continue
        low, high = gate.span[0], gate.span[0] + rebuilt.x.shape[-1]
        dx = ds[..., low:high] * _slope(rebuilt.x, rebuilt.bias, gate)
        du.append(unstack(dx @ now.w[:, :, low:high], now))
        dw = dw + to_keys(dx.swapaxes(-1, -2) @ rows(now.u, start, stop), low, num_keys)
    grads = [mx.concatenate(dq, axis=3), dk, dv]
    return grads if dw is None else [*grads, mx.concatenate(du, axis=3), dw]


def _bias(x: mx.array, gate: GateTerms) -> mx.array:
    """phi(x)."""
    return tanh_limit(x, gate.limit) if gate.squash == "tanh" else squash(x, gate.squash, gate.limit)


def _slope(x: mx.array, bias: mx.array, gate: GateTerms) -> mx.array:
    """The derivative of phi at x, given bias = phi(x)."""
    if gate.squash == "identity":
        return mx.ones_like(x)
    if gate.squash == "tanh":
        return 1 - mx.square(bias / gate.limit)
    return mx.sigmoid(-x) if gate.squash == "suppress" else mx.sigmoid(x)


@dataclass(frozen=True)
class _Block:
    """Scores in units of log2 (B, g, ratio * rows, keys); over the visual keys also the gate's x and phi(x)."""

    scores: mx.array
    x: mx.array | None = None
    bias: mx.array | None = None


def _scores(heads: Heads, scale: float, mask: Mask, gate: GateTerms | None, start: int, stop: int) -> _Block:
    num_queries, num_keys = heads.q.shape[3], heads.k.shape[2]
    if isinstance(mask, str):
        num_keys = max(num_keys - num_queries + stop, 1)
    scores = (rows(heads.q, start, stop) * (scale * LOG2E)) @ heads.k[:, :, :num_keys].swapaxes(-1, -2)
    x = bias = None
    if heads.u is not None and heads.w is not None and gate is not None:
        low, high = (min(edge, num_keys) for edge in gate.span)
        if low < high:
            x = rows(heads.u, start, stop) @ heads.w[:, :, low:high].swapaxes(-1, -2)
            bias = _bias(x, gate)
            scores = scores + mx.pad(bias * LOG2E, [(0, 0), (0, 0), (0, 0), (low, num_keys - high)])
    allowed = _allowed(mask, heads, start, stop, num_keys)
    if allowed is not None:
        split = scores.reshape(*heads.q.shape[:3], stop - start, num_keys)
        scores = mx.where(allowed, split, -mx.inf).reshape(scores.shape)
    return _Block(scores, x, bias)


def _allowed(mask: Mask, heads: Heads, start: int, stop: int, num_keys: int) -> mx.array | None:
    """Boolean, broadcastable to (B, g, ratio, rows, keys); None: every key."""
    if mask is None:
        return None
    if isinstance(mask, str):
        offset = heads.k.shape[2] - heads.q.shape[3]
        return mx.arange(start + offset, stop + offset)[:, None] >= mx.arange(num_keys)
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    mask = mask[:, :, start:stop] if mask.shape[2] > 1 else mask
    if mask.shape[1] == 1:
        return mask[:, :, None]
    by_head = mask.reshape(mask.shape[0], -1, heads.q.shape[2], *mask.shape[2:])
    return by_head[:, list(heads.groups)]


def _blocks(num_queries: int, block: int) -> list[tuple[int, int]]:
    return [(i, min(i + block, num_queries)) for i in range(0, num_queries, block)]
