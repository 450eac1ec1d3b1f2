"""Images at native resolution whose longest sides are bounded (Pixtral, arXiv 2410.07073), or which fill an area (Gemma
4): their size, and what stands in the prompt for them."""

from __future__ import annotations

import math

from rave_mlx.config import ImageConfig
from rave_mlx.inputs.images.patches import check_sides


def fit_sides(width: int, height: int, config: ImageConfig) -> tuple[int, int]:
    """(width, height) in pixels: reduced until it fits into `config.max_sides`, then up to whole steps.

    As PixtralImageProcessor does it. An image that would fill no cell becomes one cell.

    Args:
        width, height: of the image, in pixels.
        config: with max_sides.

    Raises:
        ImageError: without pixels, or for a ratio of sides above 200.
    """
    assert config.max_sides is not None
    check_sides(width, height)
    ratio = max(height / config.max_sides[0], width / config.max_sides[1])
    if ratio > 1:
        width, height = math.floor(width / ratio), math.floor(height / ratio)
    step = config.step or config.cell
    wide, high = (max(-(-side // step) * step, config.cell) for side in (width, height))
    return wide, high


def fill_area(width: int, height: int, cell: int, area: int) -> tuple[int, int]:
    """(width, height) in pixels: scaled, up or down, to an area, both sides then rounded down to whole cells.

    As Gemma4ImageProcessor does it; it refuses images of which nothing is left, which become one cell here.

    Args:
        width, height: of the image, in pixels.
        cell: side of a cell in pixels.
        area: to fill, in pixels.

    Raises:
        ImageError: without pixels, or for a ratio of sides above 200.
    """
    check_sides(width, height)
    factor, most = math.sqrt(area / (width * height)), max(1, area // cell**2)
    columns, rows = (math.floor(factor * side / cell) for side in (width, height))
    if not rows:
        rows, columns = 1, min(width // height, most) if columns else 1
    elif not columns:
        rows, columns = min(height // width, most), 1
    return columns * cell, rows * cell


def exceeds(width: int, height: int, config: ImageConfig) -> bool:
    """Whether a size in pixels is beyond `config.max_sides`, as rounding up makes some."""
    return config.max_sides is not None and (height > config.max_sides[0] or width > config.max_sides[1])


def native_layout(rows: int, columns: int, config: ImageConfig) -> tuple[str | int, ...]:
    """What stands in the prompt for an image: numbers of visual tokens, and the text between and after its rows.

    Args:
        rows, columns: of visual tokens.
        config: the text after a row, and after the image.
    """
    if config.row_tokens:
        return (rows * (columns + 1) + 2,)
    parts: list[str | int] = [config.image_start] if config.image_start else []
    if not config.row_end:
        return (*parts, rows * columns, config.image_end) if config.image_end else (*parts, rows * columns)
    for _ in range(rows):
        parts += [columns, config.row_end]
    return (*parts[:-1], config.image_end or config.row_end)
