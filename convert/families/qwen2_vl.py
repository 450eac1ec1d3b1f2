"""Qwen2-VL (arXiv 2409.12191)."""

from __future__ import annotations

from functools import partial

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family, HubConfig
from rave_mlx.convert.families.qwen import (
    ACTIVATIONS,
    ERAS,
    QWEN2_MERGER,
    QWEN2_TEXT,
    assemble,
    qwen_origin,
    read_parts,
    read_qwen2,
    read_tower,
)
from rave_mlx.convert.source import Source

VISION: HubConfig = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "hidden_act": "quick_gelu",
    "mlp_ratio": 4,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
"""Defaults of the tower."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration. `hidden_size` of the tower is the decoder's; its own is `embed_dim`."""
    whole, text, vision = read_parts(source, QWEN2_TEXT, VISION)
    decoder = read_qwen2(whole, text, "qwen2_vl")
    vision.require("hidden_size", decoder.hidden_size)
    width = vision.need("embed_dim", int)
    tower = read_tower(
        vision,
        hidden_size=width,
        intermediate_size=int(width * vision.need("mlp_ratio", float)),
        norm="layer",
        mlp="plain",
        activation=vision.choice("hidden_act", ACTIVATIONS, None),
    )
    return assemble("qwen2_vl", source, whole, text, decoder, tower)


FAMILY = Family(config, partial(qwen_origin, merger=QWEN2_MERGER, mlp={}), ERAS)
