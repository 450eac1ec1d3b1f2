"""From hooks to arithmetic: which rows of a layer's attention take which way.

Rows that no policy touches, and layers whose policies have none of edit_scores, key_groups, weights and observe, go
through `attend` as always. The other rows are computed here in blocks of queries: memory O(block * K) a head, never
the attention matrix. For policies that need group masses only, a row's masses come from its unnormalised weights by
one small product, and its group factors are multiplied in before the product with the values: the log-sum-exp merge
of per-group attention, in one pass over the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend
from rave_mlx.attention import Path, attend
from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.masks import Mask, as_bool
from rave_mlx.attention.reference import full_bias
from rave_mlx.backend.activations import LOG2E, exp2
from rave_mlx.policies.policy import Context, Policy

_SCORES = 1 << 21
_ROWS = (16, 256)
"""Scores of a block, and its fewest and most rows, as in `chunked`."""
_WITHOUT_GROUPS = ("edit_scores", "weights", "observe")
"""Hooks for which a row's scores have to be at hand, as they have to be for groups of keys."""


class RowMarks:
    """Which of the new tokens a policy sees and edits, and what every layer asks of that.

    Attributes:
        marks: (B, L).
        any_sequence: (L,) tokens that are marked in any sequence.
        some, every: whether any, and whether all are.
    """

    def __init__(self, marks: NDArray[np.bool_]):
        self.marks = marks
        self.any_sequence: NDArray[np.bool_] = np.logical_or.reduce(marks, axis=0)
        self.some = bool(self.any_sequence.any())
        self.every = bool(marks.all())


@dataclass(frozen=True)
class ActivePolicy:
    """A policy at work in a layer: its context, and the new tokens that it sees."""

    policy: Policy
    context: Context
    rows: RowMarks


@dataclass(frozen=True)
class _Call:
    """One attention call. Shapes as in `attend`."""

    q: mx.array
    k: mx.array
    v: mx.array
    scale: float
    mask: Mask
    gate: GateTerms | None

    def part(self, start: int, stop: int) -> _Call:
        """Rows [start, stop), with the keys that a causal mask leaves them."""
        num_queries, num_keys = self.q.shape[2], self.k.shape[2]
        if (start, stop) == (0, num_queries):
            return self
        mask = self.mask
        if isinstance(mask, str):
            num_keys -= num_queries - stop
        elif mask is not None and mask.shape[-2] > 1:
            mask = mask[..., start:stop, :]
        gate = self.gate
        if gate is not None:
            low, high = (min(edge, num_keys) for edge in gate.span)
            gate = (
                None
                if low >= high
                else replace(gate, u=gate.u[:, :, start:stop], v=gate.v[:, :, :num_keys], span=(low, high))
            )
        return _Call(self.q[:, :, start:stop], self.k[:, :, :num_keys], self.v[:, :, :num_keys], self.scale, mask, gate)


def steer(
    acting: Sequence[ActivePolicy],
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Mask,
    gate: GateTerms | None,
    path: Path | None,
) -> mx.array:
    """Attention of one layer under policies: the heads' outputs (B, H, L, d) in q's dtype.

    Args:
        acting: the policies that touch the layer, in the order in which they act.
        q: rotated queries of the new tokens (B, H, L, d).
        k, v: rotated keys and values of all tokens (B, G, K, d).
        scale, mask, gate, path: as of `attention.attend`.
    """
    mask = _visible(acting, mask, q.shape[2], k.shape[2])
    if gate is not None and gate.span[0] >= gate.span[1]:
        gate = None
    call = _Call(q, k, v, scale, mask, gate)
    seeing = [(each, _groups(each, k.shape[2])) for each in acting if each.rows.some]
    wanted = [
        (each, marks) for each, marks in seeing if marks is not None or any(map(each.policy.has, _WITHOUT_GROUPS))
    ]
    if not wanted:
        return attend(q, k, v, scale=scale, mask=mask, gate=gate, path=path)
    explicit, groups = [each for each, _ in wanted], [marks for _, marks in wanted]
    for each in explicit:
        each.context.received = lambda: _column_sums(call)
    parts = []
    for start, stop, marked in _segments([each.rows for each in explicit]):
        if marked:
            parts += _blocks(call, explicit, groups, start, stop)
        else:
            c = call.part(start, stop)
            parts.append(attend(c.q, c.k, c.v, scale=scale, mask=c.mask, gate=c.gate, path=path))
    for each in explicit:
        each.context.received = None
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)


