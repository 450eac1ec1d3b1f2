"""Pictures and maps as data URLs."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST_SIDE = 1600
"""Pixels of a picture that is sent to a browser; larger ones are scaled down."""
_LARGEST_PNG = 1 << 21
"""Bytes above which a picture is sent as JPEG."""


def data_url(picture: Image.Image) -> str:
    """A picture for a browser: as PNG, or as JPEG where that would be large (photographs)."""
    shown = fitted(picture)
    packed = _packed(shown, "png", compress_level=3)
    if len(packed) <= _LARGEST_PNG:
        return _url("png", packed)
    return _url("jpeg", _packed(shown, "jpeg", quality=88))


def fitted(picture: Image.Image) -> Image.Image:
    """A picture as large as it is sent."""
    if max(picture.size) <= LONGEST_SIDE:
        return picture
    shown = picture.copy()
    shown.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return shown


def map_url(heat: NDArray[np.float64], peak: float) -> str:
    """A map as a grey PNG: 255 is the peak, and levels are roots of its share, as in `look.html`.

    Args:
        heat: (height, width) attention, 0 or more.
        peak: what counts as all.
    """
    share = np.sqrt(np.clip(heat / peak, 0, 1)) if peak > 0 else np.zeros_like(heat)
    return _url("png", _packed(Image.fromarray(np.rint(255 * share).astype(np.uint8)), "png"))


def _packed(picture: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
