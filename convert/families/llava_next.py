"""LLaVA-NeXT (1.6): an image is a tile with the whole of it and tiles of the best of a few sizes."""

from __future__ import annotations

from rave_mlx.config import LMMConfig, TileConfig, TileVisionConfig
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.families.llava import ERAS, origin, read_features, read_model
from rave_mlx.convert.families.square_images import check_sides, processor_keys, read_levels
from rave_mlx.convert.families.towers import IGNORED
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def config(source: Source) -> LMMConfig:
    """The canonical configuration."""
    whole = Keys(source.config, str(source.path / "config.json"))
    tower = read_features(whole, "clip_vision_model", -2, "default")
    image = read_tiles(source, whole, tower, PINPOINTS)
    return read_model(source, "llava_next", tower, image, text="llama", placeholder=32000)


def read_tiles(
    source: Source,
    whole: Keys,
    tower: TileVisionConfig,
    pinpoints: tuple[tuple[int, int], ...],
    max_features: int | None = None,
) -> TileConfig:
    """Images as tiles of the best of the sizes in `image_grid_pinpoints` (`pinpoints` where none are given).

    Args:
        source: the checkpoint.
        whole: its configuration.
        tower: the vision tower.
        pinpoints: sizes (height, width) in pixels that images are brought to, where none are given.
        max_features: features of more tiles than this are scaled down; None: never.

    Raises:
        ConfigError: where the processor's sizes and the model's differ, or features are no square.
    """
    if tower.keep_class_token:
        raise ConfigError(f"{whole.where}: vision_feature_select_strategy 'full' with a class token leaves no square")
    keys = processor_keys(source)
    check_sides(keys, tower.tile_size)
    sizes = whole.get("image_grid_pinpoints", list, [list(p) for p in pinpoints])
    if keys.get("image_grid_pinpoints", list, sizes) != sizes:
        raise ConfigError(f"{keys.where}: image_grid_pinpoints differ from those of {whole.where}")
    return TileConfig(
        tower.tile_size,
        tower.patch_size,
        tower.features,
        plan="pinpoints",
        pinpoints=tuple(tuple(p) for p in sizes),
        max_features=max_features,
        **read_levels(keys),
    )


FAMILY = Family(config, origin, ERAS, IGNORED)
