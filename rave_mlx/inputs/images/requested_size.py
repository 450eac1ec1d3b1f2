"""The size that a message asks for one of its images, instead of the one that a budget of visual tokens gives.

Qwen's messages carry `min_pixels` and `max_pixels`, or `resized_height` and `resized_width`; their images are brought
to that size before the image processor sees them (`fetch_image` of qwen-vl-utils). OpenAI's carry `detail`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rave_mlx.inputs.images.patches import check_sides

LOW_DETAIL_SIDE = 512
"""Side in pixels of the square whose area an image of low detail may have, as OpenAI documents it."""

_LEAST_TOKENS, _MOST_TOKENS = 4, 16_384
"""Visual tokens of an image for which a message gives only one limit, or none beside its size, as in qwen-vl-utils."""


@dataclass(frozen=True)
class RequestedSize:
    """What a message says about the size of one image; None where it says nothing.

    Attributes:
        min_pixels: smallest area in pixels; a smaller image is enlarged.
        max_pixels: largest area in pixels; a larger image is reduced.
        width: in pixels, before both sides are rounded to whole visual tokens; goes with `height`.
        height: in pixels.
        low_detail: whether a coarse look is enough: at most 512 x 512 pixels, or the one tile with the whole image.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    width: int | None = None
    height: int | None = None
    low_detail: bool = False

    @property
    def in_pixels(self) -> bool:
        """Whether a number of pixels is asked for."""
        return any(number is not None for number in (self.min_pixels, self.max_pixels, self.width, self.height))

    def fit(self, width: int, height: int, cell: int) -> tuple[int, int]:
        """(width, height) to which an image is brought: `smart_resize` of qwen-vl-utils.

        Where both limits of the area are close to each other, a small image ends above the upper one, as there.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.
            cell: side of the square of pixels behind a visual token.

        Raises:
            ImageError: without pixels, or for a ratio of sides above 200.
        """
        least, most = _LEAST_TOKENS * cell**2, _MOST_TOKENS * cell**2
        if self.width is not None and self.height is not None:  # there, limits of the area are ignored beside a size
            width, height = self.width, self.height
        else:
            least = least if self.min_pixels is None else self.min_pixels
            most = most if self.max_pixels is None else self.max_pixels
        check_sides(width, height)
        columns, rows = max(1, round(width / cell)), max(1, round(height / cell))
        if columns * rows * cell**2 > most:
            shrink = math.sqrt(width * height / most)
            columns, rows = (max(1, math.floor(side / shrink / cell)) for side in (width, height))
        elif columns * rows * cell**2 < least:
            grow = math.sqrt(least / (width * height))
            columns, rows = (math.ceil(side * grow / cell) for side in (width, height))
        return columns * cell, rows * cell
