"""Foreign checkpoints become rave models, on disk or in memory, through one conversion.

`to_memory` and `convert` both take the canonical configuration and an iterator of lazy canonical tensors from
`translate`; they differ only in where the tensors go.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import mlx.core as mx

from rave_mlx import backend, loading, store
from rave_mlx.config import GateConfig, LMMConfig
from rave_mlx.convert import source as sources
from rave_mlx.convert.card import card
from rave_mlx.convert.families import detect
from rave_mlx.errors import ModelError
from rave_mlx.models.lmm import LMM

__all__ = ["convert", "to_memory", "translate"]

_GATE = ".attention.gate."
_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    gate: GateConfig | None = None,
    revision: str | None = None,
) -> Path:
    """Write a checkpoint as a rave directory.

    Args:
        source: checkpoint directory or Hub id.
        out: the directory to create.
        dtype: type to store weights in ("float32", "float16", "bfloat16"); None keeps the checkpoint's.
        gate: add pair gates of this shape, initialised to have no effect.
        revision: branch, tag or commit of a Hub id.

    Raises:
        ModelError, ConfigError: for a source that cannot be converted, or an `out` that exists.
    """
    backend.prepare()
    folder = sources.find(source, revision)
    if store.is_rave_directory(folder):
        raise ModelError(f"{folder}: is a rave directory already; nothing to convert")
    if dtype is not None and dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    origin = sources.read(folder)
    lmm, tensors = _open(origin, gate)
    cast = ((n, t if dtype is None or _GATE in n else t.astype(_DTYPES[dtype])) for n, t in tensors)
    target = Path(out)
    store.write(
        target,
        lmm.config,
        cast,
        tokenizer=origin.tokenizer,
        template=origin.template,
        card=card(lmm.config, str(source)),
    )
    return target


def to_memory(folder: Path) -> tuple[LMM, dict[str, mx.array]]:
    """A model without weights and the lazy canonical tensors to fill it with, from a checkpoint folder."""
    lmm, tensors = _open(sources.read(folder), None)
    return lmm, dict(tensors)


def translate(origin: sources.Source, family: ModuleType, lmm: LMM) -> Iterator[tuple[str, mx.array]]:
    """The canonical tensors that `lmm` expects, in its order, each found under its name in the checkpoint.

    Raises:
        ModelError: when tensors are missing, left over or of the wrong size; all are named (ten at most are shown).
    """
    expected = lmm.named_weights()
    found = {family.era_free(name): tensor for name, tensor in origin.tensors.items()}
    wanted = {family.foreign_name(name): name for name in expected}
    if lmm.config.text.tie_embeddings:
        found.pop(family.foreign_name("decoder.head.weight"), None)
    fresh = {foreign for foreign, name in wanted.items() if _GATE in name and foreign not in found}
    shapes = {name: tensor.shape for name, tensor in found.items()}
    for foreign, name in wanted.items():
        if foreign in shapes and found[foreign].size == expected[name].size and name == "vision.patch_embed.weight":
            shapes[foreign] = expected[name].shape
    needed = {foreign: expected[name].shape for foreign, name in wanted.items() if foreign not in fresh}
    store.check_tensors(shapes, needed, str(origin.path))
    for name, initial in expected.items():
        foreign = family.foreign_name(name)
        yield name, initial if foreign in fresh else found[foreign].reshape(initial.shape)


def _open(origin: sources.Source, gate: GateConfig | None) -> tuple[LMM, Iterator[tuple[str, mx.array]]]:
    family = detect(origin.config, str(origin.path / store.CONFIG))
    config: LMMConfig = family.config(origin)
    if gate is not None:
        if config.gate is not None:
            raise ModelError(f"{origin.path}: has pair gates already")
        config = replace(config, gate=gate)
    lmm = loading.build(config, origin.tokenizer, origin.template, origin.path)
    return lmm, translate(origin, family, lmm)