def _visible(acting: Sequence[ActivePolicy], mask: Mask, num_queries: int, num_keys: int) -> Mask:
    """The mask after the policies' `visible`; the one given (which may be the word "causal") where none changes it."""
    for each in acting:
        if each.policy.has("visible"):
            allowed = as_bool(mask, num_queries, num_keys)
            if allowed is None:
                allowed = mx.ones((1, 1, num_queries, num_keys), mx.bool_)
            allowed = allowed.reshape((1,) * (4 - allowed.ndim) + allowed.shape)
            edited = each.policy.visible(each.context, allowed)
            mask = mask if edited is allowed else edited
    return mask


def _groups(each: ActivePolicy, num_keys: int) -> mx.array | None:
    """Marks (B, K, groups) of the policy's key groups, float32; None where there are none."""
    marks = each.policy.key_groups(each.context) if each.policy.has("key_groups") else None
    if marks is None:
        return None
    assert marks.shape[1] == num_keys, (marks.shape, num_keys)
    return marks.astype(mx.float32)


def _segments(rows: Sequence[RowMarks]) -> list[tuple[int, int, bool]]:
    """Maximal stretches [start, stop) of rows that any policy sees (True), and of rows that none does (False)."""
    if len(rows) == 1 and rows[0].every:
        return [(0, len(rows[0].any_sequence), True)]
    marked = np.logical_or.reduce([each.any_sequence for each in rows])
    edges = [0, *(np.flatnonzero(np.diff(marked)) + 1).tolist(), len(marked)]
    return [(start, stop, bool(marked[start])) for start, stop in pairwise(edges)]


