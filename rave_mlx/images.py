"""From a picture to the patches a vision tower reads: fit a token budget, resize once, normalise, cut.

Equal to the transformers processor (Qwen2VLImageProcessor, arXiv 2409.12191) for the same size: the same Pillow
resize on uint8, then the same float32 arithmetic, here done once for the 256 levels of each channel and looked up.
Unlike there, an image takes at most 1,280 tokens unless more are asked for: checkpoints ship with a cap of 12.8
megapixels, at which a scanned page takes 11,000 tokens.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from rave_mlx.config import ImageConfig
from rave_mlx.errors import ConfigError, ImageError
from rave_mlx.image_files import ImageSource, named, open_image

__all__ = [
    "DEFAULT_IMAGE_TOKENS",
    "ImagePatches",
    "ImageSource",
    "cut_patches",
    "fit_size",
    "open_image",
    "read_patches",
]

DEFAULT_IMAGE_TOKENS = 1280
"""Visual tokens an image may take when nothing else is asked for; 1.0 megapixel at 28 pixels a token."""

MAX_RATIO = 200
"""Longest side over shortest side, as in transformers."""

PDF_OVERSAMPLING = 4
"""A PDF page is drawn with this many times the pixels of its budget; scaled down, text has smoother edges."""

_RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, eq=False)
class ImagePatches:
    """An image as the vision tower takes it.

    `pixels`: float32 (patches, channels * frames * patch * patch); the merge_size x merge_size patches of one visual
    token are contiguous. `grid`: (frames, rows, columns) of patches. `digest`: identity of pixels and grid, for
    caches. `size`: (width, height) of the upright original, in pixels.
    """

    pixels: npt.NDArray[np.float32]
    grid: tuple[int, int, int]
    digest: str
    size: tuple[int, int]
    merge_size: int = 2

    @property
    def tokens(self) -> int:
        """Visual tokens in the prompt, after merging."""
        frames, rows, columns = self.grid
        return frames * rows * columns // self.merge_size**2


def fit_size(width: int, height: int, config: ImageConfig, image_tokens: int | None = None) -> tuple[int, int]:
    """(width, height) in pixels after resizing: multiples of `config.cell`, area within the budget, aspect kept.

    Follows `smart_resize` of transformers. It differs where that would leave the budget: a budget of fewer tokens
    than the aspect ratio, or than `config.min_pixels`; then the longer side gives way.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        config: cell size and the range of areas.
        image_tokens: the largest number of visual tokens; replaces `config.max_pixels`. None: DEFAULT_IMAGE_TOKENS,
            or `config.max_pixels` where that is less.

    Raises:
        ImageError: without pixels, for a ratio of sides above 200, for a budget below 1.
    """
    if width < 1 or height < 1:
        raise ImageError(f"the image has no pixels ({width} x {height}); pass one with both sides above 0")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(
            f"{width} x {height} pixels is too narrow, the longer side may be {MAX_RATIO} times the shorter; "
            "crop the image or cut it into pieces"
        )
    cell, largest = config.cell, _budget(config, image_tokens)
    columns, rows = round(width / cell), round(height / cell)
    if columns * rows * cell**2 > largest:
        shrink = math.sqrt(width * height / largest)
        columns, rows = (max(1, math.floor(side / shrink / cell)) for side in (width, height))
    elif columns * rows * cell**2 < min(config.min_pixels, largest):
        grow = math.sqrt(min(config.min_pixels, largest) / (width * height))
        columns, rows = (math.ceil(side * grow / cell) for side in (width, height))
    shorter, longer = sorted((max(columns, 1), max(rows, 1)))
    if shorter * longer * cell**2 > largest:
        most = max(1, largest // cell**2)
        shorter = min(shorter, most)
        longer = most // shorter
    return (longer * cell, shorter * cell) if columns > rows else (shorter * cell, longer * cell)


def _budget(config: ImageConfig, image_tokens: int | None) -> int:
    """Largest area in pixels."""
    if image_tokens is None:
        return min(config.max_pixels, DEFAULT_IMAGE_TOKENS * config.cell**2)
    if image_tokens < 1:
        raise ImageError(f"a budget of {image_tokens} tokens leaves nothing of an image; give at least 1")
    return image_tokens * config.cell**2


def cut_patches(image: Image.Image, config: ImageConfig, image_tokens: int | None = None) -> ImagePatches:
    """Resize `image` (as from `open_image`; other modes are converted) into the budget and cut it into patches.

    Raises:
        ImageError: as `fit_size`.
        ConfigError: where `config.mean` or `config.std` is not for three channels.
    """
    rgb = image if image.mode == "RGB" else open_image(image)
    width, height = fit_size(*rgb.size, config, image_tokens)
    patch, merge, frames = config.patch_size, config.merge_size, config.temporal_patch_size
    rows, columns = height // patch, width // patch
    levels = np.asarray(rgb.resize((width, height), _RESAMPLE[config.resample]))
    levels = levels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    levels = np.ascontiguousarray(levels.transpose(0, 3, 1, 4, 6, 2, 5)).reshape(rows * columns, 3, patch**2)
    pixels = np.empty((rows * columns, 3, frames, patch**2), np.float32)
    for channel, table in enumerate(_normalised(config)):
        pixels[:, channel] = np.take(table, levels[:, channel])[:, None]
    return ImagePatches(
        pixels=pixels.reshape(rows * columns, -1),
        grid=(1, rows, columns),
        digest=_digest(levels, rows, columns, config),
        size=rgb.size,
        merge_size=merge,
    )


def _normalised(config: ImageConfig) -> npt.NDArray[np.float32]:
    """(3, 256): what each level of each channel becomes, rounded as transformers rounds it."""
    if not len(config.mean) == len(config.std) == 3:
        raise ConfigError(
            f"image.mean and image.std need a number for red, green and blue: {config.mean}, {config.std}"
        )
    unit = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)
    mean, std = (np.array(values, np.float32)[:, None] for values in (config.mean, config.std))
    return (unit - mean) / std


def _digest(levels: npt.NDArray[np.uint8], rows: int, columns: int, config: ImageConfig) -> str:
    """Hash of all that `pixels` and `grid` are made of; the levels are an eighth of the bytes of `pixels`."""
    made_of = f"{rows} {columns} {config.patch_size} {config.merge_size} {config.temporal_patch_size} "
    made_of += f"{config.mean} {config.std}"
    digest = hashlib.sha256(made_of.encode())
    digest.update(levels.data)
    return digest.hexdigest()


def read_patches(
    source: ImageSource, config: ImageConfig, *, page: int = 1, image_tokens: int | None = None
) -> ImagePatches:
    """Open an image or page (see `open_image`) and cut it into patches (see `cut_patches`).

    Raises:
        ImageError: one line that names the source, what is wrong with it and what to do.
    """
    with named(source):
        page_pixels = PDF_OVERSAMPLING * _budget(config, image_tokens)
    image = open_image(source, page, page_pixels=page_pixels)
    with named(source):
        return cut_patches(image, config, image_tokens)
