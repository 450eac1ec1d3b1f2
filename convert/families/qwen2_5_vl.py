"""Qwen2.5-VL (arXiv 2502.13923)."""

from __future__ import annotations

from functools import partial

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family, HubConfig
from rave_mlx.convert.families.qwen import (
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
    "hidden_size": 3584,
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
"""Defaults of the tower."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration. A `window_size` of null means attention over the whole image in every layer."""
    whole, text, vision = read_parts(source, QWEN2_TEXT, VISION)
    decoder = read_qwen2(whole, text, "qwen2_5_vl")
    vision.require("hidden_act", "silu")
    vision.require("out_hidden_size", decoder.hidden_size)
    tower = read_tower(
        vision,
        hidden_size=vision.need("hidden_size", int),
        intermediate_size=vision.need("intermediate_size", int),
        window_size=vision.get("window_size", int, None),
        full_attention_layers=tuple(vision.need("fullatt_block_indexes", list)),
    )
    return assemble("qwen2_5_vl", source, whole, text, decoder, tower)


FAMILY = Family(config, partial(qwen_origin, merger=QWEN2_MERGER, mlp={}), ERAS)
