"""What the models with Pixtral's vision tower (arXiv 2410.07073) share: Pixtral itself, which is written as a LLaVA,
Mistral Small 3.1 and its kin (`mistral3`), and LightOnOCR."""

from __future__ import annotations

from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.config import CellConnectorConfig, GridVisionConfig, ImageConfig, TextConfig
from rave_mlx.convert.families.base import HubConfig, Origin
from rave_mlx.convert.families.square_images import processor_keys
from rave_mlx.convert.families.text import text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS, state_indices
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

IGNORED = (r".*\.patch_positional_embedding\.inv_freq",)
"""Rotary frequencies, which some packages store."""

_LAYER = {
    "norm1": "attention_norm",
    "norm2": "ffn_norm",
    "attention": "attention",
    "mlp": "feed_forward",
}
_CONNECTOR = {"norm": "norm", "join": "patch_merger.merging_layer", "fc1": "linear_1", "fc2": "linear_2"}


def read_tower(vision: Keys, layers: int | list[Any], merge: int) -> GridVisionConfig:
    """The tower.

    Args:
        vision: its section of the configuration.
        layers: `vision_feature_layer`.
        merge: patches a side of a visual token.

    Raises:
        ConfigError: for settings that are malformed or not supported.
    """
    vision.require("model_type", "pixtral")
    heads = vision.get("num_attention_heads", int, 16)
    hidden = vision.get("hidden_size", int, 1024)
    if heads > 0:
        vision.require("head_dim", hidden // heads)
    rope = Keys(vision.get("rope_parameters", dict, {}), f"{vision.where}.rope_parameters")
    rope.choice("rope_type", {"axial": "", "default": ""}, "axial")
    depth = vision.get("num_hidden_layers", int, 24)
    if merge < 1:
        raise ConfigError(f"{vision.where}: spatial_merge_size {merge} must be at least 1")
    return GridVisionConfig(
        depth=depth,
        hidden_size=hidden,
        intermediate_size=vision.get("intermediate_size", int, 4096),
        num_heads=heads,
        patch_size=_square(vision.get("patch_size", (int, list), 16), f"{vision.where}: patch_size"),
        feature_layers=state_indices(layers, depth, vision.where),
        merge_size=merge,
        channels=vision.get("num_channels", int, 3),
        rope_theta=rope.get("rope_theta", float, vision.get("rope_theta", float, 10000.0)),
        activation=vision.choice("hidden_act", ACTIVATIONS, "gelu"),
    )


def read_images(source: Source, tower: GridVisionConfig, *, ends: bool) -> ImageConfig:
    """How the checkpoint's processor makes images.

    Args:
        source: the checkpoint.
        tower: the vision tower.
        ends: whether rows of visual tokens and images end in tokens of their own, and the processor's patches are
            cells (PixtralProcessor); else its patches are those of its settings, and nothing follows a row.

    Raises:
        ConfigError: for settings of the image processor that are not supported.
    """
    keys = processor_keys(source)
    cell = tower.patch_size * tower.merge_size
    outer = Keys(_outer(source), str(source.path / "processor_config.json"))
    for name, value in (("patch_size", tower.patch_size), ("spatial_merge_size", tower.merge_size)):
        outer.require(name, value)
    step = cell if ends else _square(keys.get("patch_size", (int, dict), 16), f"{keys.where}: patch_size")
    if step < 1 or step % tower.patch_size:
        raise ConfigError(f"{keys.where}: patch_size {step} is not a multiple of the tower's {tower.patch_size}")
    keys.require("do_center_crop", False)
    sides = _sides(keys)
    most = [-(-side // step) * step for side in sides]
    return ImageConfig(
        patch_size=tower.patch_size,
        merge_size=tower.merge_size,
        temporal_patch_size=1,
        min_pixels=1,
        max_pixels=max(1, most[0] // cell) * max(1, most[1] // cell) * cell**2,
        mean=keys.numbers("image_mean", ImageConfig.mean),
        std=keys.numbers("image_std", ImageConfig.std),
        resample=keys.choice("resample", {1: "lanczos", 2: "bilinear", 3: "bicubic"}, 3),
        max_sides=sides,
        step=None if step == cell else step,
        row_end=outer.get("image_break_token", str, "[IMG_BREAK]") if ends else "",
        image_end=outer.get("image_end_token", str, "[IMG_END]") if ends else "",
    )


def read_connector(whole: Keys, tower: GridVisionConfig, text: TextConfig, *, join: bool) -> CellConnectorConfig:
    """The projector of a LLaVA or mistral3 configuration.

    Args:
        whole: the configuration.
        tower: the vision tower.
        text: the decoder.
        join: whether the patches of a cell are joined first (mistral3), and the MLP has no bias where none is named.

    Raises:
        ConfigError: for several states side by side, which the joining layer cannot take.
    """
    if join and len(tower.feature_layers) > 1:
        raise ConfigError(
            f"{whole.where}: vision_feature_layer names {len(tower.feature_layers)} states; joining patches takes one"
        )
    return CellConnectorConfig(
        tower.feature_size,
        text.hidden_size,
        text.hidden_size,
        merge_size=tower.merge_size,
        join=join,
        activation=whole.choice("projector_hidden_act", ACTIVATIONS, "gelu"),
        bias=whole.get("multimodal_projector_bias", bool, not join),
        norm_eps=text.norm_eps,
    )


def pixtral_origin(
    canonical: str,
    config: Any,
    hub: HubConfig,
    *,
    tower: str = "model.vision_tower.",
    projector: str = "model.multi_modal_projector.",
) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
        tower, projector: what precedes the names of the two parts.
    """
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub)
    vision = config.vision
    assert isinstance(vision, GridVisionConfig)
    stem, _, leaf = canonical.rpartition(".")
    if stem.startswith("connector."):
        return Origin(f"{projector}{_CONNECTOR[stem.removeprefix('connector.')]}.{leaf}")
    if stem == "vision.patch_embed":
        side = vision.patch_size
        return Origin(f"{tower}patch_conv.{leaf}", (vision.hidden_size, vision.channels, side, side))
    if stem == "vision.pre_norm":
        return Origin(f"{tower}ln_pre.{leaf}")
    index, part, *inner = stem.removeprefix("vision.layers.").split(".")
    return Origin(".".join([f"{tower}transformer.layers.{index}", _LAYER[part], *inner, leaf]))


def _outer(source: Source) -> dict[str, Any]:
    """`processor_config.json`; empty without one."""
    path = source.path / "processor_config.json"
    return directory.read_json(path) if path.is_file() else {}


def _sides(keys: Keys) -> tuple[int, int]:
    """(height, width) in pixels that images are reduced to."""
    size: Any = keys.get("size", (int, dict), {"longest_edge": 1024})
    if isinstance(size, int):
        return size, size
    found = Keys(size, f"{keys.where}: size")
    longest = found.get("longest_edge", int, None)
    return (longest, longest) if longest else (found.need("height", int), found.need("width", int))


def _square(value: Any, where: str) -> int:
    """A side that is given as a number, a pair or {"height": ..., "width": ...}."""
    sides = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if not sides or len(set(sides)) > 1 or not isinstance(sides[0], int) or sides[0] < 1:
        raise ConfigError(f"{where} {value!r} is no square of whole pixels")
    return int(sides[0])
