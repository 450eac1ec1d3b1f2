"""Tensors in which MLX packages store other numbers than transformers, as transformers stores them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import mlx.core as mx


class TransformersNumbers(Mapping[str, mx.array]):
    """Lazy tensors by name, some of which are changed when they are read."""

    def __init__(self, tensors: Mapping[str, mx.array], convolutions: Collection[str], norms: Collection[str]):
        """Change what was written otherwise.

        Args:
            tensors: by name.
            convolutions: over tokens, with their channels last: (channels, kernel, 1).
            norms: their weights have what a norm multiplies with, instead of that less one.
        """
        self._tensors, self._convolutions, self._norms = tensors, frozenset(convolutions), frozenset(norms)

    def __getitem__(self, name: str) -> mx.array:
        tensor = self._tensors[name]
        if name in self._convolutions:
            return tensor.swapaxes(1, 2)
        return tensor - mx.array(1, tensor.dtype) if name in self._norms else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
