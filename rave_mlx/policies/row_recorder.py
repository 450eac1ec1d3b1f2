"""Recording attention as it is computed: one row a layer and token.

Only the row that chooses a token is looked at (the prompt's last, then that of every generated token), and only its
visual part is kept, so memory grows with answer tokens * layers * heads * visual tokens at two bytes each; no
attention matrix is ever held.

Sinks are found without a table of dimensions: tokens whose state has the direction of the first token's, in the layers
in which that carries a massive activation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.attention.gate import PairGate
from rave_mlx.attention.reference import full_bias
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.kv_cache import Cache
from rave_mlx.policies.policy import Context, Policy, Rows
from rave_mlx.policies.sink_tokens import cosines
from rave_mlx.policies.tokens import KeyRows

SAME_DIRECTION = 0.9
"""Cosine to the first token's state above which a token is a sink (arXiv 2512.22213)."""

MASSIVE = 5.0
"""Norm of the first token's state, in medians of its layer, from which on it counts as massive. Sinks that form have
norms of tens to hundreds of medians; an ordinary first token has about one."""


@dataclass(frozen=True)
class Row:
    """One token's attention in all layers, on the host. N layers, H heads, V visual tokens.

    Attributes:
        weights: (N, H, V) float16.
        mass: (N, H, 3) float32: image, text, sinks.
        gate: (N, H, 2) float32: shift and moved of `AttentionMap`, NaN without a gate.
        sinks: (N,) number of sink keys.
    """

    weights: NDArray[np.float16]
    mass: NDArray[np.float32]
    gate: NDArray[np.float32]
    sinks: NDArray[np.int64]


@dataclass(eq=False)
class Recorder:
    """Collects rows while a model reads and writes.

    Attributes:
        decoder: whose gates are explained.
        visual: (V,) indices of the prompt's visual tokens.
        cache: of the conversation; set once it is made.
    """

    decoder: Decoder
    visual: NDArray[np.int64]
    cache: Cache | None = None
    _current: list[tuple[mx.array, ...]] = field(default_factory=list)
    _pending: list[list[tuple[mx.array, ...]]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def add(self, layer: int, num_layers: int, arrays: tuple[mx.array, ...]) -> None:
        """Take one layer's part of the current row; layers come in order.

        Args:
            layer: its index.
            num_layers: of the decoder; the last one completes the row.
            arrays: weights (H, V), mass (H, 3), gate (H, 2) and the number of sinks (), as of `Row`.
        """
        if layer == 0:
            self._current = []
        self._current.append(arrays)
        if layer == num_layers - 1:
            self._pending.append(self._current)

    def evaluate(self) -> None:
        """Compute the rows that are complete and move them to the host."""
        for row in self._pending:
            stacked = [mx.stack(list(parts)) for parts in zip(*row, strict=True)]
            mx.eval(stacked)
            weights, mass, gate, sinks = (np.array(x) for x in stacked)
            self.rows.append(Row(weights, mass, gate, sinks.astype(np.int64)))
        self._pending = []


@dataclass(frozen=True)
class RowObserver(Policy):
    """Passes the last row's final weights to a recorder; changes nothing.

    Attributes:
        recorder: which keeps them.
        without_sinks: whether visual tokens that are sinks get the weight 0 there.
    """

    recorder: Recorder
    without_sinks: bool = False

    name: ClassVar[str] = "look"
    rows: ClassVar[Rows] = "last"
    needs_visual: ClassVar[bool] = False

    def on_block_input(self, ctx: Context) -> None:
        """Note which of the new tokens are sinks."""
        if "sinks" not in ctx.state:
            ctx.state["sinks"] = KeyRows()
            ctx.state["first"] = ctx.x[:, 0]
            ctx.state["massive"] = is_massive(ctx.x)
        same_direction = cosines(ctx.x, ctx.state["first"]) > SAME_DIRECTION
        ctx.state["sinks"].write(ctx.start, same_direction & ctx.state["massive"])

    def observe(self, ctx: Context, weights: mx.array) -> None:
        """Keep the row that chooses a token, of the first sequence."""
        if not ctx.final or ctx.rows[1] != ctx.length:
            return
        row = weights[0, :, -1]
        sinks = ctx.state["sinks"].upto(ctx.keys)[0]
        visual = ctx.visual[0]
        kinds = mx.stack([visual & ~sinks, ~visual & ~sinks, sinks], axis=1).astype(mx.float32)
        index = mx.array(self.recorder.visual)
        shown = mx.where(sinks, 0.0, row) if self.without_sinks else row
        kept = (shown[:, index].astype(mx.float16), row @ kinds, self._gate(ctx, row, index), mx.sum(sinks))
        self.recorder.add(ctx.layer, ctx.num_layers, kept)

    def _gate(self, ctx: Context, row: mx.array, index: mx.array) -> mx.array:
        """(H, 2) what the layer's pair gate does to this row, as of `odds_split`; NaN where there is none."""
        cache, decoder = self.recorder.cache, self.recorder.decoder
        layer = decoder.text.attention_layers[ctx.layer]
        attention = decoder.layers[layer].attention
        assert cache is not None
        assert ctx.q is not None
        assert ctx.k is not None
        assert ctx.q_pre is not None
        if not cache.gated or "gate" not in attention:
            return mx.full((row.shape[0], 2), float("nan"))
        gate: PairGate = attention.gate
        heads, groups = ctx.q.shape[1], ctx.k.shape[1]
        features = cache.layers[layer].arrays[2][:, :, index]
        terms = gate.terms(gate.query_features(ctx.q_pre[:, :, -1:]), features, (0, len(self.recorder.visual)))
        bias = full_bias(terms, heads, groups)[0, :, 0]
        keys = mx.repeat(ctx.k[0][:, index].astype(mx.float32), heads // groups, axis=0)
        query = ctx.q[0, :, -1].astype(mx.float32) * ctx.q.shape[-1] ** -0.5
        scores = mx.where(row[:, index] > 0, (keys @ query[..., None])[..., 0], -mx.inf)
        return odds_split(scores, bias)


def odds_split(scores: mx.array, bias: mx.array) -> mx.array:
    """What a bias on visual keys does to a row of attention, from scores before it.

    With p the softmax of the scores within the image, the odds of image against text become
    o' = o * sum_j p_j exp(b_j): any bias splits into that and a change of p.

    Args:
        scores: (H, V) scaled scores of visual keys; -inf for those that are not seen.
        bias: (H, V).

    Returns:
        (H, 2): log(o'/o), and the total variation between p before and after.
    """
    before = mx.softmax(scores, axis=-1)
    after = mx.softmax(scores + bias, axis=-1)
    shift = mx.logsumexp(scores + bias, axis=-1) - mx.logsumexp(scores, axis=-1)
    return mx.stack([shift, 0.5 * mx.sum(mx.abs(after - before), axis=-1)], axis=-1)


def is_massive(x: mx.array) -> mx.array:
    """(B, 1) whether the first token's state is massive among states x (B, L, hidden)."""
    norms = mx.linalg.norm(x.astype(mx.float32), axis=-1)
    return norms[:, :1] >= MASSIVE * mx.median(norms, axis=-1, keepdims=True)
