"""The plan "closest" (InternVL, arXiv 2404.16821): the image is stretched over the arrangement of tiles whose aspect
is closest to its own. Follows GotOcr2ImageProcessor of transformers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from rave_mlx.config import TileConfig
from rave_mlx.inputs.images.patches import RESAMPLE
from rave_mlx.inputs.images.tiling.plan import Tiling


@lru_cache(maxsize=64)
def arrangements(least: int, most: int, side: int | None = None) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of `least` to `most` tiles, `side` a side at most; few before many, then narrow before wide."""
    sides = range(1, min(most, side or most) + 1)
    shapes = [(r, c) for c in sides for r in sides if least <= r * c <= most]
    return tuple(sorted(shapes, key=lambda shape: shape[0] * shape[1]))


def arrange(width: int, height: int, tile: int, least: int, most: int, side: int | None = None) -> tuple[int, int]:
    """(rows, columns) of the arrangement of tiles whose aspect is closest to that of an image.

    Of several arrangements with the same aspect, the largest of which the image's area covers more than half.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        tile: side of a tile, in pixels.
        least: fewest tiles.
        most: most tiles.
        side: most tiles a side; None: any number.
    """
    best, difference = (1, 1), float("inf")
    for rows, columns in arrangements(least, most, side):
        found = abs(width / height - columns / rows)
        if found < difference or (found == difference and width * height > 0.5 * tile * tile * rows * columns):
            best, difference = (rows, columns), found
    return best


def _most(image: Image.Image, config: TileConfig) -> int:
    """Most tiles of an image; of wide ones that would be shrunk too much, more than of others."""
    dense, (width, height) = config.dense, image.size
    if dense is None or config.max_tiles <= 1 or (dense.below <= 0 and dense.min_aspect <= 0):
        return config.max_tiles
    aspect = width / height
    if (0 < dense.min_aspect >= aspect) or (0 < dense.max_aspect < aspect):
        return config.max_tiles
    _, columns = arrange(width, height, config.tile_size, config.min_tiles, config.max_tiles, config.max_side)
    shrunk = dense.below <= 0 or columns * config.tile_size / width < dense.below
    return dense.max_tiles if shrunk else config.max_tiles


def closest(image: Image.Image, config: TileConfig, budget: int) -> Tiling:
    """Cut an image into the arrangement of tiles that fits its aspect best (InternVL, arXiv 2404.16821).

    Args:
        image: RGB.
        config: side of a tile in pixels, visual tokens a tile, fewest and most tiles.
        budget: most visual tokens, those of the tile with the whole image included.
    """
    tile, resample = config.tile_size, RESAMPLE[config.resample]
    most = max(1, min(_most(image, config), budget // config.tile_tokens - 1))
    rows, columns = arrange(*image.size, tile, min(config.min_tiles, most), most, config.max_side)
    levels = np.asarray(image.resize((columns * tile, rows * tile), resample))
    levels = levels.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    if rows * columns > 1:
        whole = np.asarray(image.resize((tile, tile), resample))
        levels = np.concatenate([levels, whole[None]])
    return Tiling(levels, rows, columns)
