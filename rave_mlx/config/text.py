"""The text decoder's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.experts import ExpertsConfig
from rave_mlx.config.layer_inputs import LayerInputsConfig
from rave_mlx.config.linear_attention import LinearAttentionConfig
from rave_mlx.config.part import Part, positive
from rave_mlx.config.rope import RopeConfig
from rave_mlx.config.vision import Activation
from rave_mlx.errors import ConfigError


@dataclass(frozen=True)
class TextConfig(Part):
    """The text decoder: pre-norm, grouped-query attention, SwiGLU.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size, intermediate_size: widths of the residual stream and of the MLP.
        num_layers: decoder layers.
        num_heads, num_kv_heads: query heads, and heads of keys and values, each of which serves several of them.
        head_dim: width of a head.
        rope: rotary positions.
        max_positions: length of the context in positions, the answer included.
        norm_eps: epsilon of the RMS norms.
        qkv_bias, qk_norm: whether queries, keys and values have a bias, and whether queries and keys are normed.
        qk_norm_rotated: whether that norm comes after their rotation (HunyuanOCR) instead of before it.
        output_bias, mlp_bias: whether the joined heads' projection, and the matrices of the MLP, have a bias.
        sublayer_norms: whether what attention and MLP give is normed before it is added (GLM-4, Gemma 3).
        offset_norms: whether the norms multiply by one plus their weight (Gemma).
        activation: of the MLP's gate.
        embed_scale: factor of token embeddings, not of visual features (Gemma).
        query_scale: factor of queries before they are rotated: attention scores are scaled by query_scale times
            head_dim ** -0.5.
        residual_scale: factor of what attention and MLP give, before it is added (Granite).
        logit_scale: factor of the logits (Granite).
        tie_embeddings: whether logits are computed with the embedding's weights.
        head_bias: whether the logits have a bias (AKI).
        sliding_window: in `sliding_layers`, a token sees itself and the tokens before it, this many in all; None: all.
        sliding_layers: layers with that window.
        sliding_rope: rotary positions of these layers; None: those of the others.
        sliding_head_dim, sliding_kv_heads: width of a head in these layers, and heads of keys and values; None: as in
            the others.
        score_scale: factor of attention scores in the place of head_dim ** -0.5 (Gemma 4).
        value_norm: whether values are normed, without a weight (Gemma 4).
        values_from_keys: whether layers without a window take as values what their keys are before the norm (Gemma 4).
        borrowed_layers: so many layers, the last ones, have no keys and values of their own and use those of the last
            layer before them all that has a window, or has none, as they do (Gemma 4, Gemma 3n).
        wide_borrowers: whether the MLP of these layers is twice as wide.
        layer_scales: whether what leaves a layer is multiplied with a number of the layer's own (Gemma 4).
        layer_inputs: what a token gives to every layer besides the stream (Gemma 4); None: nothing.
        logit_cap: logits are bent into (-logit_cap, logit_cap), by tanh (Gemma 4); None: they are not.
        output_gate: whether the heads' outputs are multiplied with the sigmoid of a gate, which the queries' projection
            gives beside each head's query (Qwen3.5).
        linear: layers with linear attention in the place of attention; None: there are none.
        experts: what some or all layers have in the place of their MLP; None: all have an MLP.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig
    max_positions: int
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    qk_norm_rotated: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    sublayer_norms: bool = False
    offset_norms: bool = False
    activation: Activation = "silu"
    embed_scale: float = 1.0
    query_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    tie_embeddings: bool = False
    head_bias: bool = False
    sliding_window: int | None = None
    sliding_layers: Literal["all"] | tuple[int, ...] = "all"
    sliding_rope: RopeConfig | None = None
    sliding_head_dim: int | None = None
    sliding_kv_heads: int | None = None
    score_scale: float | None = None
    value_norm: bool = False
    values_from_keys: bool = False
    borrowed_layers: int = 0
    wide_borrowers: bool = False
    layer_scales: bool = False
    layer_inputs: LayerInputsConfig | None = None
    logit_cap: float | None = None
    output_gate: bool = False
    linear: LinearAttentionConfig | None = None
    experts: ExpertsConfig | None = None

    def __post_init__(self) -> None:
        positive(self, "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_kv_heads", "head_dim")
        for groups in (self.num_kv_heads, self.sliding_kv_heads or 1):
            if self.num_heads % groups:
                raise ConfigError(f"text: num_heads {self.num_heads} is not a multiple of num_kv_heads {groups}")
        if self.tie_embeddings and self.head_bias:
            raise ConfigError("text: tied embeddings have no head, so head_bias must be false")
        for width in (self.head_dim, self.sliding_head_dim or 2):
            if width % 2 or width < 1:
                raise ConfigError(f"text: head_dim {width} is odd; rotary positions need pairs")
        sections, page = self.rope.sections, self.rope.axes == "page"
        if page and (sections is None or len(sections) < 3 or self.rope.width or self.rope.pairs != "halves"):
            raise ConfigError("text.rope: axes of a page need three sections or more, of whole heads in halves")
        if not page and sections is not None and len(sections) != 3:
            raise ConfigError(
                f"text.rope.sections {list(sections)}: one of time, one of rows and one of columns are needed"
            )
        local = self.sliding_rope
        if local is not None and (
            local.sections != self.rope.sections or (local.scaling is not None and local.scaling.follows_length)
        ):
            raise ConfigError("text.sliding_rope: sections of its own, and a scaling by length, are not supported")
        self._check_rope(self.rope, self.head_dim)
        self._check_rope(local or self.rope, self.sliding_head_dim or self.head_dim)
        self._check_borrowed()
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ConfigError(f"text.sliding_window is {self.sliding_window}; it must be at least 1")
        if self.linear is not None:
            self._check_linear(self.linear.layers)
        if self.experts is not None and isinstance(self.experts.layers, tuple):
            outside = [i for i in self.experts.layers if not 0 <= i < self.num_layers]
            if outside or not self.experts.layers:
                raise ConfigError(
                    f"text.experts.layers {outside}: one or more of 0 to {self.num_layers - 1} are needed"
                )

    def _check_linear(self, layers: tuple[int, ...]) -> None:
        """Refuse layers of linear attention that are not there, and a decoder of nothing else."""
        outside = [i for i in layers if not 0 <= i < self.num_layers]
        if outside or not layers or list(layers) != sorted(set(layers)):
            raise ConfigError(
                f"text.linear.layers {list(layers)}: some of 0 to {self.num_layers - 1} are needed, in order"
            )
        if len(layers) == self.num_layers:
            raise ConfigError("text.linear.layers names every layer; at least one needs attention")

    def _check_borrowed(self) -> None:
        """Refuse layers that use keys and values of others where there are no such others."""
        own = self.num_layers - self.borrowed_layers
        if not 1 <= own <= self.num_layers or (self.linear is not None and self.borrowed_layers):
            raise ConfigError(f"text.borrowed_layers {self.borrowed_layers}: fewer than num_layers {self.num_layers}")
        if self.borrowed_layers and self.output_gate:
            raise ConfigError("text.borrowed_layers: with an output gate is not supported")
        kinds = {self.slides(layer) for layer in range(own)}
        if any(self.slides(layer) not in kinds for layer in range(own, self.num_layers)):
            raise ConfigError(f"text.borrowed_layers {self.borrowed_layers}: no layer before them is of the same kind")

    def _check_rope(self, rope: RopeConfig, head_dim: int) -> None:
        """Refuse rotary positions that do not fit heads of this width."""
        rotated = rope.rotated(head_dim)
        if not 2 <= rotated <= head_dim or rotated % 2:
            raise ConfigError(f"text.rope.width {rotated}: an even number from 2 to head_dim {head_dim} is needed")
        if rope.turning is not None and not 0 <= rope.turning <= rotated // 2:
            raise ConfigError(f"text.rope.turning {rope.turning}: a head has {rotated // 2} pairs")
        if rope.sections is not None and sum(rope.sections) * 2 != rotated:
            width = "head_dim" if rotated == head_dim else "the rotated width"
            raise ConfigError(f"text.rope.sections {list(rope.sections)} must add up to {width} / 2 = {rotated // 2}")
        scaling = rope.scaling
        if scaling is not None and scaling.kind == "longrope" and len(scaling.short_factors) * 2 != rotated:
            raise ConfigError(f"text.rope.scaling: {len(scaling.short_factors)} factors for {rotated} rotated numbers")

    def slides(self, layer: int) -> bool:
        """Whether decoder layer `layer` sees a sliding window only."""
        return self.sliding_window is not None and (self.sliding_layers == "all" or layer in self.sliding_layers)

    def head_dim_of(self, layer: int) -> int:
        """Width of a head in decoder layer `layer`."""
        return self.sliding_head_dim or self.head_dim if self.slides(layer) else self.head_dim

    def kv_heads_of(self, layer: int) -> int:
        """Heads of keys and values in decoder layer `layer`."""
        return self.sliding_kv_heads or self.num_kv_heads if self.slides(layer) else self.num_kv_heads

    def lender_of(self, layer: int) -> int | None:
        """The layer whose keys and values decoder layer `layer` uses; None: its own."""
        own = self.num_layers - self.borrowed_layers
        return None if layer < own else max(i for i in range(own) if self.slides(i) == self.slides(layer))

    def mlp_size_of(self, layer: int) -> int:
        """Width of the MLP of decoder layer `layer`."""
        return self.intermediate_size * (2 if self.wide_borrowers and self.lender_of(layer) is not None else 1)

    @property
    def key_layers(self) -> tuple[int, ...]:
        """The decoder layers that have keys and values of their own."""
        return tuple(i for i in self.attention_layers if self.lender_of(i) is None)

    @property
    def key_numbers(self) -> int:
        """Numbers that one token's keys have in all layers together; its values have as many."""
        return sum(self.head_dim_of(i) * self.kv_heads_of(i) for i in self.key_layers)

    def is_linear(self, layer: int) -> bool:
        """Whether decoder layer `layer` has linear attention."""
        return self.linear is not None and layer in self.linear.layers

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The decoder layers with attention, all of them where there is no linear attention."""
        return tuple(i for i in range(self.num_layers) if not self.is_linear(i))

    def experts_of(self, layer: int) -> ExpertsConfig | None:
        """The experts of decoder layer `layer`; None where it has an MLP."""
        return self.experts if self.experts is not None and self.experts.in_layer(layer) else None

    @property
    def rotates_windows(self) -> bool:
        """Whether layers with a sliding window need a rotation of their own."""
        return self.sliding_rope is not None or self.sliding_head_dim not in (None, self.head_dim)

    @property
    def sliding_rotary(self) -> tuple[RopeConfig, int]:
        """Rotary positions of layers with a sliding window, and the width of their heads."""
        return self.sliding_rope or self.rope, self.sliding_head_dim or self.head_dim

    def rope_of(self, layer: int) -> RopeConfig:
        """Rotary positions of decoder layer `layer`."""
        return self.rope if self.sliding_rope is None or not self.slides(layer) else self.sliding_rope
