"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL have in common.

transformers 4 leaves out of a nested section what equals its class's default, so the defaults are part of the format:
every family names those of its classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rave_mlx.config import ConnectorConfig, ImageConfig, LMMConfig, RopeConfig, TextConfig, VisionConfig
from rave_mlx.convert.families.base import HubConfig, Origin
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens, text_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import read_rope
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

ERAS = (
    ("model.visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("visual.", "model.visual."),
    ("vision_tower.", "model.visual."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)
"""Names of transformers 4 (with and without the prefixes of 4.52) and of mlx-vlm."""

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}
"""transformers' names for the activations of plain MLPs."""

QWEN2_TEXT: HubConfig = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 80,
}
"""Defaults of the decoders of Qwen2-VL and Qwen2.5-VL."""

QWEN2_MERGER = {"norm": "ln_q", "fc1": "mlp.0", "fc2": "mlp.2"}
"""Names in the mergers of Qwen2-VL and Qwen2.5-VL."""


def read_parts(source: Source, text: HubConfig, vision: HubConfig) -> tuple[Keys, Keys, Keys]:
    """The whole config.json, then the decoder's keys and the tower's, over their defaults.

    The decoder's keys lie in `text_config`, or (transformers before 4.52) beside it.

    Args:
        source: the checkpoint.
        text, vision: defaults of the two sections.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    inner, tower = whole.section("text_config", fallback=True), whole.section("vision_config")
    nested = source.config.get("text_config")
    return (
        whole,
        Keys({**text, **(source.config if nested is None else nested)}, inner.where),
        Keys({**vision, **source.config["vision_config"]}, tower.where),
    )


def read_qwen2(whole: Keys, text: Keys, kind: str) -> TextConfig:
    """The decoder of Qwen2-VL and Qwen2.5-VL. As in transformers, either section may tie the embeddings.

    Args:
        whole: the configuration.
        text: its text part.
        kind: the text backbone's model type.
    """
    tied = whole.get("tie_word_embeddings", bool, False) or text.get("tie_word_embeddings", bool, False)
    rope = read_multimodal_rope(text, (16, 24, 24), interleaved=False, default_theta=1e6)
    return read_text(text, whole, kind, rope=rope, tie_embeddings=tied)


def read_multimodal_rope(
    text: Keys,
    sections: tuple[int, ...],
    *,
    interleaved: bool,
    default_theta: float | None = None,
    partial: bool = False,
) -> RopeConfig:
    """Rotary positions of the decoder; `sections` and `default_theta` serve where none are given.

    Args:
        text: the text part of the configuration.
        sections: frequencies of time, rows and columns, where they are not given.
        interleaved: whether the three take turns.
        default_theta: rotary base where none is given.
        partial: whether a part of a head may be rotated.
    """
    scaling = text.get("rope_parameters", dict, None) or text.get("rope_scaling", dict, {})
    Keys(scaling, text.where).require("mrope_interleaved", interleaved)
    rope = read_rope(text, default_theta=default_theta, partial=partial)
    return replace(rope, sections=rope.sections or sections, interleaved=interleaved)


def read_tower(vision: Keys, **fields: Any) -> VisionConfig:
    """The tower; `fields` are what differs between the families."""
    vision.require("in_channels", 3)
    return VisionConfig(
        depth=vision.need("depth", int),
        num_heads=vision.need("num_heads", int),
        patch_size=vision.need("patch_size", int),
        temporal_patch_size=vision.need("temporal_patch_size", int),
        merge_size=vision.need("spatial_merge_size", int),
        rope_theta=read_axial_theta(vision),
        **fields,
    )


def read_axial_theta(vision: Keys) -> float:
    """The base of a tower's rotary positions, which turn with the row and the column of a patch."""
    rope = Keys(vision.get("rope_parameters", dict, {}), f"{vision.where}.rope_parameters")
    rope.choice("rope_type", {"axial": "axial", "default": "axial", None: "axial"}, None)
    theta: float = rope.get("rope_theta", float, vision.get("rope_theta", float, 10000.0))
    return theta


