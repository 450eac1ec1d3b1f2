"""Colours of attention on a page.

Both scales are paths through OKLab (Ottosson, 2020) whose lightness falls evenly, so that twice the attention looks
twice as strong, also to people who see few colours. They start at white and are multiplied onto the page: print stays
readable under them, and where nothing is looked at the page is as it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STEPS = 256
_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def attention_scale() -> NDArray[np.uint8]:
    """(256, 3): white, yellow, orange, red."""
    t = np.linspace(0, 1, STEPS)
    return _srgb(1 - 0.46 * t, 0.21 * np.sin(np.minimum(t * 1.5, 1) * np.pi / 2), np.radians(100 - 73 * t))


def difference_scale() -> NDArray[np.uint8]:
    """(256, 3): blue for less, white for the same, red for more."""
    t = np.linspace(-1, 1, STEPS)
    return _srgb(1 - 0.46 * np.abs(t), 0.19 * np.abs(t) ** 0.8, np.radians(np.where(t < 0, 250, 27)))


def tint(picture: Image.Image, strength: NDArray[np.float64], *, signed: bool = False) -> Image.Image:
    """A page with attention on it.

    Args:
        picture: the page.
        strength: (height, width) of the picture; 0 to 1, or -1 to 1 when `signed`. Its root chooses the colour, so
            that a tenth of the peak can still be seen.
        signed: whether it is a difference.
    """
    root = np.sign(strength) * np.sqrt(np.abs(strength).clip(0, 1))
    index = np.rint((root + 1) / 2 * (STEPS - 1)) if signed else np.rint(root * (STEPS - 1))
    scale = difference_scale() if signed else attention_scale()
    page = paper(picture)
    return Image.fromarray((page * (scale[index.astype(np.int64)] / 255.0)).round().astype(np.uint8))


def paper(picture: Image.Image) -> NDArray[np.float64]:
    """The page in grey, its black lightened a little so that colour shows on dark pictures too: (height, width, 3)."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    return np.repeat((48 + grey * (207 / 255))[..., None], 3, axis=2)


def _srgb(lightness: NDArray[np.float64], chroma: NDArray[np.float64], hue: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours (n, 3) of sRGB from lightness, chroma and hue (radians) in OKLab; those outside of sRGB are clipped."""
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    linear = ((lab @ _TO_LMS.T) ** 3 @ _TO_RGB.T).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    levels: NDArray[np.uint8] = np.rint(encoded * 255).astype(np.uint8)
    return levels
