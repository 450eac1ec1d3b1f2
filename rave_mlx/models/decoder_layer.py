"""One layer of the text decoder: pre-norm, grouped-query attention with a pair gate, and a gated MLP or experts.

No request state lives here: what a pass knows about its tokens is in `Step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.attention import Mask, PairGate, Path, attend
from rave_mlx.backend.decode_ops import is_one_token
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import TextConfig
from rave_mlx.models.hooks import LayerHooks
from rave_mlx.models.joined import Joined, joined_of, outputs
from rave_mlx.models.kv_cache import LayerCache, Rows
from rave_mlx.models.linear_attention import LinearAttention
from rave_mlx.models.mlp import MLP
from rave_mlx.models.norms import text_norm
from rave_mlx.models.rope import ConsecutiveRotation, Rotation
from rave_mlx.models.state_cache import StateCache

_FEW_TOKENS = 8
"""New tokens up to which what a gate needs of them is prepared for writing instead of reading."""


@dataclass(frozen=True)
class Step:
    """What every layer needs to know about the tokens of one forward pass.

    Attributes:
        rotation: rotary positions of the new tokens; with policies, a table.
        mask: attention mask over all keys, old and new.
        sliding_mask: the same for layers with a sliding window.
        visual: (B, L) marks of the new tokens that are visual; None when none is.
        gate_span: key positions with visual tokens, empty when there are none yet; None switches the gates off.
        path: forced attention path, None for the backend's choice.
        sliding_rotation: rotary positions in layers with a sliding window, where they have their own; None: `rotation`.
        real: (B, L) marks of the new tokens that are no padding; None where all are real.
        key_scale: (B, L) what the layer's new keys are multiplied with; None for nothing. Of one layer only.
    """

    rotation: Rotation
    mask: Mask
    sliding_mask: Mask
    visual: mx.array | None
    gate_span: tuple[int, int] | None
    path: Path | None = None
    sliding_rotation: Rotation | None = None
    real: mx.array | None = None
    key_scale: mx.array | None = None


class Attention(nn.Module):
    """Grouped-query attention with optional biases, q/k norm and pair gate."""

    def __init__(self, text: TextConfig, layer: int, gate: PairGate | None):
        super().__init__()
        width, heads, kv_heads = text.head_dim, text.num_heads, text.num_kv_heads
        self.q_proj = nn.Linear(text.hidden_size, heads * width * (1 + text.output_gate), bias=text.qkv_bias)
        self.k_proj = nn.Linear(text.hidden_size, kv_heads * width, bias=text.qkv_bias)
        self.v_proj = nn.Linear(text.hidden_size, kv_heads * width, bias=text.qkv_bias)
        self.o_proj = nn.Linear(heads * width, text.hidden_size, bias=text.output_bias)
        if text.qk_norm:
            self.q_norm = text_norm(text, width)
            self.k_norm = text_norm(text, width)
        if gate is not None:
            self.gate = gate
        self._heads, self._kv_heads, self._width, self._qk_norm = heads, kv_heads, width, text.qk_norm
        self._slides, self._query_scale = text.slides(layer), text.query_scale
        self._norm_rotated = text.qk_norm and text.qk_norm_rotated
        self._output_gate = text.output_gate
        self._joined: Joined | None = None

    @property
    def inputs(self) -> tuple[nn.Module, ...]:
        """The projections of the layer's input."""
        return self.q_proj, self.k_proj, self.v_proj

    def project(self, x: mx.array) -> list[mx.array]:
        """Queries (B, L, H, d), keys and values (B, L, G, d) before rotation, from normalized states (B, L, hidden).

        With an output gate, that of the heads (B, L, H * d) comes last.
        """
        batch, length, _ = x.shape
        q, k, v = outputs(self, self.inputs, x)
        q = q.reshape(batch, length, self._heads, -1)
        gate = [q[..., self._width :].flatten(-2)] if self._output_gate else []
        q = q[..., : self._width] if self._output_gate else q
        k, v = (y.reshape(batch, length, self._kv_heads, -1) for y in (k, v))
        if self._qk_norm and not self._norm_rotated:
            q, k = self.q_norm(q), self.k_norm(k)
        return [q if self._query_scale == 1 else q * self._query_scale, k, v, *gate]

    def heads(self, x: mx.array) -> list[mx.array]:
        """`project`, and queries and keys as one array (B, L, H + G, d) where they come as one."""
        joined = joined_of(self, self.inputs, x)
        if joined is None or self._qk_norm or self._query_scale != 1 or self._output_gate:
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
        own = step.sliding_rotation if self._slides else None
        queries, keys = self.rotate(own or step.rotation, q, k, both)
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
        mask = step.sliding_mask if self._slides else step.mask
        compute = attend if layer_hooks is None else layer_hooks.attend
        out = compute(queries, all_keys, values, scale=self._width**-0.5, mask=mask, gate=terms, path=step.path)
        return out.swapaxes(1, 2).reshape(q.shape[0], q.shape[2], -1)

    def joined(
        self, heads: Sequence[mx.array], step: Step, cache: LayerCache | None, layer_hooks: LayerHooks | None = None
    ) -> mx.array:
        """The heads side by side (B, L, H * d), gated where there is an output gate.

        Args:
            heads: what `heads` or `project` gave.
            step, cache, layer_hooks: as of a call.
        """
        q, k, v, *more = heads
        gate = more.pop() if self._output_gate else None
        return self.gated(self(q, k, v, step, cache, layer_hooks, *more), gate)

    def gated(self, joined: mx.array, gate: mx.array | None) -> mx.array:
        """The joined heads (B, L, H * d) under an output gate of that shape; as they are where there is none."""
        return joined if gate is None else joined * mx.sigmoid(gate)


