"""Tensors of a checkpoint under the names, in the shapes and in the order that the runtime expects, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import mlx.core as mx

from rave_mlx import store
from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import GATE_KEY, Family, HubConfig
from rave_mlx.convert.source import Source
from rave_mlx.errors import ModelError

_GATE = ".attention.gate."


def translate(
    source: Source, family: Family, config: LMMConfig, expected: Mapping[str, mx.array]
) -> Iterator[tuple[str, mx.array]]:
    """The canonical tensors of a checkpoint, lazy, in the order of `expected` (initial values by canonical name).

    Pair gates that the checkpoint does not have keep their initial values.

    Raises:
        ModelError: when tensors are missing, left over or of the wrong size; all are named (ten at most are shown).
    """
    found = {family.modern(name): (name, tensor) for name, tensor in source.tensors.items()}
    found = {name: pair for name, pair in found.items() if not family.ignores(name)}
    origins = {name: family.origin(name, config, source.config) for name in expected}
    if config.text.tie_embeddings:
        # A tied head that was written out nevertheless is the embedding, again.
        found.pop("lm_head.weight", None)
    fresh = {n for n, o in origins.items() if _GATE in n and o.name not in found}
    _refuse_foreign_gates(found, {o.name for o in origins.values()}, source)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, origin in origins.items():
        if name not in fresh:
            shape = origin.shape or expected[name].shape
            before = shapes[origin.name][0] if origin.rows and origin.name in shapes else 0
            shapes[origin.name] = (before + shape[0], *shape[1:])
    store.check_tensors({name: t.shape for name, (_, t) in found.items()}, shapes, str(source.path))
    for name, initial in expected.items():
        if name in fresh:
            yield name, initial
            continue
        tensor = found[origins[name].name][1]
        rows = origins[name].rows
        yield name, (tensor if rows is None else tensor[rows[0] : rows[1]]).reshape(initial.shape)


def untranslate(
    tensors: Iterable[tuple[str, mx.array]], family: Family, config: LMMConfig, hub: HubConfig
) -> Iterator[tuple[str, mx.array]]:
    """Canonical tensors as they lie in a checkpoint of transformers 5; the inverse of `translate`."""
    parts: dict[str, dict[int, mx.array]] = {}
    for name, tensor in tensors:
        origin = family.origin(name, config, hub)
        if origin.rows is None:
            yield origin.name, tensor if origin.shape is None else tensor.reshape(origin.shape)
        else:
            parts.setdefault(origin.name, {})[origin.rows[0]] = tensor
    for name, pieces in parts.items():
        yield name, mx.concatenate([pieces[first] for first in sorted(pieces)])


def _refuse_foreign_gates(found: Iterable[str], known: Iterable[str], source: Source) -> None:
    """A gate of another layout is not a gate that can be guessed at."""
    strange = sorted(n for n in set(found) - set(known) if GATE_KEY in n or "rave" in n.lower())
    if strange:
        raise ModelError(
            f"{source.path}: has gate tensors in a layout that this package does not know ({', '.join(strange[:10])}); "
            f"it reads gates that rave-mlx exported, with {GATE_KEY!r} in config.json"
        )
