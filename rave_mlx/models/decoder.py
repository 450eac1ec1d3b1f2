"""The one text decoder: pre-norm, grouped-query attention with a pair gate, rotary positions, SwiGLU.

Layers may have linear attention in the place of attention, or experts in that of the MLP.

No request state lives here. Positions, the visual marks and the cache are passed in; nothing in the forward pass
depends on array values, so it can be traced by `mx.compile`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.attention import PairGate, Path, decoder_mask
from rave_mlx.backend.gpu_memory import clear_cache
from rave_mlx.config import LMMConfig, RopeConfig
from rave_mlx.models.decoder_layer import DecoderLayer
from rave_mlx.models.hooks import KeptTokens, PassHooks
from rave_mlx.models.joined import join
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.layer_inputs import LayerInputs
from rave_mlx.models.mlp import MLP
from rave_mlx.models.norms import text_norm
from rave_mlx.models.packed_step import PackedSteps, packed_row
from rave_mlx.models.rope import (
    Consecutive,
    Positions,
    RotaryTable,
    Rotation,
    sliding_table,
    text_rotation,
    text_table,
)
from rave_mlx.models.sink_gate import SinkGate, VisualGroups
from rave_mlx.models.step import Step


class Decoder(nn.Module):
    """Token embeddings to logits."""

    def __init__(self, config: LMMConfig):
        super().__init__()
        text, gate = config.text, config.gate
        self.embed = nn.Embedding(text.vocab_size, text.hidden_size)
        self.layers = [
            DecoderLayer(text, i, PairGate(gate, text, i) if gate is not None and config.gates_layer(i) else None)
            for i in range(text.num_layers)
        ]
        if config.sink_gate is not None:
            for i in config.sink_gate.layers:
                self.layers[i].sink_gate = SinkGate(text.hidden_size, config.sink_gate)
        if text.layer_inputs is not None:
            self.layer_inputs = LayerInputs(text, text.layer_inputs)
        self.norm = text_norm(text, text.hidden_size)
        if not text.tie_embeddings:
            self.head = nn.Linear(text.hidden_size, text.vocab_size, bias=text.head_bias)
        self.text = text
        self._mask, self._packed = config.mask, PackedSteps(text)

    @property
    def gates(self) -> list[PairGate]:
        """The pair gates of the gated layers, in order."""
        return [layer.attention.gate for layer in self.layers if "gate" in layer.attention]

    @property
    def sink_gates(self) -> dict[int, SinkGate]:
        """The sink gates by layer."""
        return {i: layer.sink_gate for i, layer in enumerate(self.layers) if "sink_gate" in layer}

    def hidden(
        self,
        x: mx.array,
        positions: Positions,
        visual: mx.array | None,
        *,
        ids: mx.array | None = None,
        cache: Cache | None = None,
        gate_span: tuple[int, int] | None = None,
        groups: VisualGroups | None = None,
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
            ids: of the new tokens (B, L), which give something to every layer where `TextConfig.layer_inputs` says so;
                needed there only.
            cache: what came before; extended in place. None: the new tokens are all there is.
            gate_span: key positions with visual tokens among all keys, (0, 0) when there are none yet; None
                switches the gates off. Passes that share a cache must agree on None.
            groups: what sink gates need to know of the new tokens; None where none is visual, and switches them off.
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
        ahead, beyond = None if self._mask == "windows" else lookahead, self._mask == "whole"
        mask = decoder_mask(length, keys, valid=valid, lookahead=ahead)
        sliding = decoder_mask(
            length, keys, valid=valid, lookahead=lookahead, window=text.sliding_window, beyond_window=beyond
        )
        if hooks is not None and isinstance(positions, Consecutive):
            positions = positions.array()
        rotation = text_rotation(text.rope, text.head_dim, positions, longest, x.dtype)
        own = None
        if text.rotates_windows:
            own = text_rotation(*text.sliding_rotary, positions, longest, x.dtype)
        real = None if valid is None else valid[:, -length:]
        step = Step(rotation, mask, sliding, visual, gate_span, path, own, real)
        if text.layer_inputs is not None:
            assert ids is not None, "layers take something of the tokens themselves"
            step = replace(step, layer_inputs=self.layer_inputs(ids, x, visual))
        plain = x.shape[:2] == (1, 1) and x.dtype == mx.float32 and hooks is None and call is None and groups is None
        done = 0
        for index, layer in enumerate(self.layers):
            if index < done:
                continue
            if plain and cache is not None and deepstack is None:
                stepped = self._packed(self.layers, index, x, step, cache)
                if stepped is not None:
                    x, done = stepped
                    continue
            layer_hooks = None
            if hooks is not None:
                step = self._follow(step, hooks, index, length)
                layer_hooks = hooks.enter(index, x)
            scale = layer.sink_gate(x, groups) if groups is not None and "sink_gate" in layer else None
            if scale is not step.key_scale:
                step = replace(step, key_scale=scale)
            if call is None:
                x = layer(x, step, None if cache is None else cache.layers[index], layer_hooks)
            else:
                x = call(index, layer, x, step)
            if deepstack is not None and index < deepstack.shape[0]:
                x = x + deepstack[index]
            if hooks is not None and layer_hooks is not None and (kept := layer_hooks.leave(x)) is not None:
                hooks.prune(index, kept)
                x = _taken(x, kept.index, 1) if kept.x is None else kept.x
                groups = None if groups is None else groups.taken(kept.index)
                deepstack = None if deepstack is None else mx.stack([_taken(d, kept.index, 1) for d in deepstack])
                step = self._narrow(step, hooks, index + 1, kept)
        normalized: mx.array = self.norm(x)
        return normalized

    def _narrow(self, step: Step, hooks: PassHooks, layer: int, kept: KeptTokens) -> Step:
        """The step of the layers from `layer` on, for the tokens that a policy kept."""
        index = kept.index

        def narrowed(table: Rotation, rope: RopeConfig, head_dim: int) -> RotaryTable:
            assert isinstance(table, RotaryTable)
            if kept.positions is not None:
                made = text_table(rope, head_dim, kept.positions, _longest(hooks))
                return made.astype(table.cos.dtype)
            queries = None if table.queries is None else _taken(table.queries, index, 2)
            return replace(table.map(lambda x: _taken(x, index, 2)), queries=queries)

        text = self.text
        table, own = narrowed(step.rotation, text.rope, text.head_dim), None
        if step.sliding_rotation is not None:
            own = narrowed(step.sliding_rotation, *text.sliding_rotary)
        masks = [
            m if m is None or isinstance(m, str) else _taken(_taken(m, index, 2), index, 3)
            for m in (step.mask, step.sliding_mask)
        ]
        given = step.layer_inputs
        return replace(
            step,
            rotation=table,
            mask=masks[0],
            sliding_mask=masks[1],
            visual=None if step.visual is None else _taken(step.visual, index, 1),
            gate_span=None if step.gate_span is None else (0, index.shape[1]),
            sliding_rotation=own,
            real=None if step.real is None else _taken(step.real, index, 1),
            key_scale=None,
            layer_inputs=None if given is None else tuple(_taken(each, index, 1) for each in given),
        )

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
            attention = layer.attention
            # Every token passes through a shared MLP beside experts.
            mlp = layer.mlp if isinstance(layer.mlp, MLP) else layer.mlp.get("shared")
            pairs: list[tuple[nn.Module, tuple[nn.Module, ...]]]
            pairs = [(attention, attention.inputs)]
            pairs += [] if mlp is None else [(mlp, (mlp.gate_proj, mlp.up_proj))]
            for holder, layers in pairs:
                if holder._joined is None or not holder._joined.serves(layers):
                    holder._joined = join(layers)
                    if holder._joined is not None:
                        # What was copied would stay in MLX's cache.
                        clear_cache()

    def embed_ids(self, ids: mx.array) -> mx.array:
        """Embeddings (..., hidden) of token ids, in the model's type: packed ones may come out in another."""
        row = packed_row(self.embed, ids) if self.norm.weight.dtype == mx.float32 else None
        embedded: mx.array = self.embed(ids).astype(self.norm.weight.dtype) if row is None else row
        scale = self.text.embed_scale
        return embedded if scale == 1 else embedded * mx.array(scale, embedded.dtype)

    def logits(self, hidden: mx.array) -> mx.array:
        """Vocabulary scores (B, L, vocab) of hidden states (B, L, hidden)."""
        scores: mx.array = self.embed.as_linear(hidden) if self.text.tie_embeddings else self.head(hidden)
        scores = scores if self.text.logit_scale == 1 else scores * self.text.logit_scale
        cap = self.text.logit_cap
        return scores if cap is None else mx.tanh(scores / cap) * cap


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
