"""LLaVA-OneVision (arXiv 2408.03326): SigLIP and Qwen2; the features of large images are scaled down to a limit."""

from __future__ import annotations

import re

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.families.llava import ERAS, origin, read_features, read_model
from rave_mlx.convert.families.llava_next import read_tiles
from rave_mlx.convert.families.towers import IGNORED
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

_SIDES = (384, 768, 1152, 1536, 1920, 2304)
PINPOINTS = tuple((height, width) for height in _SIDES for width in _SIDES)


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    aspect = whole.get("vision_aspect_ratio", str, "anyres_max_9")
    limit = re.fullmatch(r"anyres_max_([1-9]\d*)", aspect)
    if limit is None:
        raise ConfigError(
            f"{whole.where}: vision_aspect_ratio {aspect!r} is not supported, only 'anyres_max_9' and such"
        )
    tower = read_features(whole, "siglip_vision_model", -1, "full")
    image = read_tiles(source, whole, tower, PINPOINTS, int(limit[1]))
    return read_model(source, "llava_onevision", tower, image, text="qwen2", placeholder=151646)


FAMILY = Family(config, origin, ERAS, IGNORED)
