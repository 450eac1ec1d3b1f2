"""The plan "split" (Idefics3, arXiv 2408.12637; SmolVLM, 2504.05299): the longest side is brought to a fixed length,
both sides up to multiples of a tile. Follows Idefics3ImageProcessor of transformers, whose two resizes in a row show in
the pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from rave_mlx.config import TileConfig
from rave_mlx.inputs.images.patches import RESAMPLE
from rave_mlx.inputs.images.tiling.plan import Tiling

LONGEST = 4096
"""The longest side in pixels, whatever a configuration asks for."""

Size = tuple[int, int]
"""Width and height in pixels."""


def scaled(size: Size, longest_edge: int) -> Size:
    """The size with its longest side brought to `longest_edge`, the other one even, and both within LONGEST."""
    width, height = size
    aspect = width / height
    if width >= height:
        width, height = longest_edge, int(longest_edge / aspect)
        height += height % 2
    else:
        width, height = int(longest_edge * aspect), longest_edge
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    aspect = width / height
    if width >= height and width > LONGEST:
        width, height = LONGEST, int(LONGEST / aspect)
    elif height > width and height > LONGEST:
        width, height = int(LONGEST * aspect), LONGEST
    return max(width, 1), max(height, 1)


def arrange(size: Size, tile: int) -> tuple[int, int]:
    """(rows, columns) of tiles that cover the size, its shorter side stretched with the longer one before."""
    width, height = size
    aspect = width / height
    if width >= height:
        columns = math.ceil(width / tile)
        return math.ceil(int(columns * tile / aspect) / tile), columns
    rows = math.ceil(height / tile)
    return rows, math.ceil(int(rows * tile * aspect) / tile)


def split(image: Image.Image, config: TileConfig, budget: int) -> Tiling:
    """Cut an image into tiles after its longest side was brought to a fixed length.

    Where the tiles would be more than the budget holds, the longest side is brought to fewer tiles; to fit one tile,
    the image is stretched to it at once, as transformers does without `do_image_splitting`.

    Args:
        image: RGB.
        config: side of a tile and longest side in pixels, visual tokens a tile, most tiles.
        budget: most visual tokens, those of the tile with the whole image included.
    """
    tile, resample = config.tile_size, RESAMPLE[config.resample]
    most = min(budget // config.tile_tokens - 1, config.max_tiles)
    for size in _sizes(image.size, config):
        rows, columns = arrange(size, tile)
        if 1 < rows * columns <= most:
            break
    else:
        size, rows, columns = scaled(image.size, _longest(config)), 1, 1
    covered = image.resize(size, resample).resize((columns * tile, rows * tile), resample)
    levels = np.asarray(covered).reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    if rows * columns > 1:
        whole = np.asarray(covered.resize((tile, tile), resample))
        levels = np.concatenate([levels, whole[None]])
    return Tiling(levels, rows, columns)


def _longest(config: TileConfig) -> int:
    assert config.longest_edge is not None
    return config.longest_edge


def _sizes(size: Size, config: TileConfig) -> Iterator[Size]:
    """The image's size with its longest side as configured, then brought to fewer and fewer tiles."""
    tile, longest = config.tile_size, _longest(config)
    for edge in (longest, *range((longest - 1) // tile * tile, tile, -tile)):
        yield scaled(size, edge)
