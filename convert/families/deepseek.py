"""DeepSeek's text decoder with plain attention and experts, as DeepSeek-OCR 2 has it."""

from __future__ import annotations

from typing import Any

from rave_mlx.config import ExpertsConfig, TextConfig
from rave_mlx.convert.families.base import HubConfig
from rave_mlx.convert.families.text import read_text
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import read_rope
from rave_mlx.errors import ConfigError

TEXT: HubConfig = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_bias": False,
    "mlp_bias": False,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
    "moe_intermediate_size": 1407,
}
"""Defaults of the decoder of DeepSeek-OCR 2."""
EXPERTS = 64
"""Experts of a layer where their number is not given."""
NAMES = {"shared": "shared_experts"}
"""Names of modules in a layer, by ours, where Qwen's are others."""
_LATENT = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
"""Sizes of multi-head latent attention; null or 0 where attention is plain."""


def read_decoder(text: Keys, whole: Keys) -> TextConfig:
    """The decoder.

    Args:
        text: its section.
        whole: the whole configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    latent = [name for name in _LATENT if text.get(name, int, 0)]
    if latent or text.get("use_mla", bool, False):
        raise ConfigError(
            f"{text.where}: {latent[0] if latent else 'use_mla'} asks for multi-head latent attention, which is not "
            "supported; DeepSeek-OCR 2 has plain attention"
        )
    hidden, heads = text.need("hidden_size", int), text.need("num_attention_heads", int)
    if heads < 1 or hidden % heads:
        raise ConfigError(f"{text.where}: hidden_size {hidden} does not split over {heads} heads")
    biased = text.get("attention_bias", bool, False)
    return read_text(
        text,
        whole,
        "deepseek",
        rope=read_rope(text, default_theta=10000.0),
        # transformers computes it, whatever head_dim says.
        head_dim=hidden // heads,
        qkv_bias=biased,
        output_bias=biased,
        mlp_bias=text.get("mlp_bias", bool, False),
        tie_embeddings=whole.get("tie_word_embeddings", bool, False),
        sliding_window=None,
        experts=_read_experts(text, text.need("num_hidden_layers", int)),
    )


def _read_experts(text: Keys, count: int) -> ExpertsConfig | None:
    """The experts; None where no layer has any."""
    layers = _sparse_layers(text, count)
    if not layers:
        return None
    text.require("scoring_func", "softmax")
    text.require("norm_topk_prob", False)
    # transformers writes either name.
    total = text.get("n_routed_experts", int, text.get("num_experts", int, EXPERTS))
    width, shared = text.need("moe_intermediate_size", int), text.need("n_shared_experts", int)
    chosen = text.need("num_experts_per_tok", int)
    if not 1 <= chosen <= total:
        raise ConfigError(f"{text.where}: num_experts_per_tok is {chosen}; it must be from 1 to {total}")
    if shared < 1:
        raise ConfigError(f"{text.where}: n_shared_experts is {shared}; at least 1 is needed")
    groups: dict[str, Any] = {}
    methods = {"greedy": "", "group_limited_greedy": "groups"}
    if text.choice("topk_method", methods, "greedy"):
        groups = {"groups": text.need("n_group", int), "chosen_groups": text.need("topk_group", int)}
        if groups["groups"] < 1 or total % groups["groups"]:
            raise ConfigError(f"{text.where}: n_group {groups['groups']} does not divide {total} experts")
    return ExpertsConfig(
        count=total,
        chosen=chosen,
        intermediate_size=width,
        normalize=False,
        layers="all" if len(layers) == count else layers,
        shared_size=width * shared,
        shared_gate=False,
        scale=text.get("routed_scaling_factor", float, 1.0),
        **groups,
    )


def _sparse_layers(text: Keys, count: int) -> tuple[int, ...]:
    """The layers with experts, one by one, or (as the model was published) every so many from one on."""
    kinds = text.get("mlp_layer_types", list, None)
    if kinds is None:
        first = text.get("first_k_dense_replace", int, None)
        if first is None:
            raise ConfigError(f"{text.where}: mlp_layer_types is missing, which names layers dense or sparse")
        every = text.get("moe_layer_freq", int, 1)
        if every < 1:
            raise ConfigError(f"{text.where}: moe_layer_freq is {every}; it must be at least 1")
        return tuple(layer for layer in range(count) if layer >= first and layer % every == 0)
    strange = [kind for kind in kinds if kind not in ("dense", "sparse")]
    if strange or len(kinds) != count:
        raise ConfigError(
            f"{text.where}: mlp_layer_types has {repr(strange[0]) if strange else f'{len(kinds)} entries'}; 'dense' or "
            f"'sparse' is needed for each of {count} layers"
        )
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "sparse")
