"""Arrays of pixels (NumPy, MLX, torch and others) as Pillow images, where it is certain how they are meant."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from rave_mlx.errors import ImageError

_CHANNELS = (1, 3, 4)


class ArrayLike(Protocol):
    """An array of NumPy, MLX, torch or another library."""

    @property
    def shape(self) -> Any:
        """Lengths of its axes."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of its elements."""
        ...


def is_array(source: object) -> bool:
    """Whether this looks like an array: it has a shape and a type of elements."""
    return hasattr(source, "shape") and hasattr(source, "dtype")


def array_to_image(array: Any) -> Image.Image:
    """A Pillow image of an array of pixels.

    Args:
        array: (height, width), or with 1, 3 (RGB) or 4 (RGBA) channels as its first or last axis. Whole numbers are
            levels from 0 to 255; floating-point numbers are light from 0 to 1, or levels where all are whole and some
            are above 1; booleans are black and white.

    Raises:
        ImageError: for another shape, for one that could be read both ways, and for other or ambiguous values.
    """
    pixels = _channels_last(_to_numpy(array))
    if not pixels.size:
        raise ImageError(f"an array without pixels (shape {pixels.shape}); pass one with both sides above 0")
    levels = _to_levels(pixels)
    return Image.fromarray(levels[..., 0] if levels.ndim == 3 and levels.shape[-1] == 1 else levels)


def _to_numpy(array: Any) -> npt.NDArray[Any]:
    package = type(array).__module__.partition(".")[0]
    if package == "torch":
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array  # NumPy has no bfloat16
    elif package == "mlx" and "float" in str(array.dtype):
        array = array.astype(_mlx_float32())
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ImageError(f"an array of {array.dtype} cannot be read; pass uint8") from error


def _mlx_float32() -> Any:
    import mlx.core as mx

    return mx.float32


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    shape = array.shape
    if array.ndim == 2:
        return array
    if array.ndim != 3:
        raise ImageError(f"an array of shape {shape}; one image has (height, width) or (height, width, channels)")
    first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
    if first and last:
        raise ImageError(f"an array of shape {shape}: its channels may come first or last; pass PIL.Image.fromarray")
    if not first and not last:
        raise ImageError(f"an array of shape {shape}; an image has 1, 3 (RGB) or 4 (RGBA) channels")
    return array.transpose(1, 2, 0) if first else array


def _to_levels(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind not in "iuf":
        raise ImageError(f"an array of {pixels.dtype}; an image has numbers: pass uint8")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ImageError("an array with values that are not finite; replace them")
    low, high = float(pixels.min()), float(pixels.max())
    real = pixels.dtype.kind == "f"
    if real and low >= 0 and high <= 1:
        return np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
    whole = not real or bool((pixels == np.rint(pixels)).all())
    # Whole numbers up to 1 may be a mask, and 16 bits may have their white anywhere.
    if whole and low >= 0 and (1 < high <= 255 or high == 0) and (real or pixels.dtype.itemsize != 2):
        return pixels.astype(np.uint8)
    raise ImageError(
        f"an array of {pixels.dtype} from {low:g} to {high:g}: which value is white is not certain; "
        "scale it to uint8 from 0 to 255 or to floating point from 0 to 1"
    )
