"""GLM-OCR (arXiv 2603.10910): the shape of GLM-4V, norms of queries and keys in the tower, no learned positions."""

from __future__ import annotations

import re

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family, HubConfig
from rave_mlx.convert.families.glm4v import assemble, origin, read_decoder, read_glm_tower
from rave_mlx.convert.families.qwen import ERAS, read_parts
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source

TEXT: HubConfig = {
    "vocab_size": 59392,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
}
"""Defaults of the decoder."""
VISION: HubConfig = {
    "depth": 24,
    "hidden_size": 1024,
    "hidden_act": "silu",
    "attention_bias": True,
    "num_heads": 16,
    "in_channels": 3,
    "image_size": 336,
    "patch_size": 14,
    "rms_norm_eps": 1e-5,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 1536,
    "intermediate_size": 4096,
}
"""Defaults of the tower."""
_LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.")


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole, text, vision = read_parts(source, TEXT, VISION)
    tied = whole.get("tie_word_embeddings", bool, False) or text.get("tie_word_embeddings", bool, False)
    decoder = read_decoder(whole, text, "glm_ocr", tied)
    bias = vision.get("attention_bias", bool, True)
    tower = read_glm_tower(
        vision,
        decoder,
        intermediate_size=vision.need("intermediate_size", int),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        qk_norm=True,
    )
    inner = decoder.hidden_size * tower.channels
    return assemble("glm_ocr", source, (whole, text, vision), decoder, tower, inner, 59280)


def _predicts_further(name: str, config: LMMConfig, hub: HubConfig) -> bool:
    """Whether a tensor belongs to a layer that predicts a token after the next one, which no answer needs.

    Such layers come after the others; published checkpoints have one.
    """
    found = _LAYER.match(name)
    if found is None:
        return False
    text = Keys(hub, "config.json").section("text_config", fallback=True)
    count: int = text.get("num_nextn_predict_layers", int, 1)
    return 0 <= int(found[1]) - config.text.num_layers < count


FAMILY = Family(config, origin, ERAS, left_out=_predicts_further)