def read_images(
    source: Source,
    tower: VisionConfig,
    pixels: tuple[int, int] = (56 * 56, 28 * 28 * 1280),
    **fields: Any,
) -> ImageConfig:
    """Pre-processing of Qwen2VLImageProcessor, which all three families use, and of processors like it.

    Args:
        source: the checkpoint.
        tower: the tower that reads the images.
        pixels: smallest and largest area where none is given.
        fields: what differs in a processor like it.

    Raises:
        ConfigError: for settings of the image processor that are not supported.
    """
    if not source.processor:
        raise ConfigError(f"{source.path}: preprocessor_config.json is missing; download it with the model")
    keys = Keys(source.processor, str(source.path / "preprocessor_config.json"))
    for step in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        keys.require(step, True)
    keys.require("rescale_factor", 1 / 255)
    keys.require("patch_size", tower.patch_size)
    keys.require("temporal_patch_size", tower.temporal_patch_size)
    keys.require("merge_size", tower.merge_size)
    size = Keys(keys.get("size", dict, {}), f"{keys.where}.size")
    return ImageConfig(
        patch_size=tower.patch_size,
        temporal_patch_size=tower.temporal_patch_size,
        merge_size=tower.merge_size,
        min_pixels=_pixels(keys, size, "min_pixels", "shortest_edge", pixels[0]),
        max_pixels=_pixels(keys, size, "max_pixels", "longest_edge", pixels[1]),
        mean=keys.numbers("image_mean", ImageConfig.mean),
        std=keys.numbers("image_std", ImageConfig.std),
        resample=keys.choice("resample", {1: "lanczos", 2: "bilinear", 3: "bicubic"}, 3),
        **fields,
    )


def assemble(
    family: str, source: Source, whole: Keys, text: Keys, decoder: TextConfig, tower: VisionConfig
) -> LMMConfig:
    """The canonical configuration around a decoder and a tower.

    Args:
        family: its name.
        source: the checkpoint.
        whole, text: its configuration and the text part of it.
        decoder, tower: what was read of the two parts.
    """
    return LMMConfig(
        family=family,
        text=decoder,
        tokens=read_tokens(source, whole, text, image=whole.need("image_token_id", int)),
        vision=tower,
        connector=ConnectorConfig(tower.hidden_size * tower.merge_size**2, decoder.hidden_size, norm=tower.norm),
        image=read_images(source, tower),
        gate=read_gate(whole, source.config),
    )


def qwen_origin(
    canonical: str, config: LMMConfig, hub: HubConfig, *, merger: Mapping[str, str], mlp: Mapping[str, str]
) -> Origin:
    """Where a canonical tensor lies, given a family's names in the mergers and in the tower's MLPs.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
        merger, mlp: names of this family's connector and of the tower's MLP, by ours.
    """
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub)
    vision = config.vision
    assert isinstance(vision, VisionConfig)
    if canonical == "vision.positions":
        return Origin("model.visual.pos_embed.weight")
    stem, _, leaf = canonical.rpartition(".")
    if stem == "vision.patch_embed":
        # A 3-D convolution there, a matrix here.
        side = vision.patch_size
        shape = (vision.hidden_size, vision.channels, vision.temporal_patch_size, side, side)
        return Origin(f"model.visual.patch_embed.proj.{leaf}", shape if leaf == "weight" else None)
    path, _, module = stem.rpartition(".")
    if path.startswith("connector"):
        index = path.removeprefix("connector").removeprefix(".deepstack.")
        folder = f"deepstack_merger_list.{index}" if index else "merger"
        return Origin(f"model.visual.{folder}.{merger[module]}.{leaf}")
    inner = path.removeprefix("vision.layers.").replace(".attention", ".attn")
    return Origin(f"model.visual.blocks.{inner}.{mlp.get(module, module)}.{leaf}")


def _pixels(keys: Keys, size: Keys, name: str, edge: str, default: int) -> int:
    """A bound of the area, under one of the names that processors of different ages give it."""
    found: int = keys.get(name, int, size.get(edge, int, size.get(name, int, default)))
    return found
