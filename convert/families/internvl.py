"""InternVL (arXiv 2312.14238, 2404.16821, 2504.10479) in the layout of transformers (repositories named -hf):
InternViT over tiles, pixel shuffle and an MLP, then Qwen2, Qwen3 or Llama."""

from __future__ import annotations

from rave_mlx.checkpoint import directory
from rave_mlx.config import LMMConfig, ShuffleConnectorConfig, TextConfig, TileConfig, TileVisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.pixel_shuffle import read_model, tile_tokens
from rave_mlx.convert.families.square_images import processor_keys, read_levels
from rave_mlx.convert.families.text import text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS, state_indices
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

ERAS = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
"""Names of transformers 4 and of MLX packages."""

_TOWER = "model.vision_tower."
_TOP = {
    "vision.patch_embed": f"{_TOWER}embeddings.patch_embeddings.projection",
    "vision.post_norm": f"{_TOWER}layernorm",
    "connector.norm": "model.multi_modal_projector.layer_norm",
    "connector.fc1": "model.multi_modal_projector.linear_1",
    "connector.fc2": "model.multi_modal_projector.linear_2",
}
_LAYER = {
    "o_proj": "projection_layer",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "scale1": "lambda_1",
    "scale2": "lambda_2",
}
_TAGS = {"start_image_token": "<img>", "end_image_token": "</img>"}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    whole.require("vision_feature_select_strategy", "default")
    tower = _tower(whole.section("vision_config"), whole.get("vision_feature_layer", int, -1))
    ratio = whole.get("downsample_ratio", float, 0.5)
    scale = round(1 / ratio) if ratio > 0 else 0
    if scale * ratio != 1:
        raise ConfigError(f"{whole.where}: downsample_ratio {ratio} is not one over a whole number")
    image = _images(source, tower, tile_tokens(tower, scale, whole.where))
    activation = whole.choice("projector_hidden_act", ACTIVATIONS, "gelu")

    def connector(decoder: TextConfig) -> ShuffleConnectorConfig:
        width = decoder.hidden_size
        return ShuffleConnectorConfig(tower.hidden_size, scale, width, width, activation)

    return read_model(source, tower, image, connector, text="qwen2", placeholder=151667, tied=True)


def _tower(vision: Keys, layer: int) -> TileVisionConfig:
    """The defaults are those of transformers, which version 4 left out of a checkpoint's file."""
    vision.require("use_absolute_position_embeddings", True)
    vision.require("use_mask_token", False)
    depth = vision.get("num_hidden_layers", int, 24)
    return TileVisionConfig(
        depth=depth,
        hidden_size=vision.get("hidden_size", int, 1024),
        intermediate_size=vision.get("intermediate_size", int, 4096),
        num_heads=vision.get("num_attention_heads", int, 16),
        tile_size=_side(vision, "image_size", 448),
        patch_size=_side(vision, "patch_size", 14),
        # -1 is the tower's output; other numbers count the states before its last norm, embeddings first.
        feature_layers=(-1,) if layer == -1 else state_indices(layer, depth, vision.where),
        activation=vision.choice("hidden_act", ACTIVATIONS, "gelu"),
        norm=vision.choice("norm_type", {"layer_norm": "layer", "rms_norm": "rms"}, "layer_norm"),
        norm_eps=vision.get("layer_norm_eps", float, 1e-6),
        channels=vision.get("num_channels", int, 3),
        class_token=True,
        qkv_bias=vision.get("attention_bias", bool, False),
        qk_norm=vision.get("use_qk_norm", bool, False),
        layer_scale=True,
        post_norm=not vision.get("use_mean_pooling", bool, True),
    )


def _side(vision: Keys, name: str, default: int) -> int:
    """A side in pixels, given as a number or as (height, width)."""
    value = vision.get(name, (int, list), default)
    sides = value if isinstance(value, list) else [value]
    if not sides or any(side != sides[0] or not isinstance(side, int) for side in sides):
        raise ConfigError(f"{vision.where}: {name} {value!r} is not a square")
    return int(sides[0])


def _images(source: Source, tower: TileVisionConfig, tokens: int) -> TileConfig:
    """Pre-processing of GotOcr2ImageProcessor as InternVLProcessor calls it: always with `crop_to_patches`."""
    _check_tags(source)
    keys = processor_keys(source)
    size = keys.get("size", dict, {"height": 384, "width": 384})
    if (size.get("height"), size.get("width")) != (tower.tile_size, tower.tile_size):
        raise ConfigError(
            f"{keys.where}: size {size} does not fit the tower, which reads tiles of {tower.tile_size} pixels "
            "(image_size in config.json)"
        )
    return TileConfig(
        tile_size=tower.tile_size,
        patch_size=tower.patch_size,
        tile_tokens=tokens,
        plan="closest",
        min_tiles=keys.get("min_patches", int, 1),
        max_tiles=keys.get("max_patches", int, 12),
        markers="tags",
        **read_levels(keys),
    )


def _check_tags(source: Source) -> None:
    """Refuse other words around an image than those that are written."""
    file = source.path / "tokenizer_config.json"
    if not file.is_file():
        return
    keys = Keys(directory.read_json(file), str(file))
    named = keys.get("extra_special_tokens", (dict, list), {})
    for name, tag in _TAGS.items():
        keys.require(name, tag)
        if isinstance(named, dict):
            Keys(named, f"{file}: extra_special_tokens").require(name, tag)


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub)
    vision = config.vision
    assert isinstance(vision, TileVisionConfig)
    if canonical == "vision.class_token":
        return Origin(f"{_TOWER}embeddings.cls_token", (1, 1, vision.hidden_size))
    if canonical == "vision.positions":
        return Origin(f"{_TOWER}embeddings.position_embeddings", (1, vision.side**2 + 1, vision.hidden_size))
    stem, _, leaf = canonical.rpartition(".")
    if stem in _TOP:
        side = vision.patch_size
        shape = (vision.hidden_size, vision.channels, side, side) if canonical == "vision.patch_embed.weight" else None
        return Origin(f"{_TOP[stem]}.{leaf}", shape)
    _, _, index, *parts = canonical.split(".")
    return Origin(f"{_TOWER}encoder.layer.{index}.{'.'.join(_LAYER.get(part, part) for part in parts)}")


FAMILY = Family(config, origin, ERAS)
