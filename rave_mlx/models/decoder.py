"""The one text decoder: pre-norm, grouped-query attention with a pair gate, rotary positions, SwiGLU.

No request state lives here. Positions, the visual marks and the cache are passed in; nothing in the forward pass
depends on array values, so it can be traced by `mx.compile`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.attention import Mask, PairGate, Path, attend, decoder_mask
from rave_mlx.backend.activations import ACTIVATIONS, silu_mul
from rave_mlx.backend.decode_ops import is_one_token
from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import LMMConfig, RopeConfig, TextConfig
from rave_mlx.models.hooks import KeptTokens, LayerHooks, PassHooks
from rave_mlx.models.joined import Joined, join, outputs
from rave_mlx.models.kv_cache import Cache, LayerCache
from rave_mlx.models.norms import text_norm
from rave_mlx.models.rope import Consecutive, Positions, RotaryTable, Rotation, sliding_table, text_rotation, text_table

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
    """

    rotation: Rotation
    mask: Mask
    sliding_mask: Mask
    visual: mx.array | None
    gate_span: tuple[int, int] | None
    path: Path | None = None
    sliding_rotation: Rotation | None = None


class Attention(nn.Module):
    """Grouped-query attention with optional biases, q/k norm and pair gate."""

    def __init__(self, text: TextConfig, layer: int, gate: PairGate | None):
        super().__init__()
        width, heads, kv_heads = text.head_dim, text.num_heads, text.num_kv_heads
        self.q_proj = nn.Linear(text.hidden_size, heads * width, bias=text.qkv_bias)
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
        self._joined: Joined | None = None

    def project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (B, L, H, d), keys and values (B, L, G, d) before rotation, from normalized states (B, L, hidden)."""
        batch, length, _ = x.shape
        q, k, v = outputs(self, (self.q_proj, self.k_proj, self.v_proj), x)
        q = q.reshape(batch, length, self._heads, -1)
        k, v = (y.reshape(batch, length, self._kv_heads, -1) for y in (k, v))
        if self._qk_norm and not self._norm_rotated:
            q, k = self.q_norm(q), self.k_norm(k)
        return q if self._query_scale == 1 else q * self._query_scale, k, v

    def rotate(self, rotation: Rotation, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        """Queries (B, H, L, d) and keys (B, G, L, d) as their scores are computed, from those before rotation."""
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
    ) -> mx.array:
        """Attend from projected states.

        Args:
            q: queries before rotation (B, L, H, d).
            k, v: keys before rotation, and values (B, L, G, d).
            step: what the pass knows about its tokens.
            cache: keys and values of the tokens before; extended. None: there are none.
            layer_hooks: attention policies of this layer.

        Returns:
            The heads side by side (B, L, H * d).
        """
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        gated = step.gate_span is not None and "gate" in self
        # Gates read queries and keys before rotation (`GateConfig.features`).
        u = self.gate.query_features(q, None if cache is None else cache.map_of(self.gate)) if gated else None
        features = self.gate.key_features(k, step.visual) if gated and step.visual is not None else None
        own = step.sliding_rotation if self._slides else None
        queries, keys = self.rotate(own or step.rotation, q, k)
        if layer_hooks is not None:
            queries, keys, v = layer_hooks.edit(q, k, queries, keys, v)
        if cache is not None:
            # Kept in the type of the keys: reading them is what the gate costs a written token.
            kept = None if features is None else features.astype(keys.dtype)
            keys, v, *all_features = cache.append(keys, v, kept)
            features = all_features[0] if all_features else None
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
        out = compute(queries, keys, v, scale=self._width**-0.5, mask=mask, gate=terms, path=step.path)
        return out.swapaxes(1, 2).reshape(q.shape[0], q.shape[2], -1)


class MLP(nn.Module):
    """act(gate) * up: SwiGLU, or with another activation."""

    def __init__(self, text: TextConfig):
        super().__init__()
        self.gate_proj = nn.Linear(text.hidden_size, text.intermediate_size, bias=text.mlp_bias)
        self.up_proj = nn.Linear(text.hidden_size, text.intermediate_size, bias=text.mlp_bias)
        self.down_proj = nn.Linear(text.intermediate_size, text.hidden_size, bias=text.mlp_bias)
        self._activation = text.activation
        self._joined: Joined | None = None

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self.gated(*outputs(self, (self.gate_proj, self.up_proj), x)))

    def gated(self, gate: mx.array, up: mx.array) -> mx.array:
        """act(gate) * up, what enters the last matrix."""
        if self._activation == "silu":
            return silu_mul(gate, up)
        return ACTIVATIONS[self._activation](gate) * up


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, whose outputs are normed as well where `TextConfig.sublayer_norms` says so."""

    def __init__(self, text: TextConfig, layer: int, gate: PairGate | None):
        super().__init__()
        self.input_norm = text_norm(text, text.hidden_size)
        self.attention = Attention(text, layer, gate)
        self.post_attention_norm = text_norm(text, text.hidden_size)
        self.mlp = MLP(text)
        if text.sublayer_norms:
            self.attention_out_norm = text_norm(text, text.hidden_size)
            self.mlp_out_norm = text_norm(text, text.hidden_size)
        self._out_norms = text.sublayer_norms

    def __call__(
        self, x: mx.array, step: Step, cache: LayerCache | None, layer_hooks: LayerHooks | None = None
    ) -> mx.array:
        q, k, v = by_rows(lambda x: self.attention.project(self.input_norm(x)), x, axis=1)
        attended = self.attention(q, k, v, step, cache, layer_hooks)
        if layer_hooks is not None and layer_hooks.edits_sublayers:
            x = x + layer_hooks.sublayer("attention", self.attention_output(attended))
            return x + layer_hooks.sublayer("mlp", self.mlp_output(x))
        return by_rows(self.finish, x, attended, axis=1)[0]

    def finish(self, x: mx.array, attended: mx.array) -> list[mx.array]:
        """The layer from its input (B, L, hidden) and the joined heads (B, L, H * d) on."""
        x = x + self.attention_output(attended)
        return [x + self.mlp_output(x)]

    def attention_output(self, attended: mx.array) -> mx.array:
        """What attention adds to the stream, from the joined heads."""
        out: mx.array = self.attention.o_proj(attended)
        return self.attention_out_norm(out) if self._out_norms else out

    def mlp_output(self, x: mx.array) -> mx.array:
        """What the MLP adds to the stream x (B, L, hidden)."""
        out: mx.array = self.mlp(self.post_attention_norm(x))
        return self.mlp_out_norm(out) if self._out_norms else out


