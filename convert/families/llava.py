"""LLaVA 1.5 (arXiv 2310.03744) and Pixtral in its layout, and what LLaVA-NeXT and LLaVA-OneVision share with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rave_mlx.config import (
    GridVisionConfig,
    Images,
    LMMConfig,
    MlpConnectorConfig,
    TextConfig,
    TileConfig,
    TileVisionConfig,
)
from rave_mlx.convert.families import pixtral
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.square_images import processor_keys, read_fit, read_levels
from rave_mlx.convert.families.text import read_gate, read_text, read_tokens, text_origin
from rave_mlx.convert.families.text_defaults import with_defaults
from rave_mlx.convert.families.towers import ACTIVATIONS, IGNORED, read_tower, state_indices, tower_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

ERAS = (
    ("model.vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
)
"""Names of transformers 4 and of mlx-vlm."""

_PROJECTOR = {"fc1": "linear_1", "fc2": "linear_2"}


def decoder_part(whole: Keys, source: Source, kind: str) -> tuple[Keys, str]:
    """The text part of a configuration with its defaults, and its model type (`kind` where none is given).

    Args:
        whole: the configuration.
        source: the checkpoint.
        kind: model type of the text backbone where none is given.
    """
    text = whole.section("text_config")
    found = text.get("model_type", str, kind)
    return Keys(with_defaults(source.config["text_config"], found, text.where), text.where), found


def read_features(whole: Keys, kind: str, layer: int, strategy: str) -> TileVisionConfig:
    """The tower, and which of its states are the features.

    Args:
        whole: the configuration.
        kind: model type of the tower where none is given.
        layer, strategy: defaults of `vision_feature_layer` and `vision_feature_select_strategy`.

    Raises:
        ConfigError: for settings that do not fit the tower.
    """
    vision = whole.section("vision_config")
    tower = read_tower(vision, vision.get("model_type", str, kind))
    keep = whole.choice("vision_feature_select_strategy", {"default": "", "full": "all"}, strategy) == "all"
    if not keep and not tower.class_token:
        raise ConfigError(
            f"{whole.where}: vision_feature_select_strategy 'default' drops the class token, and this tower has none"
        )
    chosen = whole.get("vision_feature_layer", (int, list), layer)
    layers = state_indices(chosen, tower.depth, whole.where)
    return replace(tower, feature_layers=layers, keep_class_token=keep and tower.class_token)


def read_model(
    source: Source,
    family: str,
    tower: TileVisionConfig | GridVisionConfig,
    image: Images,
    *,
    text: str,
    placeholder: int,
) -> LMMConfig:
    """The canonical configuration, once the tower and the images are known.

    Args:
        source: the checkpoint.
        family: its model type.
        tower, image: the parts that differ between the families.
        text: model type of the text backbone where none is given.
        placeholder: the image token's id where none is given.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    part, kind = decoder_part(whole, source, text)
    tied = whole.get("tie_word_embeddings", bool, False) or part.get("tie_word_embeddings", bool, False)
    decoder = read_text(part, whole, kind, tie_embeddings=tied)
    index = whole.get("image_token_id", int, whole.get("image_token_index", int, placeholder))
    return LMMConfig(
        family=family,
        text=decoder,
        tokens=read_tokens(source, whole, part, image=index),
        vision=tower,
        connector=pixtral.read_connector(whole, tower, decoder, join=False)
        if isinstance(tower, GridVisionConfig)
        else _connector(whole, tower, decoder, newline=isinstance(image, TileConfig) and image.plan == "pinpoints"),
        image=image,
        gate=read_gate(whole, source.config),
    )


def _connector(whole: Keys, tower: TileVisionConfig, decoder: TextConfig, *, newline: bool) -> MlpConnectorConfig:
    fields: dict[str, Any] = {
        "activation": whole.choice("projector_hidden_act", ACTIVATIONS, "gelu"),
        "bias": whole.get("multimodal_projector_bias", bool, True),
    }
    return MlpConnectorConfig(tower.feature_size, decoder.hidden_size, decoder.hidden_size, newline=newline, **fields)


def config(source: Source) -> LMMConfig:
    """The canonical configuration: every image is one tile, or (Pixtral) is read at its own resolution."""
    whole = Keys(source.config, str(source.path / "config.json"))
    if whole.section("vision_config").get("model_type", str, "clip_vision_model") == "pixtral":
        return _read_pixtral(source, whole)
    tower = read_features(whole, "clip_vision_model", -2, "default")
    keys = processor_keys(source)
    image = TileConfig(
        tower.tile_size,
        tower.patch_size,
        tower.features,
        **{"fit": read_fit(keys, tower.tile_size)} | read_levels(keys),
    )
    return read_model(source, "llava", tower, image, text="llama", placeholder=32000)


def _read_pixtral(source: Source, whole: Keys) -> LMMConfig:
    """Pixtral-12B in the layout of transformers.

    Raises:
        ConfigError: for features without their first patch, which a tower without a class token cannot spare.
    """
    layers = whole.get("vision_feature_layer", (int, list), -2)
    tower = pixtral.read_tower(whole.section("vision_config"), layers, 1)
    if whole.choice("vision_feature_select_strategy", {"default": "", "full": "all"}, "default") != "all":
        raise ConfigError(
            f"{whole.where}: vision_feature_select_strategy 'default' drops the first patch of a Pixtral tower"
        )
    image = pixtral.read_images(source, tower, ends=True)
    return read_model(source, "llava", tower, image, text="llama", placeholder=32000)


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub)
    if isinstance(config.vision, GridVisionConfig):
        return pixtral.pixtral_origin(canonical, config, hub)
    if canonical.startswith("vision."):
        assert isinstance(config.vision, TileVisionConfig)
        return tower_origin(canonical, config.vision)
    if canonical == "connector.newline":
        return Origin("model.image_newline")
    stem, _, leaf = canonical.removeprefix("connector.").rpartition(".")
    return Origin(f"model.multi_modal_projector.{_PROJECTOR[stem]}.{leaf}")


FAMILY = Family(config, origin, ERAS, (*IGNORED, *pixtral.IGNORED))
