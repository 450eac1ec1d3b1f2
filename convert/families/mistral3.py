"""Mistral Small 3.1 and 3.2, Magistral Small, Ministral 3 (`mistral3`): Pixtral's tower, patches joined, Mistral."""

from __future__ import annotations

from dataclasses import replace

from rave_mlx.config import LMMConfig, RopeConfig
from rave_mlx.convert.families.base import Family, HubConfig
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
from rave_mlx.convert.rope import read_rope
from rave_mlx.convert.source import Source

MINISTRAL_ROPE: HubConfig = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""Rotary settings of a Ministral 3 that names none."""
_ORIGINAL = "original_max_position_embeddings"


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
    changes = {"rope": _ministral_rope(section)} if kind == "ministral3" else {}
    decoder = read_text(part, whole, kind, tie_embeddings=tied, **changes)
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


def _ministral_rope(text: Keys) -> RopeConfig:
    """Rotary positions of Ministral 3, whose queries grow with the position.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    longest = text.get("max_position_embeddings", int, 262144)
    given = text.get("rope_parameters", dict, None) or text.get("rope_scaling", dict, None) or MINISTRAL_ROPE
    settings = {k: v for k, v in given.items() if k not in ("llama_4_scaling_beta", "max_position_embeddings")}
    if settings.get("rope_theta") is None:
        settings["rope_theta"] = text.get("rope_theta", float, 1e6)
    where = f"{text.where}: rope_parameters"
    rope = read_rope(Keys({"max_position_embeddings": longest, "rope_parameters": settings}, where))
    growth = Keys(given, where).need("llama_4_scaling_beta", float)
    return replace(rope, query_growth=growth, query_span=Keys(given, where).need(_ORIGINAL, int))


FAMILY = Family(config, pixtral_origin, ERAS, IGNORED)
