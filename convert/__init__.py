"""Foreign checkpoints become rave models, on disk or in memory, through one conversion.

`to_memory` and `convert` both take the canonical configuration and an iterator of lazy canonical tensors from
`translate`; they differ only in where the tensors go.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from rave_mlx import backend, loading, store
from rave_mlx.config import GateConfig, LMMConfig
from rave_mlx.convert import source as sources
from rave_mlx.convert.card import card
from rave_mlx.convert.families import detect
from rave_mlx.convert.translate import translate
from rave_mlx.errors import ModelError
from rave_mlx.models.lmm import LMM

__all__ = ["convert", "to_memory"]

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
        hub=origin.hub_files(),
    )
    return target


def to_memory(folder: Path) -> tuple[LMM, dict[str, mx.array]]:
    """A model without weights and the lazy canonical tensors to fill it with, from a checkpoint folder."""
    lmm, tensors = _open(sources.read(folder), None)
    return lmm, dict(tensors)


def _open(origin: sources.Source, gate: GateConfig | None) -> tuple[LMM, Iterator[tuple[str, mx.array]]]:
    family = detect(origin.config, str(origin.path / store.CONFIG))
    config: LMMConfig = family.config(origin)
    if gate is not None:
        if config.gate is not None:
            raise ModelError(f"{origin.path}: has pair gates already")
        config = replace(config, gate=gate)
    lmm = loading.build(config, origin.tokenizer, origin.template, origin.path)
    return lmm, translate(origin, family, config, lmm.named_weights())
