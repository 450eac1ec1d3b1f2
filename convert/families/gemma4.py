"""Gemma 4: patches at native resolution through a tower of its own, their mean over squares, and a decoder whose layers
with a sliding window let the tokens of an image see each other. What is said about sound is left out."""

from __future__ import annotations

import re

from rave_mlx.config import AxialVisionConfig, ImageConfig, LMMConfig, MeanConnectorConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.gemma3 import around, ended, token_id
from rave_mlx.convert.families.gemma4_text import (
    TEXT,
    decoder_origin,
    is_unused,
    read_decoder,
    read_mask,
    text_config,
)
from rave_mlx.convert.families.square_images import read_scale
from rave_mlx.convert.families.text import read_gate, read_tokens
from rave_mlx.convert.families.towers import ACTIVATIONS
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

VISION: HubConfig = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "pooling_kernel_size": 3,
    "patch_size": 16,
    "position_embedding_size": 10240,
}
"""What a configuration leaves out of the tower."""
_THETA = 100.0
ERAS = (
    ("vision_tower.", "model.vision_tower."),
    ("embed_vision.", "model.embed_vision."),
    ("audio_tower.", "model.audio_tower."),
    ("embed_audio.", "model.embed_audio."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
)
"""Names of mlx-vlm."""
IGNORED = (r"model\.(audio_tower|embed_audio)\..*",)
"""The way from sound to the decoder, which is not taken."""
IMAGE = 258880
"""The placeholder of an image, where nothing else is said."""
_AROUND = {"boi": 255999, "eoi": 258882}
UNEXPORTED = ("audio_config",)
_WORDS = ("<|image>", "<image|>")
_SIZES = (70, 140, 280, 560, 1120)
"""Visual tokens of an image at most, as the processor allows them."""
_LAYER = {
    "norm1": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "norm2": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
    "attention": "self_attn",
}
_TOP = {
    "vision.patch_embed.weight": "vision_tower.patch_embedder.input_proj.weight",
    "vision.positions": "vision_tower.patch_embedder.position_embedding_table",
    "connector.feature_offset": "vision_tower.std_bias",
    "connector.feature_factor": "vision_tower.std_scale",
    "connector.projection.weight": "embed_vision.embedding_projection.weight",
}
_BOUND = re.compile(r"model\.vision_tower\..*\.(input|output)_(min|max)")


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    section = whole.section("text_config")
    section.require("model_type", "gemma4_text")
    part = Keys({**TEXT, **source.config["text_config"]}, section.where)
    decoder = read_decoder(
        part, tied=whole.get("tie_word_embeddings", bool, part.get("tie_word_embeddings", bool, True))
    )
    gate = read_gate(whole, source.config)
    if whole.get("vision_config", dict, None) is None:
        tokens = read_tokens(source, ended(whole, source), part)
        return LMMConfig(family="gemma4", text=decoder, tokens=tokens, gate=gate)
    vision = Keys({**VISION, **source.config["vision_config"]}, f"{whole.where}.vision_config")
    tower = _tower(vision)
    return LMMConfig(
        family="gemma4",
        text=decoder,
        tokens=read_tokens(source, ended(whole, source), part, image=token_id(whole, "image", IMAGE)),
        vision=tower,
        connector=MeanConnectorConfig(
            tower.hidden_size,
            tower.merge_size,
            decoder.hidden_size,
            tower.norm_eps,
            standardize=vision.get("standardize", bool, False),
        ),
        image=read_images(source, whole, tower.patch_size, tower.merge_size),
        gate=gate,
        mask=read_mask(part),  # type: ignore[arg-type]  # one of the masks
    )


def _tower(vision: Keys) -> AxialVisionConfig:
    """The tower from its section, in which nothing is left out that `VISION` has."""
    vision.require("model_type", "gemma4_vision")
    rope = Keys(vision.get("rope_parameters", dict, {}), f"{vision.where}.rope_parameters")
    rope.choice("rope_type", {"axial": "", "default": ""}, "axial")
    return AxialVisionConfig(
        depth=vision.need("num_hidden_layers", int),
        hidden_size=vision.need("hidden_size", int),
        intermediate_size=vision.need("intermediate_size", int),
        num_heads=vision.need("num_attention_heads", int),
        num_kv_heads=vision.need("num_key_value_heads", int),
        head_dim=vision.need("head_dim", int),
        patch_size=vision.need("patch_size", int),
        positions=vision.need("position_embedding_size", int),
        merge_size=vision.need("pooling_kernel_size", int),
        rope_theta=rope.get("rope_theta", float, _THETA),
        norm_eps=vision.need("rms_norm_eps", float),
        activation=vision.choice("hidden_activation", ACTIVATIONS, None),
        clipped=vision.get("use_clipped_linears", bool, False),
    )


def read_images(source: Source, whole: Keys, patch: int, pool: int, *, joined: bool = False) -> ImageConfig:
    """How Gemma4ImageProcessor and Gemma4Processor make images. Pixels go from -1 to 1, which is part of the model.

    Args:
        source: the checkpoint.
        whole: its configuration.
        patch, pool: pixels a side of a patch, and patches a side of a visual token.
        joined: whether the patches of a visual token are one patch of pixels from 0 to 1 (the unified models).

    Raises:
        ConfigError: for settings of the image processor that are not supported.
    """
    keys = Keys(source.processor, str(source.path / "preprocessor_config.json"))
    keys.require("do_resize", True)
    read_scale(keys)
    for name, value in (("patch_size", patch), ("pooling_kernel_size", pool)):
        if keys.get(name, int, VISION[name]) != value:
            raise ConfigError(f"{keys.where}: {name} {keys.get(name, int, VISION[name])} is not the tower's {value}")
    most = keys.get("max_soft_tokens", int, 280)
    if most not in _SIZES:
        raise ConfigError(f"{keys.where}: max_soft_tokens {most} is not one of {', '.join(map(str, _SIZES))}")
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if keys.get("do_normalize", bool, False):
        mean, std = keys.numbers("image_mean", mean), keys.numbers("image_std", std)
    first, last = (token_id(whole, name, default) for name, default in _AROUND.items())
    before, after = around(source, (first, last), _WORDS)
    if not joined:
        mean, std = tuple(m + s / 2 for m, s in zip(mean, std, strict=True)), tuple(s / 2 for s in std)
    return ImageConfig(
        patch_size=patch * pool if joined else patch,
        merge_size=1 if joined else pool,
        mean=mean,
        std=std,
        min_pixels=1,
        max_pixels=most * (patch * pool) ** 2,
        temporal_patch_size=1,
        resample=keys.choice("resample", {1: "lanczos", 2: "bilinear", 3: "bicubic"}, 3),
        fill=True,
        image_start=before,
        image_end=after,
    )


def stem_of(config: LMMConfig, hub: HubConfig) -> str:
    """What precedes `layers` in the names of a checkpoint's tensors."""
    return "model.language_model." if "text_config" in hub else "model."


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical.startswith("decoder."):
        return decoder_origin(canonical, config, hub, stem_of(config, hub))
    if canonical in _TOP:
        return Origin(f"model.{_TOP[canonical]}")
    index, part, *inner = canonical.removeprefix("vision.layers.").split(".")
    return Origin(".".join([f"model.vision_tower.encoder.layers.{index}", _LAYER.get(part, part), *inner]))


def left_out(name: str, config: LMMConfig, hub: HubConfig) -> bool:
    """Whether a tensor is of keys that a layer does not use, or of bounds that nothing is clipped to.

    Args:
        name: of the tensor, a modern one.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    clips = isinstance(config.vision, AxialVisionConfig) and config.vision.clipped
    return is_unused(name, config, stem_of(config, hub)) or (not clips and _BOUND.fullmatch(name) is not None)


FAMILY = Family(config, origin, ERAS, IGNORED, left_out=left_out, unexported=UNEXPORTED)
TEXT_FAMILY = Family(text_config, origin, left_out=left_out)
