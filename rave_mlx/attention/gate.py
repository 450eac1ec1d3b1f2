"""The pair gate: a learned bias on the pre-softmax scores over visual keys (RAVE, arXiv 2605.18359).

The paper states the form (a query-key bias from pre-RoPE features, visual keys only, selected GQA heads); its
projection, rank and nonlinearity are not public, so this is RAVE in our parametrisation. For query head h with
KV head g, q^ = q / rms(q) and k^ = k / rms(k) in float32:

    x_ij = (U_h q^_i) . (W_g k^_j) / sqrt(r)  +  a_h . q^_i  +  c_g . k^_j  +  beta_h
    b_ij = visual_j * phi(x_ij),     phi(0) = 0
    A    = softmax_j(q~_i . k~_j / sqrt(d) + b_ij + mask)

As one product of width R = r + 2:  u_i = [U_h q^_i / sqrt(r), a_h . q^_i + beta_h, 1] and
v_j = visual_j * [W_g k^_j, 1, c_g . k^_j], so x_ij = u_i . v_j. A text key has v_j = 0 and therefore no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import LN2
from rave_mlx.backend.decode_ops import is_one_token, normalised_affine
from rave_mlx.config import GateConfig, TextConfig

Squash = Literal["tanh", "identity", "suppress", "boost"]

EPS = 1e-6
"""Added to the mean square of a query or key."""


class QueryMap(NamedTuple):
    """What takes normalised queries q^ to gate features: u = q^ project + offset.

    Attributes:
        project: (H_s, d, R) = [U' / sqrt(r), a, 0].
        offset: (H_s, 1, R) = [0, beta, 1].
    """

    project: mx.array
    offset: mx.array


class RawQueries(NamedTuple):
    """What the query features of a call come from, for kernels that compute them on the way.

    Attributes:
        q: queries of the gated heads before rotation (B, H_s, Lq, d).
        query_map: of the layer's gate.
    """

    q: mx.array
    query_map: QueryMap


@dataclass(frozen=True)
class GateTerms:
    """What one attention call needs of the gate.

    Attributes:
        u: query features (B, gated query heads, Lq, R), float32.
        v: key features (B, gated KV heads, Lk, R), float32; zero rows for text and padding keys.
        groups: indices of the gated KV heads, in the order of `v`'s head axis.
        span: [first, last + 1) key positions that hold every visual key of the batch.
        squash, limit: phi and its bound tau.
        columns: the rows of `v` inside the span, transposed (B, gated KV heads, R, span); None where nobody has them.
        raw: what `u` is computed from; None where nobody has it. It has no gradient.
    """

    u: mx.array
    v: mx.array
    groups: tuple[int, ...]
    span: tuple[int, int]
    squash: Squash = "tanh"
    limit: float = 4.0
    columns: mx.array | None = None
    raw: RawQueries | None = None


class PairGate(nn.Module):
    """Gate parameters of one decoder layer.

    Shapes, with H_s gated query heads, G_s gated KV heads and head width d: U (H_s, r, d), a (H_s, d),
    beta (H_s,), W (G_s, r, d), c (G_s, d). U starts as N(0, 1/d) and the rest as zero: the first step computes
    the base model, and W still receives a gradient.
    """

    def __init__(self, config: GateConfig, text: TextConfig, layer: int = 0):
        """The gate of decoder layer `layer`, without effect as it starts."""
        super().__init__()
        rank, width = config.rank, text.head_dim_of(layer)
        groups = config.groups(text.kv_heads_of(layer))
        ratio = text.num_heads // text.kv_heads_of(layer)
        heads = len(groups) * ratio
        self.U = mx.random.normal((heads, rank, width)) * width**-0.5
        self.a = mx.zeros((heads, width))
        self.beta = mx.zeros((heads,))
        self.W = mx.zeros((len(groups), rank, width))
        self.c = mx.zeros((len(groups), width))
        self._groups = groups
        self._ratio = ratio
        self._squash: Squash = config.squash
        self._limit = config.limit

    @property
    def is_inert(self) -> bool:
        """Whether the bias is zero for every input (W, a, c and beta are all zero). Evaluates the parameters."""
        return not any_acts([self])

    def query_map(self) -> QueryMap:
        """What takes normalised queries to their features. A cache keeps it from token to token."""
        heads, rank, width = self.U.shape
        rows = [self.U * rank**-0.5, self.a[:, None], mx.zeros((heads, 1, width), self.a.dtype)]
        offset = mx.pad(self.beta[:, None].astype(mx.float32), [(0, 0), (rank, 1)])
        ones = mx.arange(rank + 2) == rank + 1
        return QueryMap(
            mx.concatenate(rows, axis=1).astype(mx.float32).swapaxes(-1, -2), mx.where(ones, 1.0, offset)[:, None]
        )

    def query_features(self, q: mx.array, query_map: QueryMap | None = None) -> mx.array:
        """u (B, H_s, Lq, R) in float32 from pre-RoPE queries (B, H, Lq, d); `query_map` where it is known already."""
        q = _heads(q, self._groups, self._ratio).astype(mx.float32)
        project, offset = query_map or self.query_map()
        if is_one_token(q):
            return normalised_affine(q, project, offset, EPS)
        return mx.fast.rms_norm(q, None, EPS) @ project + offset

    def raw_queries(self, q: mx.array, query_map: QueryMap) -> RawQueries:
        """What `query_features` would compute its result from."""
        return RawQueries(_heads(q, self._groups, self._ratio), query_map)

    def key_features(self, k: mx.array, visual: mx.array) -> mx.array:
        """v (B, G_s, Lk, R) in float32 from pre-RoPE keys (B, G, Lk, d); `visual` (B, Lk) marks visual keys."""
        k = mx.fast.rms_norm(_heads(k, self._groups, 1).astype(mx.float32), None, EPS)
        project = mx.concatenate([self.W, self.c[:, None]], axis=1).astype(mx.float32)
        x = k @ project.swapaxes(-1, -2)
        rank = self.W.shape[1]
        x = mx.concatenate([x[..., :rank], mx.ones((*x.shape[:-1], 1)), x[..., rank:]], axis=-1)
        return mx.where(visual[:, None, :, None], x, 0.0)

    def terms(
        self,
        u: mx.array,
        v: mx.array,
        span: tuple[int, int],
        columns: mx.array | None = None,
        raw: RawQueries | None = None,
    ) -> GateTerms:
        """Bundle features with this layer's constants for `attend`; arguments as of `GateTerms`."""
        return GateTerms(u, v, self._groups, span, self._squash, self._limit, columns, raw)


def any_acts(gates: Sequence[PairGate]) -> bool:
    """Whether any of the gates does something; evaluates their parameters, all at once."""
    marks = [mx.any(p != 0) for gate in gates for p in (gate.W, gate.a, gate.c, gate.beta)]
    return bool(marks) and bool(mx.any(mx.stack(marks)).item())


def squash(x: mx.array, kind: Squash, limit: float) -> mx.array:
    """phi(x), the gate's nonlinearity, elementwise in float32; finite for every finite x, and phi(0) = 0.

    Args:
        x: pair terms of any shape.
        kind: identity, tanh, suppress or boost.
        limit: bound of tanh; the other kinds have none.

    tanh: limit * tanh(x / limit). suppress: log sigmoid(x) + log 2, at most log 2. boost: softplus(x) - log 2, at
    least -log 2.
    """
    if kind == "identity":
        return x
    if kind == "tanh":
        return limit * mx.tanh(x / limit)
    if kind == "suppress":
        return LN2 - mx.logaddexp(-x, 0.0)
    return mx.logaddexp(x, 0.0) - LN2


def _heads(x: mx.array, groups: tuple[int, ...], ratio: int) -> mx.array:
    """The heads of `x` (B, H, L, d) that belong to KV groups `groups`, `ratio` heads a group."""
    total = x.shape[1] // ratio
    if len(groups) == total and groups == tuple(range(total)):
        return x
    if groups == tuple(range(groups[0], groups[0] + len(groups))):
        return x[:, groups[0] * ratio : (groups[-1] + 1) * ratio]
    return x[:, [g * ratio + i for g in groups for i in range(ratio)]]
