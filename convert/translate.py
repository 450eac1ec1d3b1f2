"""Tensors of a checkpoint under the names, in the shapes and in the order that the runtime expects, and back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.directory import GATE
from rave_mlx.checkpoint.packed import PARTS, dequantize
from rave_mlx.config import LMMConfig, QuantizationConfig
from rave_mlx.convert import mlx_format
from rave_mlx.convert.families.base import GATE_KEY, Family, HubConfig, Origin
from rave_mlx.convert.quantize import gather, quantizable
from rave_mlx.convert.source import Source
from rave_mlx.errors import ModelError


def translate(
    source: Source, family: Family, config: LMMConfig, expected: Mapping[str, mx.array]
) -> Iterator[tuple[str, mx.array]]:
    """The canonical tensors of a checkpoint, lazy, in the order of `expected` (initial values by canonical name).

    Pair gates that the checkpoint does not have keep their initial values. A matrix that the checkpoint has packed
    comes packed: its `.scales` (and `.biases`) follow it.

    Raises:
        ModelError: when tensors are missing, left over or of the wrong size; all are named (ten at most are shown).
    """
    checkpoint = _Checkpoint.read(source, family, config, expected)
    checkpoint.check(expected)
    for name, initial in expected.items():
        if name in checkpoint.fresh:
            yield name, initial
        elif name in checkpoint.packed and quantizable(name, initial.shape):
            yield from checkpoint.parts(name)
        else:
            yield name, checkpoint.plain(name).reshape(initial.shape)


def read_quantization(
    source: Source, family: Family, config: LMMConfig, expected: Mapping[str, mx.array]
) -> QuantizationConfig | None:
    """How a checkpoint that an MLX package quantized is packed, by canonical names; None for one that is not.

    Raises:
        ModelError, ConfigError: for another package's quantization, or one that its tensors contradict.
    """
    known = mlx_format.declared(source)
    checkpoint = _Checkpoint.read(source, family, config, expected)
    if known is None:
        return None
    matrices = [name for name, initial in expected.items() if quantizable(name, initial.shape)]
    return gather(known.base, {name.removesuffix(".weight"): checkpoint.packed.get(name) for name in matrices})


def untranslate(
    tensors: Iterable[tuple[str, mx.array]], family: Family, config: LMMConfig, hub: HubConfig
) -> Iterator[tuple[str, mx.array]]:
    """Canonical tensors, lazy, as they lie in a checkpoint of transformers 5; the inverse of `translate`."""
    waiting = dict(tensors)
    origins = {name: family.origin(name, config, hub) for name in waiting}
    missing = Counter(origin.name for origin in origins.values())
    pieces: dict[str, dict[int, mx.array]] = {}
    for name, origin in origins.items():
        tensor = waiting.pop(name)
        if origin.rest:
            yield from _spread(tensor, origin)
            continue
        if origin.rows is None:
            yield origin.name, tensor if origin.shape is None else tensor.reshape(origin.shape)
            continue
        pieces.setdefault(origin.name, {})[origin.rows[0]] = tensor
        missing[origin.name] -= 1
        if not missing[origin.name]:
            found = pieces.pop(origin.name)
            yield origin.name, mx.concatenate([found[first] for first in sorted(found)])


@dataclass(frozen=True)
class _Checkpoint:
    """Where the tensors that a model expects lie in a checkpoint.

    Attributes:
        source: the checkpoint.
        names: a tensor's name in the checkpoint, by its modern name.
        shapes: as torch would have them, by modern name; scales and biases left out.
        origins: by canonical name.
        fresh: canonical names that the checkpoint does not have and need not have.
        packed: how canonical tensors are packed, those that are.
    """

    source: Source
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    origins: Mapping[str, Origin]
    fresh: frozenset[str]
    packed: Mapping[str, QuantizationConfig]

    @classmethod
    def read(cls, source: Source, family: Family, config: LMMConfig, expected: Mapping[str, mx.array]) -> _Checkpoint:
        """Look at every tensor's name and shape, not at its bytes."""
        names = _modern_names(source, family, config)
        origins = {name: family.origin(name, config, source.config) for name in expected}
        known = mlx_format.declared(source)
        fresh = {n for n, o in origins.items() if GATE in n and o.name not in names}
        _refuse_foreign_gates(names, {o.name for o in origins.values()}, source)
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
                shapes[origin.name] = (parts["weight"].shape[0], shape[-1])
                hidden.update(beside)
        shapes = {name: shape for name, shape in shapes.items() if name not in hidden}
        return cls(source, names, shapes, origins, frozenset(fresh), packed)

    def check(self, expected: Mapping[str, mx.array]) -> None:
        """ModelError naming what is missing, left over or misshapen."""
        wanted: dict[str, tuple[int, ...]] = {}
        for name, origin in self.origins.items():
            if name not in self.fresh:
                shape = origin.shape or expected[name].shape
                if name in self.packed:
                    shape = (math.prod(shape[:-1]), shape[-1])
                before = wanted[origin.name][0] if origin.rows and origin.name in wanted else 0
                wanted[origin.name] = (before + shape[0], *shape[1:])
                wanted.update({piece.name: piece.shape for piece in origin.rest if piece.shape is not None})
        directory.check_tensors(self.shapes, wanted, str(self.source.path))

    def plain(self, name: str) -> mx.array:
        """A canonical tensor in floating point, not yet of its canonical shape."""
        origin = self.origins[name]
        if name in self.packed:
            weight, scales, *biases = (part for _, part in self.parts(name))
            return dequantize(weight, scales, biases[0] if biases else None, self.packed[name])
        tensor = self._part(origin, origin.name)
        shape = origin.shape
        if shape is not None and len(shape) > 3:
            tensor = mlx_format.channels_first(self.names[origin.name], tensor, shape, self.source)
        rest = [self._part(piece, piece.name) for piece in origin.rest]
        return mx.concatenate([tensor, *rest]) if rest else tensor

    def parts(self, name: str) -> Iterator[tuple[str, mx.array]]:
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


