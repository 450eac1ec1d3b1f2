"""Settings of the image processors that make square tiles: CLIP's, SigLIP's and LLaVA's."""

from __future__ import annotations

import math
from typing import Any

from rave_mlx.config import ImageConfig
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError


def processor_keys(source: Source) -> Keys:
    """The settings of a checkpoint's image processor; steps that are switched off are refused.

    Raises:
        ConfigError: when the checkpoint has no settings of an image processor.
    """
    keys = Keys(source.processor, str(source.path / "preprocessor_config.json"))
    for step in ("do_resize", "do_normalize"):
        keys.require(step, True)
    read_scale(keys)
    return keys


def read_scale(keys: Keys) -> None:
    """Refuse an image processor's settings under which levels do not become numbers from 0 to 1.

    Raises:
        ConfigError: naming the setting.
    """
    keys.require("do_rescale", True)
    scale = keys.get("rescale_factor", float, 1 / 255)
    if not math.isclose(scale, 1 / 255, rel_tol=1e-6):
        raise ConfigError(f"{keys.where}: rescale_factor {scale} is not supported, only 1/255")


def read_levels(keys: Keys) -> dict[str, Any]:
    """Fields of a TileConfig for filter, mean and deviation."""
    half = (0.5, 0.5, 0.5)
    mean, std = (half, half) if _siglip(keys) else (ImageConfig.mean, ImageConfig.std)
    return {
        "mean": keys.numbers("image_mean", mean),
        "std": keys.numbers("image_std", std),
        "resample": keys.choice("resample", {1: "lanczos", 2: "bilinear", 3: "bicubic"}, 3),
    }


def read_fit(keys: Keys, tile_size: int) -> str:
    """What becomes of an image that is not square: `TileConfig.fit`.

    Raises:
        ConfigError: for settings that do not end in a square of `tile_size` pixels.
    """
    stretched, cropped = check_sides(keys, tile_size)
    if keys.get("do_pad", bool, False):
        return "pad"
    if not stretched and not cropped:
        raise ConfigError(
            f"{keys.where}: do_center_crop false with size.shortest_edge leaves images that are no square"
        )
    return "stretch" if stretched else "crop"


def check_sides(keys: Keys, tile_size: int) -> tuple[bool, bool]:
    """Whether `size` has two sides (and not a shortest one), and whether the centre is cut out afterwards.

    Raises:
        ConfigError: for sides other than the tower's tile.
    """
    size: Any = keys.get("size", (int, dict), {})
    crop: Any = keys.get("crop_size", (int, dict), {})
    cropped = keys.get("do_center_crop", bool, not _siglip(keys))
    for name, value in (("size", size), ("crop_size", crop if cropped else {})):
        sides = list(value.values()) if isinstance(value, dict) else [value]
        if any(side not in (tile_size, None) for side in sides):
            raise ConfigError(f"{keys.where}: {name} {value} is not supported, only the tower's {tile_size} pixels")
    stretched = "height" in size if isinstance(size, dict) and size else _siglip(keys)
    return stretched, cropped


def _siglip(keys: Keys) -> bool:
    """SigLIP's processor has defaults of its own."""
    return str(keys.get("image_processor_type", str, "")).startswith("Siglip")
