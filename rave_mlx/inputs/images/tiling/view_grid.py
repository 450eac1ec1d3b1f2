"""The plan "views" (DeepSeek-OCR 2, arXiv 2601.20552): tiles of an image larger than one, then a view of the whole.
Follows DeepseekOcr2ImageProcessorPil of transformers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.config import Overview, TileConfig
from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.patches import RESAMPLE
from rave_mlx.inputs.images.tiling.closest_grid import arrange
from rave_mlx.inputs.images.tiling.plan import Tiling


def views(image: Image.Image, config: TileConfig, budget: int) -> Tiling:
    """Stretch an image over the arrangement of tiles that fits its aspect best, and put the whole of it on a square.

    Args:
        image: RGB.
        config: side of a tile in pixels, visual tokens a tile, fewest and most tiles, and the view of the whole.
        budget: most visual tokens, those of the view of the whole and of the end included. Where it does not hold the
            fewest tiles, there are none.

    Raises:
        ImageError: for a strip of which nothing would be left on the square.
    """
    assert config.overview is not None
    tile, resample = config.tile_size, RESAMPLE[config.resample]
    most = min(config.max_tiles, (budget - config.overview.tokens - 1) // config.tile_tokens)
    levels, rows, columns = np.zeros((0, tile, tile, 3), np.uint8), 1, 1
    whole = _whole(image, config.overview, resample)
    if not config.overview.alone and max(image.size) > tile and most >= config.min_tiles:
        rows, columns = arrange(*image.size, tile, config.min_tiles, most)
        levels = np.asarray(image.resize((columns * tile, rows * tile), resample))
        levels = levels.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    return Tiling(levels, rows, columns, whole=whole)


def inner_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) of an image of a size (width, height) on a square of `side` pixels."""
    scale = side / max(size)
    return round(size[0] * scale), round(size[1] * scale)


def _whole(image: Image.Image, overview: Overview, resample: Image.Resampling) -> NDArray[np.uint8]:
    """The image in the middle of a square, after it was scaled to it (size, size, 3)."""
    width, height = inner_size(image.size, overview.size)
    if min(width, height) < 1:
        raise ImageError(
            f"{image.width} x {image.height} pixels is too narrow: nothing of it is left at {overview.size} pixels; "
            "crop the image or cut it into pieces"
        )
    square = np.empty((overview.size, overview.size, 3), np.uint8)
    square[:] = overview.color
    top, left = (overview.size - height) // 2, (overview.size - width) // 2
    square[top : top + height, left : left + width] = np.asarray(image.resize((width, height), resample))
    return square
