"""Which KV heads are computed together, and the reshapes between their layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.attention.gate import GateTerms

PARALLEL_SCORES = 1 << 20
"""Scores below which a second thread costs more than it saves."""


@dataclass(frozen=True)
class Heads:
    """The float32 arrays of one set of KV heads, g of them, each shared by `ratio` query heads.

    Attributes:
        groups: indices of the KV heads.
        q: queries (B, g, ratio, Lq, d).
        k, v: keys and values (B, g, Lk, d).
        do: gradient of the output (B, g, ratio, Lq, d). In a forward pass, which has none, q stands here.
        lse: log-sum-exp (B, g, ratio, Lq, 1); in a forward pass q.
        delta: sum over d of the output times its gradient, minus that of lse, (B, g, ratio, Lq, 1); in a forward
            pass q.
        u, w: gate features of queries (B, g, ratio, Lq, R) and keys (B, g, Lk, R); None for heads without a gate.
    """

    groups: tuple[int, ...]
    q: mx.array
    k: mx.array
    v: mx.array
    do: mx.array
    lse: mx.array
    delta: mx.array
    u: mx.array | None
    w: mx.array | None


def head_sets(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    gate: GateTerms | None,
    cotangents: Sequence[mx.array] = (),
    outputs: Sequence[mx.array] = (),
) -> list[Heads]:
    """KV heads that are computed together: gated ones apart from the rest, each in two sets where it is worth it.

    Args:
        q: queries (B, H, Lq, d).
        k: keys (B, G, Lk, d).
        v: values (B, G, Lk, d).
        gate: bias terms.
        cotangents: in a backward pass the gradients of output (B, H, Lq, d) and log-sum-exp (B, H, Lq).
        outputs: in a backward pass that output and log-sum-exp.
    """
    num_kv = k.shape[1]

    def by_group(x: mx.array, groups: int = num_kv) -> mx.array:
        return x.astype(mx.float32).reshape(x.shape[0], groups, -1, *x.shape[2:])

    arrays = [by_group(q), k.astype(mx.float32), v.astype(mx.float32)]
    if outputs:
        do, lse = by_group(cotangents[0]), by_group(outputs[1][..., None])
        delta = mx.sum(do * by_group(outputs[0]), axis=-1, keepdims=True) - by_group(cotangents[1][..., None])
        arrays += [do, lse, delta]
    else:
        arrays += [arrays[0]] * 3
    made = []
    for groups in _group_sets(num_kv, gate, q.size // q.shape[-1] * k.shape[2]):
        u = w = None
        if gate is not None and groups[0] in gate.groups:
            slots = [gate.groups.index(g) for g in groups]
            u, w = take(by_group(gate.u, len(gate.groups)), slots), take(gate.v.astype(mx.float32), slots)
        taken = [take(x, groups) for x in arrays]
        made.append(Heads(groups, taken[0], taken[1], taken[2], taken[3], taken[4], taken[5], u, w))
    return made


def _group_sets(num_kv: int, gate: GateTerms | None, work: int) -> list[tuple[int, ...]]:
    every = tuple(range(num_kv))
    gated = () if gate is None else tuple(sorted(gate.groups))
    sets = [s for s in (gated, tuple(g for g in every if g not in gated)) if s]
    if len(backend.streams()) > 1 and work >= PARALLEL_SCORES:
        sets = [part for s in sets for part in (s[: len(s) // 2], s[len(s) // 2 :]) if part]
    return sets


def streams_of(sets: Sequence[Heads], q: mx.array, k: mx.array) -> Sequence[mx.Stream | mx.ThreadLocalStream]:
    """A stream for each set; one thread where the work is small."""
    found = backend.streams()
    if len(found) < 2 or q.size // q.shape[-1] * k.shape[2] < PARALLEL_SCORES:
        return [mx.default_stream(mx.default_device())] * len(sets)
    return [found[i % len(found)] for i in range(len(sets))]


def after(heads: Heads, done: Sequence[mx.array]) -> Heads:
    """The same heads, to be read only when `done` is computed."""
    if not done:
        return heads
    q, k = mx.depends([heads.q, heads.k], list(done))
    return Heads(heads.groups, q, k, heads.v, heads.do, heads.lse, heads.delta, heads.u, heads.w)


def joined(parts: Sequence[mx.array], sets: Sequence[Heads]) -> mx.array:
    """The sets' arrays as one, KV heads in ascending order (axis 1)."""
    if len(parts) == 1:
        return parts[0]
    order = [g for heads in sets for g in heads.groups]
    out = mx.concatenate(list(parts), axis=1)
    return out if order == sorted(order) else out[:, [order.index(g) for g in sorted(order)]]


def take(x: mx.array, groups: Sequence[int]) -> mx.array:
    """KV heads `groups` of axis 1; a view where they are neighbours."""
    first = groups[0]
    if list(groups) != list(range(first, first + len(groups))):
        return x[:, list(groups)]
    return x if len(groups) == x.shape[1] else x[:, first : first + len(groups)]


def rows(x: mx.array, start: int, stop: int) -> mx.array:
    """Rows [start, stop) of every head of a group, stacked: (B, g, ratio, L, n) to (B, g, ratio * rows, n).

    The sum over the query heads of a KV head is then part of the matrix product.
    """
    return x[..., start:stop, :].reshape(*x.shape[:2], -1, x.shape[-1])


def unstack(x: mx.array, heads: Heads) -> mx.array:
    """(B, g, ratio * rows, n) to (B, g, ratio, rows, n)."""
    return x.reshape(*heads.q.shape[:3], -1, x.shape[-1])


def to_keys(x: mx.array, first: int, num_keys: int) -> mx.array:
    """Rows of keys [first, first + n) among `num_keys`, zero elsewhere."""
    return mx.pad(x, [(0, 0), (0, 0), (first, num_keys - first - x.shape[2]), (0, 0)])
