"""GLM-4V (arXiv 2507.01006), as GLM-4.1V and the dense GLM-4.6V are, and what GLM-OCR shares with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rave_mlx.config import DownsampleConnectorConfig, ImageConfig, LMMConfig, TextConfig, VisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.qwen import (
    ACTIVATIONS,
    ERAS,
    qwen_origin,
    read_images,
    read_multimodal_rope,
    read_parts,
    read_tower,
)
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import rotated_share
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

TEXT: HubConfig = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}
"""Defaults of the decoder."""
VISION: HubConfig = {
    "depth": 24,
    "hidden_size": 1536,
    "hidden_act": "silu",
    "attention_bias": False,
    "num_heads": 12,
    "in_channels": 3,
    "image_size": 336,
    "patch_size": 14,
    "rms_norm_eps": 1e-5,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 4096,
    "intermediate_size": 13696,
}
"""Defaults of the tower."""
_TOP = {
    "vision.pre_norm": "post_conv_layernorm",
    "vision.post_norm": "post_layernorm",
    "vision.positions": "embeddings.position_embedding",
}
_MERGER = {name: name for name in ("proj", "gate_proj", "up_proj", "down_proj")} | {"norm": "post_projection_norm"}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole, text, vision = read_parts(source, TEXT, VISION)
    kind = source.config["model_type"]
    for part, names in ((text, ("glm4v", "glm4v_text")), (vision, ("glm4v", "glm4v_vision"))):
        # The mixture of experts has model types of its own.
        part.choice("model_type", dict.fromkeys((None, kind, *names), ""), None)
    heads = text.need("num_attention_heads", int)
    text.require("head_dim", text.need("hidden_size", int) // max(1, heads))
    tied = whole.get("tie_word_embeddings", bool, False)
    if kind == "glm4v":
        tied = tied or text.get("tie_word_embeddings", bool, False)
    decoder = read_decoder(whole, text, "glm4v", tied)
    side = vision.need("image_size", int) // max(1, vision.need("patch_size", int))
    if side < 1:
        raise ConfigError(f"{vision.where}: image_size is smaller than patch_size; the tower has no positions")
    tower = read_glm_tower(
        vision,
        decoder,
        intermediate_size=decoder.hidden_size,
        qkv_bias=vision.get("attention_bias", bool, False),
        output_bias=False,
        mlp_bias=False,
        pre_norm=True,
        position_side=side,
        position_fit="edges",
        position_filter="bicubic",
    )
    return assemble(kind, source, (whole, text, vision), decoder, tower, vision.need("intermediate_size", int), 151343)


def read_decoder(whole: Keys, text: Keys, kind: str, tied: bool) -> TextConfig:
    """The decoder: neighbouring pairs of a part of every head turn, and every sublayer's output is normed.

    Args:
        whole, text: the configuration and the text part of it.
        kind: the backbone's model type.
        tied: whether the embedding is the head.
    """
    rope = read_multimodal_rope(text, (8, 12, 12), interleaved=False, default_theta=10000.0, partial=True)
    head_dim = text.get("head_dim", int, text.need("hidden_size", int) // max(1, text.need("num_attention_heads", int)))
    width = int(head_dim * rotated_share(text))
    rope = replace(rope, pairs="neighbours", width=None if width == head_dim else width)
    return read_text(text, whole, kind, rope=rope, sublayer_norms=True, tie_embeddings=tied)


def read_glm_tower(vision: Keys, decoder: TextConfig, **fields: Any) -> VisionConfig:
    """The tower.

    Args:
        vision: its section.
        decoder: whose width the tower's connector has.
        fields: what differs between the families.
    """
    vision.require("out_hidden_size", decoder.hidden_size)
    return read_tower(
        vision,
        hidden_size=vision.need("hidden_size", int),
        norm_eps=vision.need("rms_norm_eps", float),
        activation=vision.choice("hidden_act", ACTIVATIONS, None),
        patch_bias=True,
        post_norm=True,
        **fields,
    )


def assemble(
    family: str,
    source: Source,
    keys: tuple[Keys, Keys, Keys],
    decoder: TextConfig,
    tower: VisionConfig,
    inner: int,
    placeholder: int,
) -> LMMConfig:
    """The canonical configuration around a decoder and a tower.

    Args:
        family: its name.
        source: the checkpoint.
        keys: the configuration, its text part and its vision part.
        decoder, tower: what was read of the two parts.
        inner: width of the connector's gated MLP.
        placeholder: id of the image's token where none is given.
    """
    whole, text, _ = keys
    return LMMConfig(
        family=family,
        text=decoder,
        tokens=read_tokens(source, whole, text, image=whole.get("image_token_id", int, placeholder)),
        vision=tower,
        connector=DownsampleConnectorConfig(
            tower.hidden_size, tower.merge_size, inner, decoder.hidden_size, tower.activation
        ),
        image=_images(source, tower),
        gate=read_gate(whole, source.config),
    )


def _images(source: Source, tower: VisionConfig) -> ImageConfig:
    """Pre-processing of Glm4vImageProcessor and Glm46VImageProcessor, which are one.

    Its bounds count the pixels of all frames of a patch, ours those of the image; it reads them from `size` only.
    """
    settings = {k: v for k, v in source.processor.items() if k not in ("min_pixels", "max_pixels")}
    image = read_images(
        replace(source, processor=settings), tower, (112 * 112, 28 * 28 * 15000), grow_sides="truncated"
    )
    frames = tower.temporal_patch_size
    return replace(image, min_pixels=-(-image.min_pixels // frames), max_pixels=image.max_pixels // frames)


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    stem, _, leaf = canonical.rpartition(".")
    if canonical == "vision.positions":
        stem, leaf = canonical, "weight"
    if stem in _TOP:
        return Origin(f"model.visual.{_TOP[stem]}.{leaf}")
    vision = config.vision
    assert isinstance(vision, VisionConfig)
    if stem == "connector.join":
        shape = (config.text.hidden_size, vision.hidden_size, vision.merge_size, vision.merge_size)
        return Origin(f"model.visual.downsample.{leaf}", shape if leaf == "weight" else None)
    return qwen_origin(canonical, config, hub, merger=_MERGER, mlp={})


FAMILY = Family(config, origin, ERAS)
