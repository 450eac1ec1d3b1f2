"""LightOnOCR (arXiv 2601.14251): Pixtral's tower, patches joined two by two, Qwen3; a page is read with no question."""

from __future__ import annotations

from functools import partial

from rave_mlx.config import CellConnectorConfig, LMMConfig
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.families.pixtral import IGNORED, pixtral_origin, read_images, read_tower
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens
from rave_mlx.convert.families.text_defaults import with_defaults
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source

ERAS = (
    ("model.vision_encoder.", "model.vision_encoder."),
    ("vision_encoder.", "model.vision_encoder."),
    ("vision_projection.", "model.vision_projection."),
    ("vision_tower.vision_model.", "model.vision_encoder."),
    ("vision_tower.", "model.vision_encoder."),
    ("multi_modal_projector.", "model.vision_projection."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model.language_model."),
)
"""Names of MLX packages, and of the parts without the model's prefix."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    tower = read_tower(whole.section("vision_config"), -1, whole.get("spatial_merge_size", int, 2))
    section = whole.section("text_config")
    kind = section.get("model_type", str, "qwen3")
    part = Keys(with_defaults(source.config["text_config"], kind, section.where), section.where)
    tied = whole.get("tie_word_embeddings", bool, part.get("tie_word_embeddings", bool, True))
    decoder = read_text(part, whole, kind, tie_embeddings=tied)
    width = decoder.hidden_size
    return LMMConfig(
        family="lighton_ocr",
        text=decoder,
        tokens=read_tokens(source, whole, part, image=whole.get("image_token_id", int, 151655)),
        vision=tower,
        connector=CellConnectorConfig(
            tower.hidden_size, width, width, tower.merge_size, join=True, bias=False, norm_eps=decoder.norm_eps
        ),
        image=read_images(source, tower, ends=False),
        gate=read_gate(whole, source.config),
    )


FAMILY = Family(
    config,
    partial(pixtral_origin, tower="model.vision_encoder.", projector="model.vision_projection."),
    ERAS,
    IGNORED,
)
