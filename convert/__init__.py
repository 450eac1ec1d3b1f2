"""Foreign checkpoints become rave models, on disk or in memory, through one conversion.

`to_memory`, `convert` and `plan` take the canonical configuration and an iterator of lazy canonical tensors from
`translate`; they differ only in where the tensors go.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint import build, directory
from rave_mlx.checkpoint.safetensors_writer import Progress
from rave_mlx.config import GateConfig, LMMConfig
from rave_mlx.convert import hub
from rave_mlx.convert import source as sources
from rave_mlx.convert.card import Origin, card
from rave_mlx.convert.families import detect
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.finite import FiniteCheck
from rave_mlx.convert.hashes import Hashes
from rave_mlx.convert.plan import Plan, make_plan, not_divided, placeholders
from rave_mlx.convert.plausible import check_layers, check_plausible
from rave_mlx.convert.push import push
from rave_mlx.convert.quantize import Options, decide
from rave_mlx.convert.quantize import apply as pack
from rave_mlx.convert.quantize import plan as make_quantization
from rave_mlx.convert.spread import spread
from rave_mlx.convert.translate import read_quantization, translate
from rave_mlx.errors import ConfigError, ModelError
from rave_mlx.models.lmm import LMM

__all__ = ["Options", "Plan", "convert", "plan", "push", "to_memory"]

_GATE = ".attention.gate."
_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    gate: GateConfig | None = None,
    quantize: Options | None = None,
    revision: str | None = None,
    hashes: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Write a checkpoint as a rave directory.

    Tensors are read, converted and written one after the other, so memory holds a few of the largest at most.

    Args:
        source: checkpoint directory or Hub id.
        out: the directory to create.
        dtype: type to store weights in ("float32", "float16", "bfloat16"); None keeps the checkpoint's.
        gate: add pair gates of this shape, initialised to have no effect.
        quantize: pack weights into fewer bits; None leaves them (and leaves packed those of MLX packages).
        revision: branch, tag or commit of a Hub id.
        hashes: write the SHA-256 of every source file into the model card; False leaves out weight files that do not
            come from the Hub, which tells them.
        progress: called with the bytes written and the bytes in all, after each tensor.
        note: called with a line about what a person should know (NaN weights); None prints it to stderr.

    Raises:
        ModelError, ConfigError: for a source that cannot be converted, or an `out` that exists or cannot be written.
            Nothing is left at `out` then.
    """
    target = Path(out)
    directory.check_new(target)
    origin = sources.read(_find(source, revision))
    check = FiniteCheck()
    lmm, tensors = _open(origin, gate, dtype, quantize, check)
    with Hashes(origin.files(), large=hashes) as digests:
        directory.write(
            target,
            lmm.config,
            spread(tensors),
            tokenizer=origin.tokenizer,
            template=_template(origin),
            card=lambda: card(lmm.config, Origin.of(origin, digests.result())),
            hub=origin.hub_files(),
            watch=check,
            progress=progress,
        )
    if check.message:
        (note or _print_note)(check.message)
    undivided = _undivided(lmm, quantize)
    if undivided:
        (note or _print_note)(f"not quantized: {not_divided(undivided)}")
    return target


def plan(
    source: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    gate: GateConfig | None = None,
    quantize: Options | None = None,
    revision: str | None = None,
) -> Plan:
    """What `convert` would do. Of the weights, only headers are read (and of a Hub model, only those are fetched).

    Raises:
        ModelError, ConfigError: as `convert` would.
    """
    origin = _peek(source, revision)
    lmm, tensors = _open(origin, gate, dtype, quantize)
    return make_plan(origin, lmm.config, lmm.named_weights(), dict(tensors), _undivided(lmm, quantize))


def to_memory(folder: Path) -> tuple[LMM, dict[str, mx.array]]:
    """A model without weights and the lazy canonical tensors to fill it with, from a checkpoint folder."""
    lmm, tensors = _open(sources.read(folder))
    return lmm, dict(tensors)


