"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): one layout under two names, which SmolDocling and
Granite-Docling share. A SigLIP tower over tiles, pixel shuffle, and a Llama decoder.

Patches have the learned positions 0, 1, 2, ... transformers looks them up by fractions of the tile's side, so that
images need not fill a tile; here they always do. By rounding of these fractions, on some processors, two patches of
some sides share a position there (of 19 or 25 patches, say), but not with the 26, 27 or 32 of published models.
"""

from __future__ import annotations

import math
from typing import Any

from rave_mlx.config import LMMConfig, ShuffleConnectorConfig, TextConfig, TileConfig, TileVisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.pixel_shuffle import read_model, tile_tokens
from rave_mlx.convert.families.square_images import processor_keys
from rave_mlx.convert.families.text import text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS, tower_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError
from rave_mlx.inputs.images.tiling.split_grid import LONGEST

ERAS = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.text_model."),
    ("language_model.", "model.text_model."),
    ("vision_model.", "model.vision_model."),
    ("connector.", "model.connector."),
)
"""Names of MLX packages; transformers 4 and 5 agree."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration."""
    whole = Keys(source.config, str(source.path / "config.json"))
    tower, scale = _tower(whole.section("vision_config")), whole.get("scale_factor", int, 2)
    image = _images(source, tower, tile_tokens(tower, scale, whole.where))

    def connector(decoder: TextConfig) -> ShuffleConnectorConfig:
        return ShuffleConnectorConfig(tower.hidden_size, scale, decoder.hidden_size)

    return read_model(source, tower, image, connector, text="llama", placeholder=128257, tied=False)


def _tower(vision: Keys) -> TileVisionConfig:
    """The tower. Defaults are those of transformers, which version 4 left out of a checkpoint's file."""
    return TileVisionConfig(
        depth=vision.get("num_hidden_layers", int, 12),
        hidden_size=vision.get("hidden_size", int, 1152),
        intermediate_size=vision.get("intermediate_size", int, 3072),
        num_heads=vision.get("num_attention_heads", int, 16),
        tile_size=vision.get("image_size", int, 224),
        patch_size=vision.get("patch_size", int, 32),
        activation=vision.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh"),
        norm_eps=vision.get("layer_norm_eps", float, 1e-6),
        channels=vision.get("num_channels", int, 3),
    )


def _images(source: Source, tower: TileVisionConfig, tokens: int) -> TileConfig:
    """Pre-processing of Idefics3ImageProcessor and SmolVLMImageProcessor, which are one."""
    keys = processor_keys(source)
    longest = _longest_edge(keys, "size", 4 * 364)
    tile = _longest_edge(keys, "max_image_size", 364)
    if tile != tower.tile_size:
        raise ConfigError(
            f"{keys.where}: tiles of max_image_size.longest_edge {tile} do not fit the tower, which reads "
            f"{tower.tile_size} pixels (image_size in config.json)"
        )
    # An odd longest side can grow by one pixel when the other one is made even.
    most = math.ceil((min(longest, LONGEST) + 1) / tile) ** 2
    return TileConfig(
        tile_size=tile,
        patch_size=tower.patch_size,
        tile_tokens=tokens,
        plan="split",
        max_tiles=most if keys.get("do_image_splitting", bool, True) else 1,
        longest_edge=longest,
        markers="grid",
        mean=keys.numbers("image_mean", (0.5, 0.5, 0.5)),
        std=keys.numbers("image_std", (0.5, 0.5, 0.5)),
        resample=keys.choice("resample", {1: "lanczos", 2: "bilinear", 3: "bicubic"}, 1),
    )


def _longest_edge(keys: Keys, name: str, default: int) -> int:
    size: dict[str, Any] = keys.get(name, dict, {"longest_edge": default})
    return int(Keys(size, f"{keys.where}: {name}").need("longest_edge", int))


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub, "model.text_model.")
    if canonical == "connector.proj.weight":
        return Origin("model.connector.modality_projection.proj.weight")
    assert isinstance(config.vision, TileVisionConfig)
    return tower_origin(canonical, config.vision, "model.vision_model.")


FAMILY = Family(config, origin, ERAS)
