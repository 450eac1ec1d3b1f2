"""Qwen3.5 with experts: the tower, the prompts and the layers of the dense models."""

from __future__ import annotations

from rave_mlx.config import LMMConfig, TextConfig
from rave_mlx.convert.families import qwen3_5
from rave_mlx.convert.families.base import Family, HubConfig
from rave_mlx.convert.families.experts import read_experts
from rave_mlx.convert.families.qwen import ERAS
from rave_mlx.convert.families.text import CUT_OUT
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source

TEXT: HubConfig = {
    **qwen3_5.TEXT,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 8,
    "num_experts": 256,
}
"""Defaults of the decoder. Every layer has experts, whose shares add up to 1, and an MLP beside them."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    return qwen3_5.read_whole("qwen3_5_moe", source, TEXT, _decoder)


def text_config(source: Source) -> LMMConfig:
    """The canonical configuration of a decoder alone (`qwen3_5_moe_text`)."""
    return qwen3_5.read_alone("qwen3_5_moe_text", source, TEXT, _decoder)


def _decoder(text: Keys, whole: Keys) -> TextConfig:
    for name, value in (("decoder_sparse_step", 1), ("mlp_only_layers", [])):
        text.require(name, value)
    experts = read_experts(text, normalize=True, shared=True)
    # No layer has an MLP of the width that other models have.
    width = text.need("shared_expert_intermediate_size", int)
    return qwen3_5.read_decoder(text, whole, experts=experts, intermediate_size=width)


FAMILY = Family(config, qwen3_5.origin, ERAS, qwen3_5.IGNORED, restored=qwen3_5.restored)
TEXT_FAMILY = Family(text_config, qwen3_5.origin, CUT_OUT, qwen3_5.IGNORED_ALONE, restored=qwen3_5.restored)
