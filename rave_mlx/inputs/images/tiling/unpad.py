"""Padding around an image that was fitted into several tiles: which features show the image, and how many there are.

LLaVA-NeXT drops the features of padding, LLaVA-OneVision (arXiv 2408.03326) also scales what is left down to a limit.
"""

from __future__ import annotations

import math

from rave_mlx.config import TileConfig
from rave_mlx.inputs.images.patches import Region

_TOLERANCE = 1.1
"""How far each side may be beyond the limit before features are scaled, as in transformers."""


def unpad(arrangement: tuple[int, int], config: TileConfig, size: tuple[int, int]) -> Region:
    """Find the part of the tiles' patches that shows the image; around it is padding.

    Follows `unpad_image` and `pack_image_features` of transformers, whose roundings differ from those of the pixels:
    at the border a row of patches may show some padding.

    Args:
        arrangement: (rows, columns) of tiles.
        config: side of a tile and of a patch in pixels, and the limit of features.
        size: (width, height) of the image, in pixels.
    """
    side = config.tile_size // config.patch_size
    rows, columns = arrangement[0] * side, arrangement[1] * side
    top = left = 0
    image_width, image_height = size
    if image_width / image_height > columns / rows:
        top = (rows - int(round(image_height * (columns / image_width), 7))) // 2
    else:
        left = (columns - int(round(image_width * (rows / image_height), 7))) // 2
    height, width = rows - 2 * top, columns - 2 * left
    if config.max_features is not None:
        excess = math.sqrt(height * width / (config.max_features * side**2))
        if excess > _TOLERANCE:
            return Region(top, left, height, width, max(1, int(height // excess)), max(1, int(width // excess)))
    return Region(top, left, height, width, height, width)


def visual_tokens(config: TileConfig, region: Region | None) -> int:
    """Visual tokens of a tile with the whole image and the region behind it; None when that tile stands alone.

    A newline ends every row of the region, and the tile when it is alone.
    """
    return config.tile_tokens + (1 if region is None else region.rows * (region.columns + 1))
