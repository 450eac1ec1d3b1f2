"""Find NaN and infinite weights among arrays in memory."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

SHOWN = 10
"""Names that a message lists."""
_BLOCK = 1 << 16
"""Numbers looked at in one go: what stays in a core's cache."""
_LARGEST = {
    mx.float16: (mx.uint16, 0x7FFF, 0x7C00),
    mx.bfloat16: (mx.uint16, 0x7FFF, 0x7F80),
    mx.float32: (mx.uint32, 0x7FFFFFFF, 0x7F800000),
}
"""By type: the word of its width, the bits but the sign, and from where they mean infinity or NaN."""


def has_infinity(dtype: mx.Dtype) -> bool:
    """Whether a type has NaN and infinity, of those that weights have."""
    return dtype in _LARGEST


def is_finite(tensor: mx.array) -> bool:
    """Whether a computed tensor holds neither NaN nor infinity; True for types that know neither."""
    if tensor.dtype not in _LARGEST or not tensor.size:
        return True
    # A sum is finite only if all of its terms are (and may overflow where they are); on a GPU nothing is copied for it.
    if mx.default_device().type == mx.DeviceType.gpu and np.isfinite(np.asarray(mx.sum(tensor).astype(mx.float32))):
        return True
    word, bits, limit = _LARGEST[tensor.dtype]
    words = np.asarray(tensor.view(word)).reshape(-1)
    room = np.empty(min(_BLOCK, words.size), words.dtype)
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK]
        if np.bitwise_and(block, words.dtype.type(bits), out=room[: block.size]).max() >= limit:
            return False
    return True


def some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
