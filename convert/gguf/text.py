"""The text model of a GGUF file: its settings as config.json would say them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gguf import GGMLQuantizationType

from rave_mlx.convert.gguf.blocks import expand
from rave_mlx.convert.gguf.container import Contents, Stored
from rave_mlx.convert.gguf.settings import HARMLESS, Settings
from rave_mlx.errors import ModelError

MODEL_TYPES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen2vl": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
}
"""transformers' model types by general.architecture. Mistral's files say "llama"."""
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
_LAYERS = "block_count"
_OTHER = (
    "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length",
    "attention.sliding_window", "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
)  # fmt: skip
"""Settings of an architecture that are read, besides the sizes."""
SECTIONS = "rope.dimension_sections"
"""How many rotary frequencies turn with time, row and column (Qwen2-VL)."""
DIVISORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
"""Divisors of the rotary frequencies: of Llama 3.1 and later; of Phi-3 for short and for long texts."""


def read_text(contents: Contents, *, sections: bool = False) -> dict[str, Any]:
    """The text model's keys of a configuration, without its tokens.

    Args:
        contents: of the file.
        sections: read multimodal rotary positions; without images they are plain ones.

    Raises:
        ModelError: for an architecture or settings that are not supported.
    """
    path, stored = contents.files[0], contents.tensors
    architecture = contents.settings.get("general.architecture")
    if architecture == "clip":
        raise ModelError(f"{path}: is a vision tower (mmproj); open the text model's file, and this one is found there")
    if architecture not in MODEL_TYPES:
        raise ModelError(
            f"{path}: GGUF architecture {architecture!r} is not supported, only {', '.join(MODEL_TYPES)}; "
            "convert the original checkpoint instead"
        )
    given = Settings(path, contents.settings, f"{architecture}.")
    own = (SECTIONS,) if architecture == "qwen2vl" else ()
    given.refuse_unknown((_LAYERS, *_SIZES.values(), *_OTHER, *HARMLESS, *own))
    given.need(_LAYERS, *_SIZES.values())
    if "token_embd.weight" not in stored:
        raise ModelError(f"{path}: token_embd.weight is missing; download it again")
    layers = given.size(_LAYERS)
    config = {name: given.size(key, layers=layers) for name, key in _SIZES.items()}
    window = given.integer("attention.sliding_window", 0)
    return {
        "model_type": _model_type(given, architecture, window),
        "num_hidden_layers": layers,
        **config,
        "num_key_value_heads": given.size("attention.head_count_kv", config["num_attention_heads"], layers=layers),
        "head_dim": _head_dim(given, config),
        "sliding_window": window or None,
        "hidden_act": "silu",
        "rms_norm_eps": given.number("attention.layer_norm_rms_epsilon", 1e-6),
        "vocab_size": stored["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in stored,
        "rope_parameters": {
            **_rope(given, stored),
            **({"mrope_section": given.numbers(SECTIONS)[:3]} if sections else {}),
        },
    }


def _model_type(given: Settings, architecture: str, window: int) -> str:
    """A sliding window tells Mistral from Llama."""
    if not window or architecture in ("mistral", "phi3"):
        return MODEL_TYPES[architecture]
    if architecture == "llama":
        return "mistral"
    raise ModelError(f"{given.path}: {given.prefix}attention.sliding_window {window} is not supported")


def _head_dim(given: Settings, config: Mapping[str, int]) -> int:
    """The width of a head, which every key that speaks of it has to agree on."""
    default = config["hidden_size"] // config["num_attention_heads"]
    head_dim = given.size("attention.key_length", given.size("rope.dimension_count", default))
    for key in ("attention.value_length", "rope.dimension_count"):
        found = given.size(key, head_dim)
        if found != head_dim:
            raise ModelError(
                f"{given.path}: {given.prefix}{key} {found} differs from the width of a head, {head_dim}, "
                "which is not supported"
            )
    return head_dim


def _rope(given: Settings, stored: Mapping[str, Stored]) -> dict[str, Any]:
    """rope_parameters."""
    theta = {"rope_theta": given.number("rope.freq_base", 10000.0)}
    kind, length = given.text("rope.scaling.type", "none"), given.size("context_length")
    original = {"original_max_position_embeddings": given.size("rope.scaling.original_context_length", length)}
    if kind == "longrope" or DIVISORS in stored or SHORT in stored or LONG in stored:
        if kind not in ("none", "longrope"):
            raise ModelError(f"{given.path}: has both divisors of the rotary frequencies and rope scaling {kind!r}")
        return {"rope_type": "longrope", **theta, **_longrope(given, stored, original)}
    if kind == "none":
        return {"rope_type": "default", **theta}
    factor = {"factor": given.number("rope.scaling.factor", 1.0)}
    if kind == "linear":
        return {"rope_type": kind, **theta, **factor}
    if kind != "yarn":
        raise ModelError(f"{given.path}: rope scaling {kind!r} is not supported, only linear, yarn and longrope")
    bounds = {
        f"beta_{speed}": given.number(key, 0.0)
        for speed in ("fast", "slow")
        if (key := f"rope.scaling.yarn_beta_{speed}") in given
    }
    return {"rope_type": kind, **theta, **factor, **original, **bounds, **_yarn_attention(given, factor["factor"])}


def _longrope(given: Settings, stored: Mapping[str, Stored], original: Mapping[str, int]) -> dict[str, Any]:
    """Phi-3's two lists of divisors; or Llama's one, which is a longrope whose factors never change."""
    if DIVISORS in stored:
        if SHORT in stored or LONG in stored:
            raise ModelError(f"{given.path}: has {DIVISORS} and rope_factors, two sets of rotary frequencies")
        factors = _divisors(given, DIVISORS, stored[DIVISORS])
        whole = {"original_max_position_embeddings": given.size("context_length")}
        return {"short_factor": factors, "long_factor": factors, "factor": 1.0, "attention_factor": 1.0, **whole}
    missing = [name for name in (SHORT, LONG) if name not in stored]
    if missing:
        raise ModelError(f"{given.path}: {missing[0]} is missing; download it again")
    scaled = "rope.scaling.attn_factor"
    return {
        "short_factor": _divisors(given, SHORT, stored[SHORT]),
        "long_factor": _divisors(given, LONG, stored[LONG]),
        **({"attention_factor": given.number(scaled, 1.0)} if scaled in given else {}),
        **original,
    }


def _divisors(given: Settings, name: str, stored: Stored) -> list[float]:
    if stored.kind not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16) or len(stored.shape) != 1:
        raise ModelError(f"{given.path}: {name} is no list of numbers; download it again")
    numbers: list[float] = expand(stored).tolist()  # type: ignore[assignment]  # one axis
    return numbers


def _yarn_attention(given: Settings, factor: float) -> dict[str, float]:
    """llama.cpp multiplies yarn's own factor of cos and sin with these two; transformers' key replaces it."""
    scale = given.number("rope.scaling.attn_factor", 1.0) * given.number("rope.scaling.yarn_attn_factor", 1.0)
    if scale == 1.0:
        return {}
    return {"attention_factor": scale * (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)}
