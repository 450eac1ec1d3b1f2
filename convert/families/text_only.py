"""Text backbones alone: language models without a vision tower."""

from __future__ import annotations

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.experts import read_experts
from rave_mlx.convert.families.text import CUT_OUT, backbone, read_gate, read_text, read_tokens, text_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source


def config(source: Source) -> LMMConfig:
    """The canonical configuration."""
    whole = Keys(source.config, str(source.path / "config.json"))
    kind = backbone(source.config)
    return LMMConfig(
        family=kind,
        text=read_text(whole, whole, kind),
        tokens=read_tokens(source, whole, whole),
        gate=read_gate(whole, source.config),
    )


def expert_config(source: Source) -> LMMConfig:
    """The canonical configuration of a model with experts.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    kind = backbone(source.config)
    whole.require("use_sliding_window", False)
    whole.require("qkv_bias", kind == "qwen2_moe")
    return LMMConfig(
        family=kind,
        text=read_text(whole, whole, kind, experts=read_experts(whole, normalize=None, shared=kind == "qwen2_moe")),
        tokens=read_tokens(source, whole, whole),
        gate=read_gate(whole, source.config),
    )


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    return text_origin(canonical, config, hub, stem="model.")


FAMILY = Family(config, origin, CUT_OUT)
EXPERT_FAMILY = Family(expert_config, origin, CUT_OUT, experts="single")
