"""The text decoder's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.experts import ExpertsConfig
from rave_mlx.config.linear_attention import LinearAttentionConfig
from rave_mlx.config.part import Part, positive
from rave_mlx.config.vision import Activation
from rave_mlx.errors import ConfigError


@dataclass(frozen=True)
class RopeScaling(Part):
    """How rotary frequencies are stretched for contexts longer than the pre-training's.

    Attributes:
        kind: the rule: linear (position interpolation, arXiv 2306.15595), dynamic (NTK-aware, the base grows with
            the length), yarn (arXiv 2309.00071), longrope (arXiv 2402.13753) or llama3.
        factor: how many times longer.
        original_positions: context length of the pre-training.
        attention_factor: multiplies cos and sin (yarn, longrope); None for the rule's own value.
        beta_fast, beta_slow: turns over the original context above and below which yarn keeps and stretches.
        mscale, mscale_all_dim: yarn's attention factor as DeepSeek writes it; None to leave it out.
        truncate: whether yarn rounds the bounds of its ramp to whole dimensions.
        low_freq_factor, high_freq_factor: the same bounds for llama3.
        short_factors, long_factors: longrope's divisor of every frequency, up to and beyond original_positions.
    """

    kind: Literal["linear", "dynamic", "yarn", "longrope", "llama3"]
    factor: float = 1.0
    original_positions: int | None = None
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind != "linear" and self.original_positions is None:
            raise ConfigError(f"text.rope.scaling: {self.kind} needs original_positions")
        if self.kind == "longrope" and len(self.short_factors) != len(self.long_factors):
            raise ConfigError("text.rope.scaling: short_factors and long_factors differ in length")

    @property
    def follows_length(self) -> bool:
        """Whether the frequencies depend on how long the sequence is."""
        return self.kind in ("dynamic", "longrope")


@dataclass(frozen=True)
class RopeConfig(Part):
    """Rotary positions of the text decoder.

    Attributes:
        theta: base of the frequencies.
        sections: for multimodal RoPE (Qwen2-VL, arXiv 2409.12191), how many of the frequencies turn with
            the temporal, vertical and horizontal position, one after the other; None for plain one-dimensional
            positions.
        interleaved: the sections are dealt out instead (Qwen3-VL): frequency i turns with the vertical position where
            i % 3 is 1 and with the horizontal one where it is 2, below three times that section's size, else with the
            temporal one.
        scaling: how frequencies are stretched for long contexts; None: not at all.
        width: numbers of a head that are rotated, the first ones; the others stay as they are. None: all.
        axes: what the sections are of. "time": of time, rows and columns, as above. "page" (HunyuanOCR): parts of the
            whole head, twice as wide, of which the last three turn with the column, the row and the number of the
            image, the ones before with the place in the text; a pair may so turn with two of them.
        pairs: which numbers turn together: i and i + half of them ("halves"), or 2 i and 2 i + 1 ("neighbours", GLM-4).
        query_growth, query_span: queries at position p are multiplied by 1 + query_growth ln(1 + floor(p /
            query_span)), so that attention stays sharp over long contexts (Llama 4, Ministral 3); 0: they are not.
    """

    theta: float
    sections: tuple[int, ...] | None = None
    interleaved: bool = False
    scaling: RopeScaling | None = None
    width: int | None = None
    pairs: Literal["halves", "neighbours"] = "halves"
    axes: Literal["time", "page"] = "time"
    query_growth: float = 0.0
    query_span: int = 1

    def __post_init__(self) -> None:
        positive(self, "query_span")

    def rotated(self, head_dim: int) -> int:
        """Numbers of a head of this width that are rotated."""
        return head_dim if self.width is None else self.width


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
    output_gate: bool = False
    linear: LinearAttentionConfig | None = None
    experts: ExpertsConfig | None = None

    def __post_init__(self) -> None:
        positive(self, "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_kv_heads", "head_dim")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"text: num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.tie_embeddings and self.head_bias:
            raise ConfigError("text: tied embeddings have no head, so head_bias must be false")
        if self.head_dim % 2:
            raise ConfigError(f"text: head_dim {self.head_dim} is odd; rotary positions need pairs")
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
        for rope in (self.rope, *([] if local is None else [local])):
            self._check_rope(rope)
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

    def _check_rope(self, rope: RopeConfig) -> None:
        """Refuse rotary positions that do not fit the heads."""
        rotated = rope.rotated(self.head_dim)
        if not 2 <= rotated <= self.head_dim or rotated % 2:
            raise ConfigError(f"text.rope.width {rotated}: an even number from 2 to head_dim {self.head_dim} is needed")
        if rope.sections is not None and sum(rope.sections) * 2 != rotated:
            width = "head_dim" if rotated == self.head_dim else "the rotated width"
            raise ConfigError(f"text.rope.sections {list(rope.sections)} must add up to {width} / 2 = {rotated // 2}")
        scaling = rope.scaling
        if scaling is not None and scaling.kind == "longrope" and len(scaling.short_factors) * 2 != rotated:
            raise ConfigError(f"text.rope.scaling: {len(scaling.short_factors)} factors for {rotated} rotated numbers")

    def slides(self, layer: int) -> bool:
        """Whether decoder layer `layer` sees a sliding window only."""
        return self.sliding_window is not None and (self.sliding_layers == "all" or layer in self.sliding_layers)

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

    def rope_of(self, layer: int) -> RopeConfig:
        """Rotary positions of decoder layer `layer`."""
        return self.rope if self.sliding_rope is None or not self.slides(layer) else self.sliding_rope