def _undivided(lmm: LMM, quantize: Options | None) -> tuple[str, ...]:
    """Matrices that were to be packed, but whose rows the group size does not divide."""
    if quantize is None:
        return ()
    return tuple(d.module for d in decide(lmm.config, lmm.named_weights(), quantize) if d.reason == "width")


def _find(source: str | os.PathLike[str], revision: str | None) -> Path:
    folder = sources.find(source, revision)
    _refuse_rave_directory(folder)
    return folder


def _peek(source: str | os.PathLike[str], revision: str | None) -> sources.Source:
    """The source with lazy tensors; those of a Hub model that is not in the cache stand for their headers only."""
    name = sources.hub_id(source)
    if name is None:
        return sources.read(_find(source, revision))
    folder = hub.download_settings(name, revision)
    _refuse_rave_directory(folder)
    return sources.read(folder, placeholders(hub.read_headers(name, folder)))


def _refuse_rave_directory(folder: Path) -> None:
    if directory.is_rave_directory(folder):
        raise ModelError(f"{folder}: is a rave directory already; nothing to convert")


def _open(
    origin: sources.Source,
    gate: GateConfig | None = None,
    dtype: str | None = None,
    quantize: Options | None = None,
    check: FiniteCheck | None = None,
) -> tuple[LMM, Iterator[tuple[str, mx.array]]]:
    """A model without weights and its lazy canonical tensors, in `dtype` (gates apart), packed if asked for."""
    if dtype is not None and dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    family = detect(origin.config, str(origin.path / directory.CONFIG))
    check_layers(origin)
    config = _read_config(family, origin)
    check_plausible(config, origin)
    if gate is not None:
        if config.gate is not None:
            raise ModelError(f"{origin.path}: has pair gates already")
        config = replace(config, gate=gate)
    lmm = build.build(config, origin.tokenizer, _template(origin), origin.path)
    expected = lmm.named_weights()
    packing = read_quantization(origin, family, config, expected)
    tensors = translate(origin, family, config, expected)
    if dtype is not None:
        tensors = _cast(tensors, _DTYPES[dtype])
    if check is not None:
        tensors = check.over(tensors)
    if quantize is not None:
        if packing is not None:
            raise ModelError(f"{origin.path}: is quantized already; convert it as it is, or quantize the original")
        packing = make_quantization(config, expected, quantize)
        tensors = pack(tensors, packing)
    lmm.config = replace(config, quantization=packing)
    return lmm, tensors


def _template(origin: sources.Source) -> str:
    """The chat template: the checkpoint's own file, else the family's, else what the tokenizer's settings hold."""
    family = detect(origin.config, str(origin.path / directory.CONFIG))
    own = (origin.path / directory.TEMPLATE).is_file()
    return origin.template if own or family.template is None else family.template


def _read_config(family: Family, origin: sources.Source) -> LMMConfig:
    """The canonical configuration; an error that speaks of its fields alone gets the file's name."""
    try:
        # Read back as from a file: that checks the type of every field.
        return LMMConfig.from_dict(family.config(origin).to_dict())
    except ConfigError as error:
        if str(origin.path) in str(error):
            raise
        raise ConfigError(f"{origin.path / directory.CONFIG}: {error}") from None
    except ArithmeticError as error:
        raise ConfigError(f"{origin.path / directory.CONFIG}: its numbers do not make a model ({error})") from None


def _cast(tensors: Iterator[tuple[str, mx.array]], dtype: mx.Dtype) -> Iterator[tuple[str, mx.array]]:
    """Floating tensors in `dtype`; gates and packed integers as they are."""
    for name, tensor in tensors:
        floating = mx.issubdtype(tensor.dtype, mx.floating)
        yield name, tensor.astype(dtype) if floating and _GATE not in name else tensor


def _print_note(text: str) -> None:
    print(f"rave-mlx: {text}", file=sys.stderr)
