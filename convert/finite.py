"""Find NaN and infinite weights while a model is converted, in memory, without reading its files a second time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx

from rave_mlx.checkpoint.directory import is_bound
from rave_mlx.checkpoint.finite import has_infinity, is_finite, some


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
            if has_infinity(tensor.dtype) and not is_bound(name):
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
        return (
            f"warning: NaN or infinite weights in {some(self.names)}; they are kept as they are, and a model is not "
            "opened with them (a type with a wider range: --dtype bfloat16 or float32)"
        )