def _blocks(
    call: _Call, acting: Sequence[ActivePolicy], groups: Sequence[mx.array | None], start: int, stop: int
) -> list[mx.array]:
    """Outputs of rows [start, stop), a block of rows each; blocks are dealt out over the backend's streams."""
    batch, heads, _, _ = call.q.shape
    fewest, most = _ROWS
    size = min(most, max(fewest, _SCORES // (batch * heads * call.k.shape[2])))
    streams: Sequence[mx.ThreadLocalStream | None] = backend.streams()
    if len(streams) < 2 or stop - start <= size:
        streams = [None]
    parts = []
    for index, first in enumerate(range(start, stop, size)):
        last = min(first + size, stop)
        with mx.stream(streams[index % len(streams)] or mx.default_stream(mx.default_device())):
            parts.append(_block(call.part(first, last), acting, groups, first, last))
    return parts


def _block(
    call: _Call, acting: Sequence[ActivePolicy], groups: Sequence[mx.array | None], start: int, stop: int
) -> mx.array:
    """Outputs (B, H, rows, d) of rows [start, stop), of which `call` is the part; every hook on weights runs here."""
    num_keys = call.k.shape[2]
    for each in acting:
        each.context.rows, each.context.keys = (start, stop), num_keys
    weights, total = _exponentials(call, acting, start, stop)
    observed: list[tuple[ActivePolicy, mx.array]] = []
    for each, every in zip(acting, groups, strict=True):
        if every is not None:
            marks = every if every.shape[1] == num_keys else every[:, :num_keys]
            if each.policy.has("group_weights"):
                masses = _times(weights, marks) / total
                factors = _only(each, each.policy.group_weights(each.context, masses), 1.0, start, stop)
                weights = weights * _times(factors - 1, marks.swapaxes(-1, -2), plus=1.0)
                total = mx.sum(weights, axis=-1, keepdims=True)
            if each.policy.has("observe_masses"):
                observed.append((each, marks))
        if each.policy.has("weights"):
            alpha = weights / total
            weights = _only(each, each.policy.weights(each.context, alpha), alpha, start, stop)
            total = mx.sum(weights, axis=-1, keepdims=True)
    for each, marks in observed:
        each.policy.observe_masses(each.context, _times(weights, marks) / total)
    for each in acting:
        if each.policy.has("observe"):
            each.policy.observe(each.context, weights / total)
    return (_per_group(weights, call.v) / total).astype(call.q.dtype)


def _exponentials(call: _Call, acting: Sequence[ActivePolicy], start: int, stop: int) -> tuple[mx.array, mx.array]:
    """Unnormalised weights (B, H, rows, K) and their sums (B, H, rows, 1) in float32."""
    edits = [each for each in acting if each.policy.has("edit_scores")]
    # exp2 needs scores in units of log 2. Gates and policies work on plain ones, which are then multiplied at the end.
    unit = 1.0 if edits or call.gate is not None else LOG2E
    queries = call.q.astype(mx.float32) * (call.scale * unit)
    scores = _per_group(queries, call.k.swapaxes(-1, -2))
    if call.gate is not None:
        scores = scores + _gate_bias(call.gate, call.q.shape[1], call.k.shape[1], call.k.shape[2])
    for each in edits:
        scores = _only(each, each.policy.edit_scores(each.context, scores), scores, start, stop)
    allowed = None if isinstance(call.mask, str) and scores.shape[2] == 1 else as_bool(call.mask, *scores.shape[2:])
    if allowed is not None:
        scores = mx.where(allowed, scores, -mx.inf)
    scores = scores - mx.max(scores, axis=-1, keepdims=True)
    weights = exp2(scores if unit == LOG2E else scores * LOG2E)
    return weights, mx.sum(weights, axis=-1, keepdims=True)


def _only(each: ActivePolicy, edited: mx.array, other: mx.array | float, start: int, stop: int) -> mx.array:
    """`edited` in the rows that the policy sees, `other` in the rest."""
    if each.rows.every:
        return edited
    marks = each.rows.marks[:, start:stop]
    return edited if marks.all() else mx.where(mx.array(marks)[:, None, :, None], edited, other)


def _per_group(x: mx.array, y: mx.array) -> mx.array:
    """x (B, H, rows, n) times y (B, G, n, m) of the head's KV group, in float32: (B, H, rows, m)."""
    batch, heads, rows, width = x.shape
    stacked = x.reshape(batch, y.shape[1], -1, width) @ y.astype(mx.float32)
    return stacked.reshape(batch, heads, rows, -1)


def _times(x: mx.array, y: mx.array, plus: float = 0.0) -> mx.array:
    """x (B, H, rows, n) times y (B, n, m), plus a number: (B, H, rows, m)."""
    batch, heads, rows, width = x.shape
    stacked = x.reshape(batch, -1, width)
    product = mx.addmm(mx.array(plus), stacked, y) if plus else stacked @ y
    return product.reshape(batch, heads, rows, -1)


def _gate_bias(gate: GateTerms, num_heads: int, num_kv_heads: int, num_keys: int) -> mx.array:
    """The gate's bias (B, H, rows, K), computed for the visual span only."""
    low, high = gate.span
    bias = full_bias(replace(gate, v=gate.v[:, :, low:high]), num_heads, num_kv_heads)
    return mx.pad(bias, [(0, 0), (0, 0), (0, 0), (low, num_keys - high)])


def _column_sums(call: _Call) -> mx.array:
    """Column sums (B, H, K) of the attention without policies, a block of rows at a time."""
    batch, heads, num_queries, _ = call.q.shape
    total = mx.zeros((batch, heads, call.k.shape[2]))
    size = max(_ROWS[0], _SCORES // (batch * heads * call.k.shape[2]))
    for start in range(0, num_queries, size):
        stop = min(start + size, num_queries)
        weights, sums = _exponentials(call.part(start, stop), (), start, stop)
        column = mx.sum(weights / sums, axis=2)
        total = total + mx.pad(column, [(0, 0), (0, 0), (0, total.shape[-1] - column.shape[-1])])
    return total
