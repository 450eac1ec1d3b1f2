"""Matrices that another package stacked into one, as the several that transformers has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import mlx.core as mx


class SplitTensors(Mapping[str, mx.array]):
    """Lazy tensors by name, of which some are equal parts (of the first axis) of stacked ones.

    The parts of a packed matrix are split alike: its scales and biases have its rows. A stacked tensor is kept from the
    first of its parts that is asked for to the last one, so that its bytes are read once.
    """

    def __init__(self, tensors: Mapping[str, mx.array], stacked: Sequence[tuple[str, tuple[str, ...]]]):
        """Split what is stacked.

        Args:
            tensors: by name.
            stacked: as `Family.stacked`.
        """
        self._tensors = tensors
        self._places: dict[str, tuple[str, int, int]] = {}
        self._begun: dict[str, tuple[mx.array, set[int]]] = {}
        for name in tensors:
            module, _, leaf = name.rpartition(".")
            whole, parts = next((pair for pair in stacked if module.endswith(f".{pair[0]}")), ("", ()))
            if not parts or tensors[name].shape[0] % len(parts):
                self._places[name] = name, 0, 1
                continue
            stem = module.removesuffix(whole)
            for index, part in enumerate(parts):
                self._places[f"{stem}{part}.{leaf}"] = name, index, len(parts)

    def __getitem__(self, name: str) -> mx.array:
        whole, index, count = self._places[name]
        if count == 1:
            return self._tensors[whole]
        begun = self._begun.pop(whole) if whole in self._begun else (self._tensors[whole], set(range(count)))
        tensor, missing = begun
        missing.discard(index)
        if missing:
            self._begun[whole] = tensor, missing
        rows = tensor.shape[0] // count
        return tensor[index * rows : (index + 1) * rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
