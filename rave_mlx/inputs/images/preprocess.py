"""From a picture to the patches a vision tower reads: fit a token budget, resize once, normalise, cut.

Equal to the transformers processor (Qwen2VLImageProcessor, arXiv 2409.12191) for the same size: the same Pillow
resize on uint8, then the same float32 arithmetic, here done once for the 256 levels of each channel and looked up.
Unlike there, an image takes at most 1,280 tokens unless more are asked for: checkpoints ship with a cap of 12.8
megapixels, at which a scanned page takes 11,000 tokens.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from rave_mlx.config import ImageConfig, Images, TileConfig
from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import open_image
from rave_mlx.inputs.images.native_grid import exceeds, fill_area, fit_sides, native_layout
from rave_mlx.inputs.images.patch_order import patch_order
from rave_mlx.inputs.images.patches import DEFAULT_IMAGE_TOKENS, RESAMPLE, ImagePatches, check_sides, digest, normalised
from rave_mlx.inputs.images.requested_size import LOW_DETAIL_SIDE, RequestedSize
from rave_mlx.inputs.images.sources import ImageSource, named
from rave_mlx.inputs.images.tiling import TILED_IMAGE_TOKENS, cut_tiles, least_tokens

__all__ = [
    "DEFAULT_IMAGE_TOKENS",
    "ImagePatches",
    "ImageSource",
    "RequestedSize",
    "cut_patches",
    "fit_size",
    "open_image",
    "read_patches",
]

PDF_OVERSAMPLING = 4
"""A PDF page is drawn with this many times the pixels of its budget; scaled down, text has smoother edges."""


def fit_size(width: int, height: int, config: ImageConfig, image_tokens: int | None = None) -> tuple[int, int]:
    """(width, height) in pixels after resizing: multiples of `config.cell`, area within the budget, aspect kept.

    Follows `smart_resize` of transformers. It differs where that would leave the budget: a budget of fewer tokens
    than the aspect ratio, or than `config.min_pixels`; then the longer side gives way.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        config: cell size and the range of areas, or the largest sides.
        image_tokens: the largest number of visual tokens; replaces `config.max_pixels`. None: DEFAULT_IMAGE_TOKENS,
            or `config.max_pixels` where that is less or the sides are limited.

    Raises:
        ImageError: without pixels, for a ratio of sides above 200, for a budget below 1.
    """
    if config.max_sides is not None:
        sides = fit_sides(width, height, config)
        area = _budget(config, image_tokens)
        if (sides[0] // config.cell) * (sides[1] // config.cell) * config.cell**2 <= area:
            return sides
        return _fit_area(*sides, config, 1, area)
    if config.fill:
        return fill_area(width, height, config.cell, _budget(config, image_tokens))
    return _fit_area(width, height, config, config.min_pixels, _budget(config, image_tokens))


def _fit_area(width: int, height: int, config: ImageConfig, smallest: int, largest: int) -> tuple[int, int]:
    """`fit_size` for a range of areas in pixels."""
    check_sides(width, height)
    cell = config.cell
    width, height = _grown(width, height, config)
    columns, rows = round(width / cell), round(height / cell)
    if columns * rows * cell**2 > largest:
        shrink = math.sqrt(width * height / largest)
        columns, rows = (max(1, math.floor(side / shrink / cell)) for side in (width, height))
    elif columns * rows * cell**2 < min(smallest, largest):
        grow = math.sqrt(min(smallest, largest) / (width * height))
        columns, rows = (math.ceil(side * grow / cell) for side in (width, height))
    shorter, longer = sorted((max(columns, 1), max(rows, 1)))
    if shorter * longer * cell**2 > largest:
        most = max(1, largest // cell**2)
        shorter = min(shorter, most)
        longer = most // shorter
    return (longer * cell, shorter * cell) if columns > rows else (shorter * cell, longer * cell)


def _grown(width: int, height: int, config: ImageConfig) -> tuple[int, int]:
    """A size (width, height) in pixels after `ImageConfig.grow_sides`."""
    cell = config.cell
    if config.grow_sides == "truncated" and min(width, height) < cell:
        factor = max(cell / height, cell / width)
        return int(width * factor), int(height * factor)
    if config.grow_sides == "rounded" and height < cell:
        width, height = round(width * cell / height), cell
    if config.grow_sides == "rounded" and width < cell:
        width, height = cell, round(height * cell / width)
    return width, height


def default_area(config: ImageConfig) -> int:
    """Largest area in pixels of an image for which no budget of visual tokens is given."""
    if config.max_sides is not None:
        return config.max_pixels
    return min(config.max_pixels, DEFAULT_IMAGE_TOKENS * config.cell**2)


def _budget(config: ImageConfig, image_tokens: int | None) -> int:
    """Largest area in pixels."""
    if image_tokens is None:
        return default_area(config)
    if image_tokens < 1:
        raise ImageError(f"a budget of {image_tokens} tokens leaves nothing of an image; give at least 1")
    return image_tokens * config.cell**2


def _largest_area(config: Images, image_tokens: int | None, requested: RequestedSize | None) -> int:
    """Pixels that the model can see of an image."""
    if isinstance(config, ImageConfig):
        if image_tokens is None and requested is not None and requested.in_pixels:
            return config.max_pixels
        return _budget(config, image_tokens)
    tokens = TILED_IMAGE_TOKENS if image_tokens is None else image_tokens
    tiles = max(1, tokens // config.tile_tokens)
    if config.overview is not None:
        most = 0 if config.overview.alone else min(tiles, config.max_tiles)
        return max(most * config.tile_size**2, config.overview.size**2)
    return tiles * config.tile_size**2


def cut_patches(
    image: Image.Image, config: Images, image_tokens: int | None = None, requested: RequestedSize | None = None
) -> ImagePatches:
    """Resize an image into its budget of visual tokens and cut it into the patches that the vision tower reads.

    Args:
        image: as from `open_image`; other modes than RGB are converted.
        config: how the model takes images.
        image_tokens: the largest number of visual tokens; None for the default.
        requested: the size that a message asks for this image; the budget holds beside it only where it is named.

    Raises:
        ImageError: as `fit_size` or `cut_tiles`; for a requested size that the model cannot take.
    """
    if not isinstance(config, ImageConfig):
        return cut_tiles(image, config, _tile_budget(config, image_tokens, requested))
    rgb = image if image.mode == "RGB" else open_image(image)
    full, (width, height) = rgb, _fit(rgb.size, config, image_tokens, requested)
    if requested is not None and requested.in_pixels:
        rgb = rgb.resize(requested.fit(*rgb.size, config.cell), Image.Resampling.BICUBIC)
    patch, merge, frames = config.patch_size, config.merge_size, config.temporal_patch_size
    rows, columns = height // patch, width // patch
    levels = np.asarray(rgb.resize((width, height), RESAMPLE[config.resample]))
    if rows % merge or columns % merge:
        grid = levels.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 4, 1, 3)
        levels = grid[patch_order(rows, columns, merge)].reshape(rows * columns, 3, patch**2)
    else:
        levels = levels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
        levels = np.ascontiguousarray(levels.transpose(0, 3, 1, 4, 6, 2, 5)).reshape(rows * columns, 3, patch**2)
    pixels = np.empty((rows * columns, 3, frames, patch**2), np.float32)
    for channel, table in enumerate(normalised(config)):
        pixels[:, channel] = np.take(table, levels[:, channel])[:, None]
    return ImagePatches(
        pixels=pixels.reshape(rows * columns, -1),
        grid=(1, rows, columns),
        digest=digest(levels, rows, columns, config),
        size=full.size,
        layout=native_layout(rows // merge, columns // merge, config),
        # Rounded up beyond the largest sides, what the pixels show would be reduced again where it is read again; what
        # fills an area, enlarged.
        original=full if config.fill or exceeds(width, height, config) else None,
    )


def _fit(
    size: tuple[int, int], config: ImageConfig, image_tokens: int | None, requested: RequestedSize | None
) -> tuple[int, int]:
    """(width, height) in pixels that the model reads of an image of a size (width, height)."""
    if requested is None or not (requested.in_pixels or requested.low_detail):
        return fit_size(*size, config, image_tokens)
    largest = config.max_pixels if image_tokens is None else _budget(config, image_tokens)
    if config.max_sides is not None:
        if requested.low_detail:
            largest = min(largest, LOW_DETAIL_SIDE**2)
        sides = requested.fit(*size, config.cell) if requested.in_pixels else size
        return fit_size(*sides, config, max(1, largest // config.cell**2))
    if config.fill:
        columns, rows = (side // config.cell for side in requested.fit(*size, config.cell))
        tokens = columns * rows if requested.in_pixels else largest
        coarse = LOW_DETAIL_SIDE**2 // config.cell**2 if requested.low_detail else tokens
        return fit_size(*size, config, max(1, min(tokens, coarse, largest // config.cell**2)))
    if not requested.in_pixels:
        largest = min(_budget(config, image_tokens), LOW_DETAIL_SIDE**2)
        return _fit_area(*size, config, config.min_pixels, largest)
    if requested.low_detail:
        largest = min(largest, LOW_DETAIL_SIDE**2)
    return _fit_area(*requested.fit(*size, config.cell), config, config.min_pixels, largest)


def _tile_budget(config: TileConfig, image_tokens: int | None, requested: RequestedSize | None) -> int | None:
    """The budget of visual tokens of a tiled image; a coarse look is the one tile that shows the whole of it."""
    if requested is not None and requested.in_pixels:
        raise ImageError(
            "min_pixels, max_pixels, resized_height and resized_width are for models that read images at their own "
            "size, and this one reads tiles; leave them out (image_tokens sets the number of visual tokens)"
        )
    least = least_tokens(config)
    return (
        least if requested is not None and requested.low_detail and (image_tokens or least) >= least else image_tokens
    )


def read_patches(
    source: ImageSource,
    config: Images,
    *,
    page: int = 1,
    image_tokens: int | None = None,
    requested: RequestedSize | None = None,
) -> ImagePatches:
    """Open an image, or a page of a document, and cut it into the patches that the vision tower reads.

    Args:
        source: as of `open_image`.
        config: how the model takes images.
        page: from 1; of a PDF or a TIFF with several pages.
        image_tokens: as of `cut_patches`.
        requested: as of `cut_patches`.

    Raises:
        ImageError: one line that names the source, what is wrong with it and what to do.
    """
    with named(source):
        page_pixels = PDF_OVERSAMPLING * _largest_area(config, image_tokens, requested)
    image = open_image(source, page, page_pixels=page_pixels)
    with named(source):
        return cut_patches(image, config, image_tokens, requested)
