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
def arrangements(least: int, most: int) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of `least` to `most` tiles, few before many, then narrow before wide."""
    shapes = [(r, c) for c in range(1, most + 1) for r in range(1, most // c + 1) if r * c >= least]
    return tuple(sorted(shapes, key=lambda shape: shape[0] * shape[1]))


def arrange(width: int, height: int, tile: int, least: int, most: int) -> tuple[int, int]:
    """(rows, columns) of the arrangement of tiles whose aspect is closest to that of an image.

    Of several arrangements with the same aspect, the largest of which the image's area covers more than half.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        tile: side of a tile, in pixels.
        least: fewest tiles.
        most: most tiles.
    """
    best, difference = (1, 1), float("inf")
    for rows, columns in arrangements(least, most):
        found = abs(width / height - columns / rows)
        if found < difference or (found == difference and width * height > 0.5 * tile * tile * rows * columns):
            best, difference = (rows, columns), found
    return best


def closest(image: Image.Image, config: TileConfig, budget: int) -> Tiling:
    """Cut an image into the arrangement of tiles that fits its aspect best (InternVL, arXiv 2404.16821).

    Args:
        image: RGB.
        config: side of a tile in pixels, visual tokens a tile, fewest and most tiles.
        budget: most visual tokens, those of the tile with the whole image included.
    """
    tile, resample = config.tile_size, RESAMPLE[config.resample]
    most = max(1, min(config.max_tiles, budget // config.tile_tokens - 1))
    rows, columns = arrange(*image.size, tile, min(config.min_tiles, most), most)
    levels = np.asarray(image.resize((columns * tile, rows * tile), resample))
    levels = levels.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    if rows * columns > 1:
        whole = np.asarray(image.resize((tile, tile), resample))
        levels = np.concatenate([levels, whole[None]])
    return Tiling(levels, rows, columns)
