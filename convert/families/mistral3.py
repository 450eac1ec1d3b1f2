"""Mistral Small 3.1 and 3.2, Magistral Small (`mistral3`): Pixtral's tower, patches joined two by two, Mistral."""

from __future__ import annotations

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.families.llava import ERAS
from rave_mlx.convert.families.pixtral import (
    IGNORED,
    pixtral_origin,
    read_connector,
    read_images,
    read_tower,
)
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens
from rave_mlx.convert.families.text_defaults import with_defaults
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    merge = whole.get("spatial_merge_size", int, 2)
    layers = whole.get("vision_feature_layer", (int, list), -1)
    tower = read_tower(whole.section("vision_config"), layers, merge)
    section = whole.section("text_config")
    kind = section.get("model_type", str, "mistral")
    part = Keys(with_defaults(source.config["text_config"], kind, section.where), section.where)
    tied = whole.get("tie_word_embeddings", bool, part.get("tie_word_embeddings", bool, True))
    decoder = read_text(part, whole, kind, tie_embeddings=tied)
    return LMMConfig(
        family="mistral3",
        text=decoder,
        tokens=read_tokens(
            source, whole, part, image=whole.get("image_token_index", int, whole.get("image_token_id", int, 10))
        ),
        vision=tower,
        connector=read_connector(whole, tower, decoder, join=True),
        image=read_images(source, tower, ends=True),
        gate=read_gate(whole, source.config),
    )


FAMILY = Family(config, pixtral_origin, ERAS, IGNORED)
