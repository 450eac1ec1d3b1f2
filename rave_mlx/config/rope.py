"""The configuration of the decoder's rotary positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.part import Part, positive
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
        turning: how many of the pairs turn, the first ones; the others have no position (Gemma 4). None: all.
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
    turning: int | None = None
    pairs: Literal["halves", "neighbours"] = "halves"
    axes: Literal["time", "page"] = "time"
    query_growth: float = 0.0
    query_span: int = 1

    def __post_init__(self) -> None:
        positive(self, "query_span")

    def rotated(self, head_dim: int) -> int:
        """Numbers of a head of this width that are rotated."""
        return head_dim if self.width is None else self.width
