"""Images as square tiles, for towers that read one size only.

A plan decides which tiles show the image (one file a plan); here they are normalised and cut into patches. Every plan
follows the transformers processor of its family, on uint8 levels through Pillow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.config import TileConfig
from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import open_image
from rave_mlx.inputs.images.patches import ImagePatches, digest, normalised
from rave_mlx.inputs.images.tiling.closest_grid import closest
from rave_mlx.inputs.images.tiling.markers import layout
from rave_mlx.inputs.images.tiling.one_tile import single
from rave_mlx.inputs.images.tiling.pinpoint_grid import pinpoints
from rave_mlx.inputs.images.tiling.plan import Tiling
from rave_mlx.inputs.images.tiling.split_grid import split
from rave_mlx.inputs.images.tiling.unpad import visual_tokens
from rave_mlx.inputs.images.tiling.view_grid import views

__all__ = ["PLANS", "TILED_IMAGE_TOKENS", "Tiling", "cut_tiles", "least_tokens"]

TILED_IMAGE_TOKENS = 3840
"""Visual tokens a tiled image may take when nothing else is asked for. Models that read tiles were trained on few
fixed arrangements and read fine print badly with fewer; nearly all of them stay below this on their own."""

PLANS: dict[str, Callable[[Image.Image, TileConfig, int], Tiling]] = {
    "single": single,
    "pinpoints": pinpoints,
    "closest": closest,
    "split": split,
    "views": views,
}


def least_tokens(config: TileConfig) -> int:
    """Visual tokens of an image that is one tile: no image takes fewer."""
    if config.overview is not None:
        return config.overview.tokens + 1
    return visual_tokens(config, None) if config.plan == "pinpoints" else config.tile_tokens


def cut_tiles(image: Image.Image, config: TileConfig, image_tokens: int | None = None) -> ImagePatches:
    """Cut `image` (as from `open_image`; other modes are converted) into tiles of patches.

    Args:
        image: any PIL image.
        config: tile size and plan.
        image_tokens: the largest number of visual tokens; None for TILED_IMAGE_TOKENS.

    Raises:
        ImageError: for an image without pixels, or a budget that not even one tile fits into.
    """
    budget = TILED_IMAGE_TOKENS if image_tokens is None else image_tokens
    least = least_tokens(config)
    if budget < least:
        raise ImageError(f"a budget of {budget} tokens: this model needs at least {least} an image")
    rgb = image if image.mode == "RGB" else open_image(image)
    if min(rgb.size) < 1:
        raise ImageError(f"the image has no pixels ({rgb.width} x {rgb.height}); pass one with both sides above 0")
    tiling = PLANS[config.plan](rgb, config, budget)
    side, levels = config.tile_size // config.patch_size, _patches(tiling.levels, config.patch_size)
    if tiling.whole is not None:
        levels = np.concatenate([levels, _patches(tiling.whole[None], config.patch_size)])
    pixels = np.empty(levels.shape, np.float32)
    for channel, table in enumerate(normalised(config)):
        pixels[:, channel] = np.take(table, levels[:, channel])
    return ImagePatches(
        pixels=pixels.reshape(len(pixels), -1),
        grid=(len(tiling.levels), side, side),
        digest=digest(levels, tiling.rows, tiling.columns, rgb.size, config),
        size=rgb.size,
        layout=layout(tiling, config, rgb.size),
        arrangement=(tiling.rows, tiling.columns),
        region=tiling.region,
        original=rgb,
    )


def _patches(levels: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """Squares (tiles, size, size, 3) cut into patches of `patch` pixels a side (patches, 3, patch^2), row by row."""
    side = levels.shape[1] // patch
    used = side * patch
    grid = levels[:, :used, :used].reshape(-1, side, patch, side, patch, 3)
    return np.ascontiguousarray(grid.transpose(0, 1, 3, 5, 2, 4)).reshape(-1, 3, patch**2)
