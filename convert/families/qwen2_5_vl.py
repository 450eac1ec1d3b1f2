"""Qwen2.5-VL (arXiv 2502.13923)."""

from __future__ import annotations

from rave_mlx.config import ConnectorConfig, LMMConfig, VisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.qwen import ERAS, read_images, vision_origin
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens, text_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source


def config(source: Source) -> LMMConfig:
    """The canonical configuration."""
    whole = Keys(source.config, str(source.path / "config.json"))
    text = whole.section("text_config", fallback=True)
    vision = whole.section("vision_config")
    vision.require("hidden_act", "silu")
    decoder = read_text(text, whole, "qwen2_5_vl")
    tower = VisionConfig(
        depth=vision.need("depth", int),
        hidden_size=vision.need("hidden_size", int),
        intermediate_size=vision.need("intermediate_size", int),
        num_heads=vision.need("num_heads", int),
        patch_size=vision.need("patch_size", int),
        window_size=vision.need("window_size", int),
        full_attention_layers=tuple(vision.need("fullatt_block_indexes", list)),
        temporal_patch_size=vision.get("temporal_patch_size", int, 2),
        merge_size=vision.get("spatial_merge_size", int, 2),
        channels=vision.get("in_channels", int, vision.get("in_chans", int, 3)),
        rope_theta=float(vision.get("rope_parameters", dict, {}).get("rope_theta", 10000.0)),
    )
    return LMMConfig(
        family="qwen2_5_vl",
        text=decoder,
        tokens=read_tokens(source, whole, text, image=whole.need("image_token_id", int)),
        vision=tower,
        connector=ConnectorConfig(tower.hidden_size * tower.merge_size**2, decoder.hidden_size),
        image=read_images(source, tower),
        gate=read_gate(whole, source.config),
    )


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies."""
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub)
    return vision_origin(canonical, config)


FAMILY = Family(config, origin, ERAS)
