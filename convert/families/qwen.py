"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL have in common."""

from __future__ import annotations

from rave_mlx.config import ImageConfig, LMMConfig, VisionConfig
from rave_mlx.convert.families.base import Origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source

ERAS = (
    ("model.visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("visual.", "model.visual."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)
"""Names of transformers 4 (with and without the prefixes of 4.52)."""

_TOP = {
    "vision.patch_embed": "patch_embed.proj",
    "connector.norm": "merger.ln_q",
    "connector.fc1": "merger.mlp.0",
    "connector.fc2": "merger.mlp.2",
}


def vision_origin(canonical: str, config: LMMConfig) -> Origin:
    """Where a canonical tensor of the tower or the connector lies; the patch embedding is a 3-D convolution there."""
    vision = config.vision
    assert isinstance(vision, VisionConfig)
    stem, _, leaf = canonical.rpartition(".")
    shape = None
    if canonical == "vision.patch_embed.weight":
        side = vision.patch_size
        shape = (vision.hidden_size, vision.channels, vision.temporal_patch_size, side, side)
    if stem in _TOP:
        return Origin(f"model.visual.{_TOP[stem]}.{leaf}", shape)
    inner = stem.removeprefix("vision.layers.").replace(".attention", ".attn")
    return Origin(f"model.visual.blocks.{inner}.{leaf}")


def read_images(source: Source, tower: VisionConfig) -> ImageConfig:
    """Pre-processing of Qwen2VLImageProcessor."""
    keys = Keys(source.processor, str(source.path / "preprocessor_config.json"))
    size = keys.get("size", dict, {})
    return ImageConfig(
        patch_size=tower.patch_size,
        temporal_patch_size=tower.temporal_patch_size,
        merge_size=tower.merge_size,
        min_pixels=keys.get("min_pixels", int, size.get("shortest_edge", 56 * 56)),
        max_pixels=keys.get("max_pixels", int, size.get("longest_edge", 28 * 28 * 1280)),
        mean=tuple(keys.get("image_mean", list, list(ImageConfig.mean))),
        std=tuple(keys.get("image_std", list, list(ImageConfig.std))),
        resample=keys.choice("resample", {1: "lanczos", 2: "bilinear", 3: "bicubic"}, 3),
    )
