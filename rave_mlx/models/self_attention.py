"""The attention of a decoder layer: grouped-query, with a pair gate, over the tokens of a pass and those before."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.attention import GateTerms, PairGate, attend
from rave_mlx.backend.decode_ops import is_one_token
from rave_mlx.config import TextConfig
from rave_mlx.models.hooks import LayerHooks
from rave_mlx.models.joined import Joined, joined_of, outputs
from rave_mlx.models.kv_cache import LayerCache, Rows
from rave_mlx.models.norms import text_norm
from rave_mlx.models.rope import ConsecutiveRotation, Rotation
from rave_mlx.models.step import Lent, Step

_FEW_TOKENS = 8
"""New tokens up to which what a gate needs of them is prepared for writing instead of reading."""


class Attention(nn.Module):
    """Grouped-query attention with optional biases, q/k norm and pair gate."""

    def __init__(self, text: TextConfig, layer: int, gate: PairGate | None):
        super().__init__()
        width, heads, kv_heads = text.head_dim_of(layer), text.num_heads, text.kv_heads_of(layer)
        self._index, self._lender = layer, text.lender_of(layer)
        self._lends = any(text.lender_of(other) == layer for other in range(text.num_layers))
        self.q_proj = nn.Linear(text.hidden_size, heads * width * (1 + text.output_gate), bias=text.qkv_bias)
        if self._lender is None:
            self.k_proj = nn.Linear(text.hidden_size, kv_heads * width, bias=text.qkv_bias)
        if self._lender is None and (text.slides(layer) or not text.values_from_keys):
            self.v_proj = nn.Linear(text.hidden_size, kv_heads * width, bias=text.qkv_bias)
        self.o_proj = nn.Linear(heads * width, text.hidden_size, bias=text.output_bias)
        if text.qk_norm:
            self.q_norm = text_norm(text, width)
        if text.qk_norm and self._lender is None:
            self.k_norm = text_norm(text, width)
        if gate is not None:
            self.gate = gate
        self._heads, self._kv_heads, self._width, self._qk_norm = heads, kv_heads, width, text.qk_norm
        self._slides, self._query_scale = text.slides(layer), text.query_scale
        self.score_scale = width**-0.5 if text.score_scale is None else text.score_scale
        self._value_eps = text.norm_eps if text.value_norm else None
        self._norm_rotated = text.qk_norm and text.qk_norm_rotated
        self._output_gate = text.output_gate
        self._joined: Joined | None = None

    @property
    def lender(self) -> int | None:
        """The layer whose keys and values this one uses; None: its own."""
        return self._lender

    @property
    def lends(self) -> bool:
        """Whether later layers use the keys and values of this one."""
        return self._lends

    @property
    def num_heads(self) -> int:
        """H, heads of queries."""
        return self._heads

    @property
    def inputs(self) -> tuple[nn.Module, ...]:
        """The projections of the layer's input."""
        return tuple(self[name] for name in ("q_proj", "k_proj", "v_proj") if name in self)

    def project(self, x: mx.array) -> list[mx.array]:
        """Queries (B, L, H, d), keys and values (B, L, G, d) before rotation, from normalized states (B, L, hidden).

        With an output gate, that of the heads (B, L, H * d) comes last. A layer that uses the keys and values of
        another one gives queries alone.
        """
        batch, length, _ = x.shape
        q, *others = outputs(self, self.inputs, x)
        q = q.reshape(batch, length, self._heads, -1)
        gate = [q[..., self._width :].flatten(-2)] if self._output_gate else []
        q = q[..., : self._width] if self._output_gate else q
        normed = self._qk_norm and not self._norm_rotated
        q = self.q_norm(q) if normed else q
        q = q if self._query_scale == 1 else q * self._query_scale
        if not others:
            return [q]
        k, v = (y.reshape(batch, length, self._kv_heads, -1) for y in (others[0], others[-1]))
        k = self.k_norm(k) if normed else k
        v = v if self._value_eps is None else mx.fast.rms_norm(v, None, self._value_eps)
        return [q, k, v, *gate]

    def heads(self, x: mx.array) -> list[mx.array]:
        """`project`, and queries and keys as one array (B, L, H + G, d) where they come as one."""
        joined = joined_of(self, self.inputs, x)
        if joined is None or self._qk_norm or self._query_scale != 1 or self._output_gate:
            return self.project(x)
        if self._value_eps is not None or len(self.inputs) < 3:
            return self.project(x)
        y, last = joined.product(x), joined.cuts[1]
        both = y[..., :last].reshape(*x.shape[:2], self._heads + self._kv_heads, -1)
        v = y[..., last:].reshape(*x.shape[:2], self._kv_heads, -1)
        return [both[:, :, : self._heads], both[:, :, self._heads :], v, both]

    def rotate(
        self, rotation: Rotation, q: mx.array, k: mx.array, both: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Queries (B, H, L, d) and keys (B, G, L, d) as their scores are computed, from those before rotation.

        Args:
            rotation: of the tokens.
            q, k: before rotation.
            both: the same as one array (B, L, H + G, d), which is one operation less where no table is needed.
        """
        if both is not None and isinstance(rotation, ConsecutiveRotation) and rotation.queries is None:
            turned = rotation.apply(both.swapaxes(1, 2))
            q, k = turned[:, : self._heads], turned[:, self._heads :]
        else:
            q, k = rotation.apply_both(q, k)
        return (self.q_norm(q), self.k_norm(k)) if self._norm_rotated else (q, k)

    def __call__(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        step: Step,
        cache: LayerCache | None,
        layer_hooks: LayerHooks | None = None,
        both: mx.array | None = None,
    ) -> mx.array:
        """Attend from projected states.

        Args:
            q: queries before rotation (B, L, H, d).
            k, v: keys before rotation, and values (B, L, G, d).
            step: what the pass knows about its tokens.
            cache: keys and values of the tokens before; extended. None: there are none.
            layer_hooks: attention policies of this layer.
            both: q and k as one array (B, L, H + G, d), where there is one.

        Returns:
            The heads side by side (B, L, H * d).
        """
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        gated = step.gate_span is not None and "gate" in self
        # Gates read queries and keys before rotation (`GateConfig.features`).
        u = self.gate.query_features(q, None if cache is None else cache.map_of(self.gate)) if gated else None
        features = self.gate.key_features(k, step.visual) if gated and step.visual is not None else None
        queries, keys = self.rotate(self.rotation(step), q, k, both)
        if step.key_scale is not None:
            keys = keys * step.key_scale[:, None, :, None].astype(keys.dtype)
        if layer_hooks is not None:
            queries, keys, v = layer_hooks.edit(q, k, queries, keys, v)
        all_keys: Rows = keys
        values: Rows = v
        if cache is not None:
            # Kept in the type of the keys: reading them is what the gate costs a written token.
            kept = None if features is None else features.astype(keys.dtype)
            all_keys, values, features = cache.append(keys, v, kept)
        terms = None
        if u is not None and features is not None and step.gate_span is not None:
            columns, raw = None, None
            if cache is not None and layer_hooks is None and q.shape[2] <= _FEW_TOKENS:
                if is_one_token(q):
                    columns = cache.feature_columns(step.gate_span)
                else:
                    raw = self.gate.raw_queries(q, cache.map_of(self.gate))
            terms = self.gate.terms(u, features, step.gate_span, columns, raw)
        if self._lends:
            step.lent[self._index] = Lent(k, keys, v, all_keys, values)
        return self._attended(queries, all_keys, values, terms, step, layer_hooks)

    def rotation(self, step: Step) -> Rotation:
        """How queries and keys of this layer are rotated."""
        own = step.sliding_rotation if self._slides else None
        return own or step.rotation

    def borrow(self, q: mx.array, step: Step, layer_hooks: LayerHooks | None = None) -> mx.array:
        """Attend to the keys and values of the layer that lends them; arguments and result as of a call.

        Of what policies edit only the queries count: the keys are another layer's.
        """
        assert self._lender is not None
        lent, q, rotation = step.lent[self._lender], q.swapaxes(1, 2), self.rotation(step)
        factors = rotation.queries
        queries = rotation.apply(q if factors is None else q * factors.astype(q.dtype))
        queries = self.q_norm(queries) if self._norm_rotated else queries
        if layer_hooks is not None:
            queries, _, _ = layer_hooks.edit(q, lent.raw, queries, lent.keys, lent.values)
        return self._attended(queries, lent.all_keys, lent.all_values, None, step, layer_hooks)

    def _attended(
        self,
        queries: mx.array,
        keys: Rows,
        values: Rows,
        terms: GateTerms | None,
        step: Step,
        layer_hooks: LayerHooks | None,
    ) -> mx.array:
        """Heads side by side (B, L, H * d) of rotated queries (B, H, L, d) over all keys and values (B, G, K, d)."""
        mask = step.sliding_mask if self._slides else step.mask
        compute = attend if layer_hooks is None else layer_hooks.attend
        out = compute(queries, keys, values, scale=self.score_scale, mask=mask, gate=terms, path=step.path)
        return out.swapaxes(1, 2).reshape(queries.shape[0], queries.shape[2], -1)

    def joined(
        self, heads: Sequence[mx.array], step: Step, cache: LayerCache | None, layer_hooks: LayerHooks | None = None
    ) -> mx.array:
        """The heads side by side (B, L, H * d), gated where there is an output gate.

        Args:
            heads: what `heads` or `project` gave.
            step, cache, layer_hooks: as of a call.
        """
        return self.gated(*self.ungated(heads, step, cache, layer_hooks))

    def ungated(
        self, heads: Sequence[mx.array], step: Step, cache: LayerCache | None, layer_hooks: LayerHooks | None = None
    ) -> tuple[mx.array, mx.array | None]:
        """What `joined` gates, and the gate (B, L, H * d); None where there is none. Arguments as of `joined`."""
        if self._lender is not None:
            return self.borrow(heads[0], step, layer_hooks), None
        q, k, v, *more = heads
        gate = more.pop() if self._output_gate else None
        return self(q, k, v, step, cache, layer_hooks, *more), gate

    def gated(self, joined: mx.array, gate: mx.array | None) -> mx.array:
        """The joined heads (B, L, H * d) under an output gate of that shape; as they are where there is none."""
        return joined if gate is None else joined * mx.sigmoid(gate)
