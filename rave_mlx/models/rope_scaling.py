"""How fast the rotary pairs of the decoder turn: plain frequencies and their stretching for longer contexts.

Everything is float64 on the host, from configuration and sequence length alone. The rules, and what they fall back to,
are those of transformers 5 (`modeling_rope_utils`), which computes them in float32.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import RopeConfig, RopeScaling

Frequencies = NDArray[np.float64]


def rope_bucket(rope: RopeConfig, length: int) -> int:
    """Which sequence lengths share their rotary frequencies: a number that is equal for two lengths when they do.

    0 for all lengths unless the frequencies follow the length (dynamic, longrope).
    """
    scaling = rope.scaling
    if scaling is None or not scaling.follows_length:
        return 0
    return max(length, _original(scaling)) if scaling.kind == "dynamic" else int(length > _original(scaling))


def outgrows(rope: RopeConfig, length: int) -> bool:
    """Whether the last token of `length` makes the keys of all tokens before it useless.

    longrope turns with other factors from there on, so the sequence has to be read again. (dynamic changes with every
    token; as elsewhere, an answer goes on with the keys that were right when they were made.)
    """
    scaling = rope.scaling
    return scaling is not None and scaling.kind == "longrope" and length == _original(scaling) + 1


def kept_bucket(rope: RopeConfig, prompt: int, length: int) -> int | None:
    """The rope bucket of all keys that a cache holds after an answer; None when there are several.

    Args:
        rope: the settings.
        prompt: length of the prompt in positions.
        length: the same with the answer.
    """
    mixed = rope.scaling is not None and rope.scaling.kind == "dynamic"
    return None if mixed and rope_bucket(rope, prompt) != rope_bucket(rope, length) else rope_bucket(rope, length)


@lru_cache(maxsize=64)
def frequencies(rope: RopeConfig, head_dim: int, bucket: int) -> tuple[Frequencies, float]:
    """Radians a position for every pair (head_dim / 2,), and what cos and sin are multiplied with.

    Args:
        rope: the settings.
        head_dim: width of a head, or of the part of it that is rotated.
        bucket: of the sequence's length, see `rope_bucket`.
    """
    turns, strength = _stretched(rope, head_dim, bucket)
    if rope.turning is not None:
        turns = np.where(np.arange(len(turns)) < rope.turning, turns, 0.0)
    return turns, strength


def _stretched(rope: RopeConfig, head_dim: int, bucket: int) -> tuple[Frequencies, float]:
    """`frequencies` as if all pairs turned."""
    scaling = rope.scaling
    plain = _powers(rope.theta, head_dim)
    if scaling is None:
        return plain, 1.0
    match scaling.kind:
        case "linear":
            return plain / scaling.factor, 1.0
        case "dynamic":
            grown = scaling.factor * bucket / _original(scaling) - (scaling.factor - 1)
            return _powers(rope.theta * grown ** (head_dim / (head_dim - 2)), head_dim), 1.0
        case "yarn":
            return _yarn(rope.theta, scaling, head_dim), _yarn_attention(scaling)
        case "longrope":
            factors = scaling.long_factors if bucket else scaling.short_factors
            return plain / np.array(factors, np.float64), _longrope_attention(scaling)
        case "llama3":
            return _llama3(plain, scaling), 1.0


def _powers(theta: float, head_dim: int) -> Frequencies:
    """Frequencies without scaling (RoFormer, arXiv 2104.09864): theta^(-2 i / head_dim)."""
    half = head_dim // 2
    powers: Frequencies = theta ** (-np.arange(half, dtype=np.float64) / half)
    return powers


def _original(scaling: RopeScaling) -> int:
    """Context length of the pre-training."""
    assert scaling.original_positions is not None  # RopeScaling sees to it
    return scaling.original_positions


def _yarn(theta: float, scaling: RopeScaling, head_dim: int) -> Frequencies:
    """YaRN (arXiv 2309.00071): fast pairs stay, slow ones are interpolated, with a linear ramp in between."""

    def pair(turns: float) -> float:
        """Which pair makes this many turns over the original context."""
        return head_dim * math.log(_original(scaling) / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    # A ramp of no width would divide by zero.
    width = high - low or 0.001
    stretched = np.clip((np.arange(head_dim // 2) - low) / width, 0, 1)
    plain = _powers(theta, head_dim)
    mixed: Frequencies = plain / scaling.factor * stretched + plain * (1 - stretched)
    return mixed


def _yarn_attention(scaling: RopeScaling) -> float:
    """Factor of cos and sin: 0.1 ln(factor) + 1 as in the paper, or the ratio of two such as DeepSeek writes it."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def strength(weight: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * weight * math.log(scaling.factor) + 1

    if scaling.mscale and scaling.mscale_all_dim:
        return strength(scaling.mscale) / strength(scaling.mscale_all_dim)
    return strength(1.0)


def _longrope_attention(scaling: RopeScaling) -> float:
    """Factor of cos and sin (LongRoPE, arXiv 2402.13753)."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(scaling.factor) / math.log(_original(scaling)))


def _llama3(plain: Frequencies, scaling: RopeScaling) -> Frequencies:
    """Pairs with many turns over the original context stay, those with few are divided, between them a blend."""
    turns = _original(scaling) * plain / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0, 1)
    blended: Frequencies = (1 - kept) * plain / scaling.factor + kept * plain
    return blended
