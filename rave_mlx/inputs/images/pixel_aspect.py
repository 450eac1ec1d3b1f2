"""Pictures whose pixels are not square: fax (204 dots an inch across, 98 down) and some scanners.

A file says so with a density for each axis. The picture is resampled to square pixels, as a viewer that honours the
density would show it: the axis with fewer pixels an inch gets more.
"""

from __future__ import annotations

import math

from PIL import ExifTags, Image

LARGEST_RATIO = 5.0
"""Densities further apart than this are taken for a mistake of the writer and ignored, as all viewers do."""

SMALLEST_RATIO = 1.02
"""Densities are often whole numbers; what rounding makes of a square pixel stays below this."""


def density_ratio(image: Image.Image) -> float:
    """Pixels an inch across, divided by pixels an inch down, of the picture as stored; 1 for square or unknown pixels.

    `image` is as Pillow opened it. Images made from others are taken as they are: whoever resized one may have made
    its pixels square already, and Pillow carries the old density along.
    """
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        return _plausible(tags.get(ExifTags.Base.XResolution), tags.get(ExifTags.Base.YResolution))
    if image.format in ("JPEG", "MPO"):
        ratio = _plausible(*image.info.get("jfif_density", (None, None)))
        return ratio if ratio != 1 else _exif_ratio(image)
    if image.format == "PNG":  # "aspect" where the unit is unknown: a ratio and nothing else
        return _plausible(*image.info.get("aspect", image.info.get("dpi", (None, None))))
    if image.format in ("BMP", "JPEG2000"):
        return _plausible(*image.info.get("dpi", (None, None)))
    return 1.0


def square_size(width: int, height: int, ratio: float, largest: int) -> tuple[int, int]:
    """(width, height) in square pixels.

    Args:
        width: in pixels as stored.
        height: in pixels as stored.
        ratio: as of `density_ratio`.
        largest: area in pixels that must not be exceeded: there, the denser axis is reduced instead.
    """
    across, down = (1.0, ratio) if ratio > 1 else (1 / ratio, 1.0)
    if width * across * height * down > largest:
        across, down = across / max(across, down), down / max(across, down)
    return max(1, round(width * across)), max(1, round(height * down))


def to_square_pixels(image: Image.Image, ratio: float, largest: int) -> Image.Image:
    """`image` (RGB) in square pixels; itself where they are. Arguments as of `square_size`."""
    if ratio == 1:
        return image
    return image.resize(square_size(*image.size, ratio, largest), Image.Resampling.BICUBIC)


def _exif_ratio(image: Image.Image) -> float:
    exif = image.getexif()
    return _plausible(exif.get(ExifTags.Base.XResolution), exif.get(ExifTags.Base.YResolution))


def _plausible(across: object, down: object) -> float:
    """The ratio of two densities, 1 where it is unknown or cannot be meant."""
    try:
        ratio = float(across) / float(down)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return 1.0
    apart = max(ratio, 1 / ratio) if math.isfinite(ratio) and ratio > 0 else math.inf
    return ratio if SMALLEST_RATIO < apart <= LARGEST_RATIO else 1.0
