"""The one colour of a PNG that is clear (its tRNS chunk), compared as the format wants it: at the depth of the file.

Pillow brings pixels to 8 bits and leaves the colour as it stands in the file, so that the two never meet for grey
levels of 2 and 4 bits, and meet where they should not for colours of 16 (W3C PNG specification, 11.3.2.1 and 13.15).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""Pillow's name for the pixels of a file, and how far apart it puts their grey levels."""


def clear_opacity(image: Image.Image) -> Image.Image | None:
    """The opacity (L) that a clear colour gives a PNG; None where Pillow itself knows it, or where all is opaque.

    Args:
        image: before its pixels are loaded, after which nothing tells their depth in the file; loads them.
    """
    clear: Any = image.info.get("transparency")
    tiles: Any = getattr(image, "tile", ())
    if image.format != "PNG" or clear is None or len(tiles) != 1:
        return None
    depth = str(tiles[0][3])
    if depth in _STEPS and isinstance(clear, int):
        image.load()
        return _opacity(np.asarray(image.convert("L")) == clear * _STEPS[depth])
    if depth == "RGB;16B" and isinstance(clear, tuple):
        low = _low_bytes(image)
        image.load()
        colour = np.array(clear)
        return _opacity(((np.asarray(image) == colour >> 8) & (low == colour & 255)).all(axis=-1))
    return None


def _low_bytes(image: Any) -> npt.NDArray[np.uint8]:
    """The lower halves of colours of 16 bits, (H, W, 3): read as if the file had its bytes the other way round."""
    file = image.fp
    position = file.tell()
    again: Any = Image.open(file, formats=("PNG",))
    again.tile = [again.tile[0]._replace(args="RGB;16L")]
    low = np.asarray(again)
    file.seek(position)
    return low


def _opacity(clear: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
