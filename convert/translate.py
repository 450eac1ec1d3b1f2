"""Tensors of a foreign checkpoint under the names, in the shapes and in the order that the runtime expects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.directory import EXPERTS
from rave_mlx.checkpoint.packed import PARTS, dequantize
from rave_mlx.checkpoint.safetensors_part import Place
from rave_mlx.checkpoint.safetensors_reader import Tensors
from rave_mlx.config import LMMConfig, QuantizationConfig
from rave_mlx.convert import mlx_format
from rave_mlx.convert.families.base import GATE_KEY, Family, Origin
from rave_mlx.convert.quantize import gather, quantizable
from rave_mlx.convert.source import Source
from rave_mlx.errors import ModelError


@dataclass(frozen=True)
class Translation:
    """Where each tensor that a model expects lies in a checkpoint.

    Attributes:
        source: the checkpoint.
        names: a tensor's name in the checkpoint by its modern name.
        shapes: as torch would have them, by modern name; scales and biases left out.
        origins: by canonical name.
        packed: how canonical tensors are packed, those that are.
        expected: initial values, for their shapes, by canonical name.
    """

    source: Source
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    origins: Mapping[str, Origin]
    packed: Mapping[str, QuantizationConfig]
    expected: Mapping[str, mx.array]

    @classmethod
    def read(
        cls,
        source: Source,
        family: Family,
        config: LMMConfig,
        expected: Mapping[str, mx.array],
        names: Mapping[str, str],
    ) -> Translation:
        """Look at every tensor's name and shape, not at its bytes.

        Args:
            source, family, config: the checkpoint, its family and its canonical configuration.
            expected: the model's tensors (initial values) by canonical name, in its order.
            names: what `tensor_names.modern_names` found.

        Raises:
            ModelError: when tensors are missing, left over, or of the wrong size or type; ten at most are named.
        """
        origins = {name: family.origin(name, config, source.config) for name in expected}
        _refuse_foreign_gates(names, {o.name for o in origins.values()}, source)
        known = mlx_format.declared(source)
        packed: dict[str, QuantizationConfig] = {}
        hidden: set[str] = set()
        shapes = {modern: source.tensors[name].shape for modern, name in names.items()}
        for name, origin in origins.items():
            shape = origin.shape or expected[name].shape
            if origin.name not in names:
                continue
            if len(shape) > 3:
                tensor = source.tensors[names[origin.name]]
                shapes[origin.name] = mlx_format.channels_first(names[origin.name], tensor, shape, source).shape
            beside = [_beside(origin.name, part) for part in PARTS[1:]]
            if origin.name.endswith(".weight") and beside[0] in names:
                parts = {p: source.tensors[names[n]] for p in PARTS if (n := _beside(origin.name, p)) in names}
                stem = names[origin.name].removesuffix(".weight")
                packed[name] = mlx_format.packing(stem, shape[-1], parts, known)
                shapes[origin.name] = (*parts["weight"].shape[:-1], shape[-1])
                hidden.update(beside)
        shapes = {name: shape for name, shape in shapes.items() if name not in hidden}
        found = cls(source, names, shapes, origins, packed, expected)
        found._check()
        return found

    def quantization(self) -> QuantizationConfig | None:
        """How the tensors are packed, by canonical module names; None where none is.

        Raises:
            ConfigError: for a declaration that is not understood.
        """
        known = mlx_format.declared(self.source)
        if known is None or not self.packed:
            return None
        matrices = [name for name, initial in self.expected.items() if quantizable(name, initial.shape)]
        return gather(known.base, {name.removesuffix(".weight"): self.packed.get(name) for name in matrices})

    def tensors(self) -> Iterator[tuple[str, mx.array]]:
        """The canonical tensors, lazy, in the model's order.

        A matrix that the checkpoint has packed comes packed: its `.scales` (and `.biases`) follow it.
        """
        for name, initial in self.expected.items():
            if name in self.packed and quantizable(name, initial.shape):
                yield from self._parts(name)
            else:
                yield name, self._plain(name).reshape(initial.shape)

    def place(self, name: str) -> Place | None:
        """Where on disk a canonical tensor lies as it is used; None where it is made of several or of others."""
        module, _, part = name.rpartition(".")
        weight = name if name in self.origins else f"{module}.weight"
        origin = self.origins[weight]
        expected = self.expected[weight].shape
        unpacked = weight in self.packed and not quantizable(weight, expected)
        if unpacked or origin.rest or (origin.shape is not None and origin.shape[1:] != expected[1:]):
            return None
        modern = origin.name if weight == name else _beside(origin.name, part)
        tensors = self.source.tensors
        return Place(tensors, self.names[modern], origin.rows) if isinstance(tensors, Tensors) else None

    def _check(self) -> None:
        wanted: dict[str, tuple[int, ...]] = {}
        for name, origin in self.origins.items():
            shape = origin.shape or self.expected[name].shape
            if name in self.packed and EXPERTS not in name:
                shape = (math.prod(shape[:-1]), shape[-1])
            before = wanted[origin.name][0] if origin.rows and origin.name in wanted else 0
            wanted[origin.name] = (before + shape[0], *shape[1:]) if before else shape
            wanted.update({piece.name: piece.shape for piece in origin.rest if piece.shape is not None})
        directory.check_tensors(self.shapes, wanted, str(self.source.path))
        packed = {self.origins[name].name for name in self.packed}
        for modern in self.shapes.keys() - packed:
            dtype = self.source.tensors[self.names[modern]].dtype
            if not mx.issubdtype(dtype, mx.floating):
                raise ModelError(
                    f"{self.source.path}: tensor {self.names[modern]} has type {dtype}; weights must be floating point "
                    "or packed by MLX"
                )

    def _plain(self, name: str) -> mx.array:
        """A canonical tensor in floating point, not yet of its canonical shape."""
        origin = self.origins[name]
        if name in self.packed:
            weight, scales, *biases = (part for _, part in self._parts(name))
            return dequantize(weight, scales, biases[0] if biases else None, self.packed[name])
        tensor = self._part(origin, origin.name)
        shape = origin.shape
        if shape is not None and len(shape) > 3:
            tensor = mlx_format.channels_first(self.names[origin.name], tensor, shape, self.source)
        rest = [self._part(piece, piece.name) for piece in origin.rest]
        return mx.concatenate([tensor, *rest]) if rest else tensor

    def _parts(self, name: str) -> Iterator[tuple[str, mx.array]]:
        """A packed canonical matrix with what belongs to it."""
        origin = self.origins[name]
        for part in PARTS:
            modern = _beside(origin.name, part)
            if modern in self.names:
                yield _beside(name, part), self._part(origin, modern)

    def _part(self, origin: Origin, modern: str) -> mx.array:
        tensor = self.source.tensors[self.names[modern]]
        return tensor if origin.rows is None else tensor[origin.rows[0] : origin.rows[1]]


def _beside(weight: str, part: str) -> str:
    """The name of a part of a packed matrix from that of its weight."""
    return f"{weight.removesuffix('weight')}{part}"


def _refuse_foreign_gates(found: Iterable[str], known: Iterable[str], source: Source) -> None:
    """A gate of another layout is not a gate that can be guessed at."""
    strange = sorted(n for n in set(found) - set(known) if GATE_KEY in n or "rave" in n.lower())
    if strange:
        raise ModelError(
            f"{source.path}: has gate tensors in a layout that this package does not know ({', '.join(strange[:10])}); "
            f"it reads gates that rave-mlx exported, with {GATE_KEY!r} in config.json"
        )
