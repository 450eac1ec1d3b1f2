"""The plan "single": one square tile, however the image is made square."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rave_mlx.config import TileConfig
from rave_mlx.inputs.images.patches import RESAMPLE, check_sides
from rave_mlx.inputs.images.tiling.plan import Tiling


def single(image: Image.Image, config: TileConfig, budget: int) -> Tiling:
    """Make an image one square tile: stretched, cropped or padded, as the model was trained.

    Args:
        image: RGB.
        config: side of the tile in pixels, and how the image is made square.
        budget: most visual tokens; at least those of a tile, and then it changes nothing.

    Raises:
        ImageError: for an image that is to be cropped or padded and is too narrow.
    """
    if config.fit != "stretch":
        check_sides(*image.size)
    make = {"stretch": _stretch, "crop": _crop, "pad": _pad}[config.fit]
    return Tiling(np.asarray(make(image, config))[None], 1, 1)


def _stretch(image: Image.Image, config: TileConfig) -> Image.Image:
    return image.resize((config.tile_size, config.tile_size), RESAMPLE[config.resample])


def _crop(image: Image.Image, config: TileConfig) -> Image.Image:
    """The shortest side as long as the tile, rounded down; then its centre (CLIPImageProcessor)."""
    tile, shortest = config.tile_size, min(image.size)
    width, height = (tile if side == shortest else int(tile * side / shortest) for side in image.size)
    left, top = (width - tile) // 2, (height - tile) // 2
    resized = image.resize((width, height), RESAMPLE[config.resample])
    return resized.crop((left, top, left + tile, top + tile))


def _pad(image: Image.Image, config: TileConfig) -> Image.Image:
    """In the middle of a square of the mean colour (LlavaImageProcessor)."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), tuple(int(255 * mean) for mean in config.mean))
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    return _stretch(square, config)
