"""Any Pillow mode to 8-bit RGB as a viewer would show it.

Transparency goes on white, with the same Pillow call that transformers uses, so that plain images have equal pixels.
An embedded colour profile is applied (to sRGB) when it changes colours; one that only says "sRGB" in other words is
found by trying it on a grid of colours and leaves the pixels untouched. CMYK needs this most: without its profile the
colours are garish. Pixels of more than 8 bits are scaled, never clipped as `Image.convert` does.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, features

_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_SAME_COLOUR = 2
"""Largest difference, in levels of 255, at which a profile counts as sRGB."""


def to_rgb(image: Image.Image, opacity: Image.Image | None = None) -> Image.Image:
    """A new RGB image without metadata. The pixels of `image` must be loaded.

    Args:
        image: of any mode.
        opacity: of its pixels (L), where it is known better than from the image.

    Raises:
        ValueError, OSError: for a mode that Pillow cannot convert.
    """
    colour, alpha = _colour_and_alpha(image)
    alpha = alpha if opacity is None else opacity
    rgb = _to_srgb(colour, image.info.get("icc_profile")).convert("RGB")
    if alpha is not None:
        rgb.putalpha(alpha)
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")
    rgb.info = {}
    return rgb


def _colour_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The image as L, RGB or CMYK, and its opacity as L where it has one."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return image.convert("L") if image.mode in ("L", "LA") else rgba.convert("RGB"), rgba.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return (image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")), None


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Grey levels of 16 or 32 bits or floating point, scaled to 0..255; `transparency` (PNG) names a clear level.

    TIFF may hold 12 bits in 16, and may store white as 0.
    """
    levels = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        low, high = 0.0, 4095.0 if tags.get(_TIFF_BITS) == (12,) else 65535.0
    elif image.mode == "I" and image.format == "PPM":
        low, high = 0.0, 65535.0
    else:
        low, high = _range(levels)
    grey = np.empty(levels.shape, np.uint8)
    for rows in _blocks(levels):
        grey[rows] = _scaled(levels[rows], low, high)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:
        grey = 255 - grey
    clear = image.info.get("transparency")
    alpha = Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)) if isinstance(clear, int) else None
    return Image.fromarray(grey), alpha


def _range(levels: npt.NDArray[Any]) -> tuple[float, float]:
    """The levels to show as black and as white where the format does not say.

    The first of 0..1 (floating point only), 0..255 and 0..65535 that holds them all; else the lowest and the highest.
    """
    low, high = math.inf, -math.inf
    for rows in _blocks(levels):
        finite = levels[rows][np.isfinite(levels[rows])]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    for top in (1.0, 255.0, 65535.0) if levels.dtype.kind == "f" else (255.0, 65535.0):
        if low >= 0 and high <= top:
            return 0.0, top
    return low, high if high > low else math.inf


def _blocks(levels: npt.NDArray[Any]) -> Iterator[slice]:
    """Slices of some rows at a time, so that float64 copies stay small beside the image."""
    height, width = levels.shape
    step = max(1, 2**18 // width)
    return (slice(start, start + step) for start in range(0, height, step))


def _scaled(levels: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """`levels` mapped so that low is 0 and high is 255; what is not a number becomes 0."""
    with np.errstate(invalid="ignore"):  # NaN and infinity are data here
        scaled = (levels.astype(np.float64) - low) * (255 / (high - low))
    return np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8)


def _to_srgb(colour: Image.Image, profile: object) -> Image.Image:
    """`colour` (L, RGB or CMYK) seen through its embedded ICC profile; as it is without a usable one."""
    if not isinstance(profile, bytes) or not profile or not features.check("littlecms2"):
        return colour
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), colour.mode, "RGB")
        if colour.mode != "CMYK" and _changes_nothing(transform, colour.mode):
            return colour
        return ImageCms.applyTransform(colour, transform) or colour
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return colour  # a damaged profile, or one for other channels: viewers show the plain pixels


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform to sRGB leaves a grid of colours as they are."""
    steps = range(0, 256, 17)
    grid = list(steps) if mode == "L" else list(itertools.product(steps, repeat=3))
    probe = Image.fromarray(np.array([grid], np.uint8))
    seen = ImageCms.applyTransform(probe, transform)
    difference = np.asarray(seen, np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    return int(np.abs(difference).max()) <= _SAME_COLOUR