def _modern_names(source: Source, family: Family, config: LMMConfig) -> dict[str, str]:
    """Names in the checkpoint by transformers 5's names, without those that are ignored."""
    names: dict[str, str] = {}
    for name in source.tensors:
        modern = family.modern(name)
        if family.ignores(modern):
            continue
        if modern in names:
            raise ModelError(f"{source.path}: tensors {names[modern]} and {name} are the same weights, twice")
        names[modern] = name
    if config.text.tie_embeddings:
        # A tied head that was written out nevertheless is the embedding, again.
        for part in PARTS:
            names.pop(f"lm_head.{part}", None)
    return names


def _spread(tensor: mx.array, origin: Origin) -> Iterator[tuple[str, mx.array]]:
    """The tensors that a canonical one lies in; their rows that it does not use are zero."""
    start = 0
    for piece in (origin, *origin.rest):
        assert piece.shape is not None
        used = piece.shape[0] if piece.rows is None else piece.rows[1] - piece.rows[0]
        unused = mx.zeros((piece.shape[0] - used, *piece.shape[1:]), tensor.dtype)
        yield piece.name, mx.concatenate([tensor[start : start + used], unused])
        start += used


def _refuse_foreign_gates(found: Iterable[str], known: Iterable[str], source: Source) -> None:
    """A gate of another layout is not a gate that can be guessed at."""
    strange = sorted(n for n in set(found) - set(known) if GATE_KEY in n or "rave" in n.lower())
    if strange:
        raise ModelError(
            f"{source.path}: has gate tensors in a layout that this package does not know ({', '.join(strange[:10])}); "
            f"it reads gates that rave-mlx exported, with {GATE_KEY!r} in config.json"
        )