class Decoder(nn.Module):
    """Token embeddings to logits."""

    def __init__(self, config: LMMConfig):
        super().__init__()
        text, gate = config.text, config.gate
        self.embed = nn.Embedding(text.vocab_size, text.hidden_size)
        self.layers = [
            DecoderLayer(text, i, PairGate(gate, text) if gate is not None and gate.gates_layer(i) else None)
            for i in range(text.num_layers)
        ]
        self.norm = text_norm(text, text.hidden_size)
        if not text.tie_embeddings:
            self.head = nn.Linear(text.hidden_size, text.vocab_size, bias=text.head_bias)
        self.text = text

    @property
    def gates(self) -> list[PairGate]:
        """The pair gates of the gated layers, in order."""
        return [layer.attention.gate for layer in self.layers if "gate" in layer.attention]

    def hidden(
        self,
        x: mx.array,
        positions: Positions,
        visual: mx.array | None,
        *,
        cache: Cache | None = None,
        gate_span: tuple[int, int] | None = None,
        valid: mx.array | None = None,
        lookahead: mx.array | None = None,
        deepstack: mx.array | None = None,
        longest: int | None = None,
        path: Path | None = None,
        hooks: PassHooks | None = None,
        call: Callable[[int, DecoderLayer, mx.array, Step], mx.array] | None = None,
    ) -> mx.array:
        """Run the layers over new tokens.

        Args:
            x: embeddings of the new tokens (B, L, hidden).
            positions: their rotary positions (B, 3, L), or `Consecutive` ones.
            visual: marks of the visual ones among them (B, L); None when there are none.
            cache: what came before; extended in place. None: the new tokens are all there is.
            gate_span: key positions with visual tokens among all keys, (0, 0) when there are none yet; None
                switches the gates off. Passes that share a cache must agree on None.
            valid: (B, Lk) marks of real tokens among all keys in a left-padded batch.
            lookahead: (B, 2, L) first and end of later keys that a token also sees; None for a causal model.
            deepstack: features added to the outputs of the first layers (layers, B, L, hidden).
            longest: length in positions of the sequence that the tokens belong to, for rotary frequencies that
                depend on it; None: these tokens end it.
            path: forced attention path.
            hooks: attention policies, to which the new tokens have been announced.
            call: runs a layer (its index, itself, its input, the step) in a way of the caller's; without a cache and
                policies.

        Returns:
            Normalized hidden states of the new tokens (B, L, hidden); of those that a pruning policy kept.
        """
        text, length = self.text, x.shape[1]
        keys = length + (0 if cache is None else cache.length)
        mask = decoder_mask(length, keys, valid=valid, lookahead=lookahead)
        sliding = decoder_mask(length, keys, valid=valid, lookahead=lookahead, window=text.sliding_window)
        if hooks is not None and isinstance(positions, Consecutive):
            positions = positions.array()
        rotation = text_rotation(text.rope, text.head_dim, positions, longest, x.dtype)
        own = None
        if text.sliding_rope is not None:
            own = text_rotation(text.sliding_rope, text.head_dim, positions, longest, x.dtype)
        step = Step(rotation, mask, sliding, visual, gate_span, path, own)
        for index, layer in enumerate(self.layers):
            layer_hooks = None
            if hooks is not None:
                step = self._follow(step, hooks, index, length)
                layer_hooks = hooks.enter(index, x)
            if call is None:
                x = layer(x, step, None if cache is None else cache.layers[index], layer_hooks)
            else:
                x = call(index, layer, x, step)
            if deepstack is not None and index < deepstack.shape[0]:
                x = x + deepstack[index]
            if hooks is not None and layer_hooks is not None and (kept := layer_hooks.leave(x)) is not None:
                hooks.prune(index, kept)
                x = _taken(x, kept.index, 1) if kept.x is None else kept.x
                deepstack = None if deepstack is None else mx.stack([_taken(d, kept.index, 1) for d in deepstack])
                step = self._narrow(step, hooks, index + 1, kept)
        normalized: mx.array = self.norm(x)
        return normalized

    def _narrow(self, step: Step, hooks: PassHooks, layer: int, kept: KeptTokens) -> Step:
        """The step of the layers from `layer` on, for the tokens that a policy kept."""
        index = kept.index

        def narrowed(table: Rotation, rope: RopeConfig) -> RotaryTable:
            assert isinstance(table, RotaryTable)
            if kept.positions is not None:
                made = text_table(rope, self.text.head_dim, kept.positions, _longest(hooks))
                return made.astype(table.cos.dtype)
            queries = None if table.queries is None else _taken(table.queries, index, 2)
            return replace(table.map(lambda x: _taken(x, index, 2)), queries=queries)

        table, own = narrowed(step.rotation, self.text.rope), None
        if step.sliding_rotation is not None and self.text.sliding_rope is not None:
            own = narrowed(step.sliding_rotation, self.text.sliding_rope)
        masks = [
            m if m is None or isinstance(m, str) else _taken(_taken(m, index, 2), index, 3)
            for m in (step.mask, step.sliding_mask)
        ]
        visual = None if step.visual is None else _taken(step.visual, index, 1)
        span = None if step.gate_span is None else (0, index.shape[1])
        return Step(table, masks[0], masks[1], visual, span, step.path, own)

    def _follow(self, step: Step, hooks: PassHooks, layer: int, length: int) -> Step:
        """The step of a layer that holds fewer keys than the one before it, for tokens that come after pruning."""
        tokens = hooks.tokens_of(layer)
        if layer == 0 or tokens is hooks.tokens_of(layer - 1) or hooks.pruned_now(layer):
            return step
        text = self.text
        positions, longest = mx.array(tokens.positions[..., -length:]), _longest(hooks)
        table = text_table(text.rope, text.head_dim, positions, longest)
        own = sliding_table(text, positions, longest)
        sliding = decoder_mask(length, len(tokens), window=text.sliding_window)
        span = None if step.gate_span is None else (0, len(tokens))
        return replace(step, rotation=table, sliding_rotation=own, mask="causal", sliding_mask=sliding, gate_span=span)

    def join(self) -> None:
        """Let a written token read the weights of queries, keys and values at once, and both halves of a SwiGLU.

        What is joined already stays; layers that are not plain or quantized linear ones (LoRA) are left as they are.
        """
        for layer in self.layers:
            attention, mlp = layer.attention, layer.mlp
            for holder, layers in (
                (attention, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (mlp, (mlp.gate_proj, mlp.up_proj)),
            ):
                if holder._joined is None or not holder._joined.serves(layers):
                    holder._joined = join(layers)

    def embed_ids(self, ids: mx.array) -> mx.array:
        """Embeddings (..., hidden) of token ids, in the model's type: packed ones may come out in another."""
        embedded: mx.array = self.embed(ids).astype(self.norm.weight.dtype)
        scale = self.text.embed_scale
        return embedded if scale == 1 else embedded * mx.array(scale, embedded.dtype)

    def logits(self, hidden: mx.array) -> mx.array:
        """Vocabulary scores (B, L, vocab) of hidden states (B, L, hidden)."""
        scores: mx.array = self.embed.as_linear(hidden) if self.text.tie_embeddings else self.head(hidden)
        return scores


def _taken(x: mx.array, index: mx.array, axis: int) -> mx.array:
    """Entries (B, n) of an axis of x, whose batch may be 1."""
    batch = max(x.shape[0], index.shape[0])
    shape = [1] * x.ndim
    shape[0], shape[axis] = index.shape
    x = mx.broadcast_to(x, (batch, *x.shape[1:]))
    where = mx.broadcast_to(index.reshape(shape), (batch, *x.shape[1:axis], index.shape[1], *x.shape[axis + 1 :]))
    return mx.take_along_axis(x, where, axis=axis)


def _longest(hooks: PassHooks) -> int:
    """Length in positions of what has been read."""
    return int(hooks.tokens.positions.max()) + 1
