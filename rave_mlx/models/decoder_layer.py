"""One layer of the text decoder: pre-norm, grouped-query attention with a pair gate, and a gated MLP or experts.

No request state lives here: what a pass knows about its tokens is in `Step`.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.attention import PairGate
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import TextConfig
from rave_mlx.models.hooks import LayerHooks
from rave_mlx.models.kv_cache import LayerCache
from rave_mlx.models.layer_inputs import LayerInput
from rave_mlx.models.linear_attention import LinearAttention
from rave_mlx.models.mlp import MLP
from rave_mlx.models.norms import text_norm
from rave_mlx.models.self_attention import Attention
from rave_mlx.models.state_cache import StateCache
from rave_mlx.models.step import Step


def feed_forward(text: TextConfig, layer: int) -> nn.Module:
    """What a layer has after its attention: an MLP, or experts."""
    experts = text.experts_of(layer)
    if experts is None:
        return MLP(text, text.mlp_size_of(layer))
    # mlx-lm, whose layers the experts are, takes long to import.
    if experts.beside:
        from rave_mlx.models.experts_beside import ExpertsBeside

        return ExpertsBeside(text, experts, text.mlp_size_of(layer))
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
        if text.layer_inputs is not None:
            self.layer_input = LayerInput(text, text.layer_inputs)
        if text.layer_scales:
            self.out_scale = mx.ones(1)
        experts = text.experts_of(layer)
        self._beside = experts is not None and experts.beside
        self._out_norms, self._scale, self._index = text.sublayer_norms, text.residual_scale, layer

    def __call__(
        self, x: mx.array, step: Step, cache: LayerCache | StateCache | None, layer_hooks: LayerHooks | None = None
    ) -> mx.array:
        heads = by_rows(lambda x: self.attention.heads(self.input_norm(x)), x, axis=1)
        attended = self.attend(heads, step, cache, layer_hooks)
        if layer_hooks is not None and layer_hooks.edits_sublayers:
            x = x + layer_hooks.sublayer("attention", self.attention_output(attended))
            return self.leave(x + layer_hooks.sublayer("mlp", self.mlp_output(x)), *self.extra(step))
        return by_rows(self.finish, x, attended, *self.extra(step), axis=1)[0]

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

    def extra(self, step: Step) -> tuple[mx.array, ...]:
        """What `finish` and `leave` need besides: what the tokens give to this layer (B, L, width), where they do."""
        return () if step.layer_inputs is None else (step.layer_inputs[self._index],)

    def finish(self, x: mx.array, attended: mx.array, *extra: mx.array) -> list[mx.array]:
        """The layer from its input (B, L, hidden) and the joined heads (B, L, H * d) on; `extra` as of `extra`."""
        x = x + self.attention_output(attended)
        return [self.leave(x + self.mlp_output(x), *extra)]

    def leave(self, x: mx.array, *extra: mx.array) -> mx.array:
        """The layer from the stream after its MLP (B, L, hidden) on; `extra` as of `extra`."""
        if extra:
            x = x + self.layer_input(x, *extra)
        return x * self.out_scale if "out_scale" in self else x

    def attention_output(self, attended: mx.array) -> mx.array:
        """What attention adds to the stream, from the joined heads."""
        out: mx.array = self.attention.o_proj(attended)
        return self.scaled(self.attention_out_norm(out) if self._out_norms else out)

    def mlp_output(self, x: mx.array) -> mx.array:
        """What the MLP adds to the stream x (B, L, hidden)."""
        normed = self.post_attention_norm(x)
        out: mx.array = self.mlp(normed, x) if self._beside else self.mlp(normed)
        return self.scaled(self.mlp_out_norm(out) if self._out_norms else out)

    def scaled(self, out: mx.array) -> mx.array:
        """What attention or MLP gives as it is added to the stream."""
        return out if self._scale == 1 else out * self._scale
