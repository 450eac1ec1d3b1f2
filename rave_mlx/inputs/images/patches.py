"""What a vision tower reads of one image, and the arithmetic from levels to pixels.

The arithmetic is that of the transformers processors (level / 255, then (x - mean) / std, in float32), done once for
the 256 levels of each channel and looked up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from rave_mlx.config import Images
from rave_mlx.errors import ImageError

DEFAULT_IMAGE_TOKENS = 1280
"""Visual tokens an image may take when nothing else is asked for; 1.0 megapixel at 28 pixels a token."""

MAX_RATIO = 200
"""Longest side of an image over its shortest, as in transformers; beyond it nothing can be read."""

RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Region:
    """The part of the patches of all tiles, put together, that shows the image; around it is padding.

    Attributes:
        top, left: where it starts, in patches.
        height, width: its size, in patches; 0 where an image is so narrow that nothing of it is left.
        rows, columns: the features that its patches are scaled to; as many as there are patches when they are not.
    """

    top: int
    left: int
    height: int
    width: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class ImagePatches:
    """An image as the vision tower takes it.

    Attributes:
        pixels: float32 (patches, channels * frames * patch * patch). Native resolution: the merge_size x merge_size
            patches of one visual token are contiguous. Tiles: one tile after the other, row by row.
        grid: (frames or tiles, rows, columns) of patches. Where the plan is "views", the view of the whole image, whose
            patches come last, is no tile.
        digest: identity of pixels and grid, for caches.
        size: (width, height) of the upright original, in pixels.
        layout: what stands in the prompt: numbers of visual tokens, and the text between them.
        arrangement: (rows, columns) of tiles, one that shows the whole image not counted; (1, 1) without tiles.
        region: the part of these tiles that shows the image, where it was padded to fill them; else None.
        original: the upright RGB original, where it cannot be had back from `pixels` (tiles, and
            images rounded up beyond the largest sides or scaled to fill an area).
        kept: indices of those visual tokens that stand in the prompt, ascending, where some were dropped; None: all.
            `layout` counts all, positions are those that they have among all.
        features: (kept, hidden) what the decoder reads of them, where it is not what the tower and the connector give.
    """

    pixels: npt.NDArray[np.float32]
    grid: tuple[int, int, int]
    digest: str
    size: tuple[int, int]
    layout: tuple[str | int, ...]
    arrangement: tuple[int, int] = (1, 1)
    region: Region | None = None
    original: Image.Image | None = field(default=None, repr=False)
    kept: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    features: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """Visual tokens, of which `kept` stand in the prompt."""
        return sum(part for part in self.layout if isinstance(part, int))


def check_sides(width: int, height: int) -> None:
    """Refuse an image, of a size in pixels, that has no pixels or is a mere strip.

    Raises:
        ImageError: for sides below 1, or a ratio of sides above `MAX_RATIO`.
    """
    if width < 1 or height < 1:
        raise ImageError(f"the image has no pixels ({width} x {height}); pass one with both sides above 0")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(
            f"{width} x {height} pixels is too narrow, the longer side may be {MAX_RATIO} times the shorter; "
            "crop the image or cut it into pieces"
        )


def normalised(config: Images) -> npt.NDArray[np.float32]:
    """(3, 256): what each level of each channel becomes, rounded as transformers rounds it."""
    unit = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)
    mean, std = (np.array(values, np.float32)[:, None] for values in (config.mean, config.std))
    return (unit - mean) / std


def digest(levels: npt.NDArray[np.uint8], *made_of: object) -> str:
    """Hash of the levels, an eighth or less of the bytes of the pixels, and of all else that pixels are made of."""
    found = hashlib.sha256(repr((levels.shape, made_of)).encode())
    found.update(np.ascontiguousarray(levels).data)
    return found.hexdigest()
