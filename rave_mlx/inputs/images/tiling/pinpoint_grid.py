"""The plan "pinpoints": the best of a few sizes, after a tile with the whole image (LLaVA-NeXT, LLaVA-OneVision)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from PIL import Image

from rave_mlx.config import TileConfig
from rave_mlx.inputs.images.patches import RESAMPLE
from rave_mlx.inputs.images.tiling.plan import Tiling
from rave_mlx.inputs.images.tiling.unpad import unpad, visual_tokens


def pinpoints(image: Image.Image, config: TileConfig, budget: int) -> Tiling:
    """Fit an image into the best of the sizes that the model knows, and cut that into tiles.

    Sizes that would take more visual tokens than the budget are left out; where none is left, the image is the one tile
    that shows the whole of it.

    Args:
        image: RGB.
        config: side of a tile in pixels, and the sizes (height, width).
        budget: most visual tokens.
    """
    tile, resample = config.tile_size, RESAMPLE[config.resample]
    overview = np.asarray(image.resize((tile, tile), resample))[None]
    regions = {
        size: unpad((size[0] // tile, size[1] // tile), config, image.size)
        for size in ((p[0], p[1]) for p in config.pinpoints)
    }
    allowed = [size for size, region in regions.items() if visual_tokens(config, region) <= budget]
    if not allowed:
        return Tiling(overview, 1, 1)
    height, width = best = best_size(image.size, allowed)
    canvas = np.zeros((height, width, 3), np.uint8)
    inner_width, inner_height = fit_inside(image.size, best)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    inner = image.resize((inner_width, inner_height), resample)
    canvas[top : top + inner_height, left : left + inner_width] = np.asarray(inner)
    rows, columns = height // tile, width // tile
    tiles = canvas.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    return Tiling(np.concatenate([overview, tiles]), rows, columns, regions[best])


def best_size(size: tuple[int, int], choices: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) that keeps most of the pixels of an image of `size` (width, height); of equals, the one
    with least around them, then the first. Follows `select_best_resolution` of transformers.
    """

    def merit(choice: tuple[int, int]) -> tuple[int, int]:
        height, width = choice
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, kept - height * width

    return max(choices, key=merit)


def fit_inside(size: tuple[int, int], choice: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an image of `size` (width, height) scaled to touch the borders of (height, width)."""
    height, width = choice
    across, down = width / size[0], height / size[1]
    if across < down:
        return width, min(math.ceil(size[1] * across), height)
    return min(math.ceil(size[0] * down), width), height
