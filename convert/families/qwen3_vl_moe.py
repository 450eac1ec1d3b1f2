"""Qwen3-VL (arXiv 2511.21631), the models with experts: the tower and the prompts of the dense ones."""

from __future__ import annotations

from functools import partial

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families import qwen3_vl
from rave_mlx.convert.families.base import Family, HubConfig
from rave_mlx.convert.families.experts import read_experts
from rave_mlx.convert.families.qwen import ERAS
from rave_mlx.convert.source import Source

TEXT: HubConfig = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "moe_intermediate_size": 1408,
    "num_local_experts": 60,
    "num_experts_per_tok": 4,
    "decoder_sparse_step": 1,
}
"""Defaults of the decoder, as those of the dense models. The chosen experts' shares always add up to 1."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    return qwen3_vl.read_model(source, "qwen3_vl_moe", TEXT, partial(read_experts, normalize=True))


FAMILY = Family(config, qwen3_vl.origin, ERAS, experts="turned")