def feed_forward(text: TextConfig, layer: int) -> nn.Module:
    """What a layer has after its attention: an MLP, or experts."""
    experts = text.experts_of(layer)
    if experts is None:
        return MLP(text)
    # mlx-lm, whose layers the experts are, takes long to import.
    from rave_mlx.models.experts import Experts

    return Experts(text, experts)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP or experts, whose outputs are normed too where `TextConfig.sublayer_norms` says so.

    `attention` is linear attention in the layers of `TextConfig.linear`.
    """

    def __init__(self, text: TextConfig, layer: int, gate: PairGate | None):
        super().__init__()
        self.input_norm = text_norm(text, text.hidden_size)
        self.attention: Attention | LinearAttention = (
            LinearAttention(text, text.linear)
            if text.linear is not None and text.is_linear(layer)
            else Attention(text, layer, gate)
        )
        self.post_attention_norm = text_norm(text, text.hidden_size)
        self.mlp = feed_forward(text, layer)
        if text.sublayer_norms:
            self.attention_out_norm = text_norm(text, text.hidden_size)
            self.mlp_out_norm = text_norm(text, text.hidden_size)
        self._out_norms, self._scale = text.sublayer_norms, text.residual_scale

    def __call__(
        self, x: mx.array, step: Step, cache: LayerCache | StateCache | None, layer_hooks: LayerHooks | None = None
    ) -> mx.array:
        heads = by_rows(lambda x: self.attention.heads(self.input_norm(x)), x, axis=1)
        attended = self.attend(heads, step, cache, layer_hooks)
        if layer_hooks is not None and layer_hooks.edits_sublayers:
            x = x + layer_hooks.sublayer("attention", self.attention_output(attended))
            return x + layer_hooks.sublayer("mlp", self.mlp_output(x))
        return by_rows(self.finish, x, attended, axis=1)[0]

    def attend(
        self,
        heads: Sequence[mx.array],
        step: Step,
        cache: LayerCache | StateCache | None,
        layer_hooks: LayerHooks | None = None,
    ) -> mx.array:
        """The joined heads (B, L, H * d).

        Args:
            heads: what `attention.heads` gave.
            step, cache, layer_hooks: as of a call.
        """
        attention = self.attention
        if isinstance(attention, LinearAttention):
            assert not isinstance(cache, LayerCache)
            qkv, z, b, a = heads
            return attention(qkv, z, b, a, step.real, cache)
        assert not isinstance(cache, StateCache)
        return attention.joined(heads, step, cache, layer_hooks)

    def finish(self, x: mx.array, attended: mx.array) -> list[mx.array]:
        """The layer from its input (B, L, hidden) and the joined heads (B, L, H * d) on."""
        x = x + self.attention_output(attended)
        return [x + self.mlp_output(x)]

    def attention_output(self, attended: mx.array) -> mx.array:
        """What attention adds to the stream, from the joined heads."""
        out: mx.array = self.attention.o_proj(attended)
        return self.scaled(self.attention_out_norm(out) if self._out_norms else out)

    def mlp_output(self, x: mx.array) -> mx.array:
        """What the MLP adds to the stream x (B, L, hidden)."""
        out: mx.array = self.mlp(self.post_attention_norm(x))
        return self.scaled(self.mlp_out_norm(out) if self._out_norms else out)

    def scaled(self, out: mx.array) -> mx.array:
        """What attention or MLP gives as it is added to the stream."""
        return out if self._scale == 1 else out * self._scale
