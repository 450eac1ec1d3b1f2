"""Find NaN and infinite weights while a model is converted, in memory, without reading its files a second time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx
import numpy as np

_SHOWN = 10
_BLOCK = 1 << 16
"""Numbers looked at in one go: what stays in a core's cache."""
_LARGEST = {
    mx.float16: (mx.uint16, 0x7FFF, 0x7C00),
    mx.bfloat16: (mx.uint16, 0x7FFF, 0x7F80),
    mx.float32: (mx.uint32, 0x7FFFFFFF, 0x7F800000),
}
"""By type: the word of its width, the bits but the sign, and from where they mean infinity or NaN."""


class FiniteCheck:
    """Looks at every floating tensor that passes, when it is computed.

    Quantization hides a NaN among the numbers that it packs, so this stands before it: what is written under a
    tensor's name later brings the look at the tensor itself.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._waiting: dict[str, mx.array] = {}

    def over(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """The same tensors, remembered until they are computed."""
        for name, tensor in tensors:
            if tensor.dtype in _LARGEST:
                self._waiting[name] = tensor
            yield name, tensor

    def beside(self, name: str) -> list[mx.array]:
        """The tensor of this name that passed."""
        return [self._waiting[name]] if name in self._waiting else []

    def computed(self, name: str) -> None:
        """Look at it and let it go."""
        tensor = self._waiting.pop(name, None)
        if tensor is not None and not is_finite(tensor):
            self.names.append(name)

    @property
    def message(self) -> str | None:
        """A warning with the names, ten at most; None when everything is finite."""
        if not self.names:
            return None
        more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        return (
            f"warning: NaN or infinite weights in {', '.join(self.names[:_SHOWN])}{more}; they are kept as they are, "
            "and answers will be useless if they are used (a type with a wider range: --dtype bfloat16 or float32)"
        )


def is_finite(tensor: mx.array) -> bool:
    """Whether a computed tensor holds neither NaN nor infinity; True for types that know neither."""
    if tensor.dtype not in _LARGEST or not tensor.size:
        return True
    word, bits, limit = _LARGEST[tensor.dtype]
    words = np.asarray(tensor.view(word)).reshape(-1)
    room = np.empty(min(_BLOCK, words.size), words.dtype)
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK]
        if np.bitwise_and(block, words.dtype.type(bits), out=room[: block.size]).max() >= limit:
            return False
    return True
