"""Convert a model to a rave directory, or plan it: what is on disk passes through the asked-for changes, lazily."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.build import read_dtype
from rave_mlx.checkpoint.safetensors_writer import Progress
from rave_mlx.config import GateConfig
from rave_mlx.convert.card import Origin, card
from rave_mlx.convert.finite import FiniteCheck
from rave_mlx.convert.hashes import Hashes
from rave_mlx.convert.notes import print_note
from rave_mlx.convert.open import find, open_headers, open_stored
from rave_mlx.convert.planning import Plan, make_plan, not_divided
from rave_mlx.convert.quantize import Options, decide
from rave_mlx.convert.quantize import apply as pack
from rave_mlx.convert.quantize import plan as plan_quantization
from rave_mlx.convert.stored import Stored
from rave_mlx.convert.two_streams import spread
from rave_mlx.convert.unchanged import Unchanged
from rave_mlx.errors import ModelError
from rave_mlx.models.lmm import LMM


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    gate: GateConfig | None = None,
    quantize: Options | None = None,
    revision: str | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    hashes: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Write a model as a rave directory.

    Tensors are read, converted and written one after the other, so memory holds a few of the largest at most.

    Args:
        source: checkpoint directory, GGUF file or Hub id; or a rave directory that `dtype`, `gate` or `quantize` is
            to change.
        out: the directory to create.
        dtype: type to store weights in ("float32", "float16", "bfloat16"); None keeps the checkpoint's.
        gate: add pair gates of this shape, initialised to have no effect.
        quantize: pack weights into fewer bits; None leaves them (and leaves packed those that are).
        revision: branch, tag or commit of a Hub id.
        mmproj: the vision tower of a GGUF model (llama.cpp's second file); None takes the only one beside it.
        hashes: write the SHA-256 of every source file into the model card; False leaves out weight files that do not
            come from the Hub, which tells them.
        progress: called with the bytes written and the bytes in all, after each tensor.
        note: called with a line about what a person should know (NaN weights); None prints it to stderr.

    Raises:
        ModelError, ConfigError: for a source that cannot be converted, or an `out` that exists or cannot be written.
            Nothing is left at `out` then.
    """
    target, tell, check = Path(out), note or print_note, FiniteCheck()
    directory.check_new(target)
    changes = _Changes(dtype, gate, quantize)
    place = find(source, revision)
    unchanged = Unchanged(place)
    stored = open_stored(place, mmproj=_path(mmproj))
    lmm, tensors = changes.apply(stored, check)
    for line in stored.notes:
        tell(line)
    with Hashes(stored.files, large=hashes) as digests:
        directory.write(
            target,
            lmm.config,
            spread(tensors),
            tokenizer=stored.tokenizer,
            template=lmm.template.source,
            card=lambda: card(lmm.config, Origin.of(stored, digests.result())),
            hub=stored.hub,
            finder_files=stored.finder_files,
            watch=check,
            progress=progress,
            finish=lambda: unchanged.check(stored.files),
        )
    if check.message:
        tell(check.message)
    undivided = changes.undivided(lmm)
    if undivided:
        tell(f"not quantized: {not_divided(undivided)}")
    return target


def plan(
    source: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    gate: GateConfig | None = None,
    quantize: Options | None = None,
    revision: str | None = None,
    mmproj: str | os.PathLike[str] | None = None,
) -> Plan:
    """What `convert` would do. Of the weights, only headers are read (and of a Hub model, only those are fetched).

    Args:
        source, dtype, gate, quantize, revision, mmproj: as for `convert`.

    Raises:
        ModelError, ConfigError: as `convert` would.
    """
    changes = _Changes(dtype, gate, quantize)
    stored = open_headers(source, revision, _path(mmproj))
    lmm, tensors = changes.apply(stored)
    return make_plan(stored, lmm.config, lmm.named_weights(), dict(tensors), changes.undivided(lmm))


def _path(file: str | os.PathLike[str] | None) -> Path | None:
    return None if file is None else Path(file)


@dataclass(frozen=True)
class _Changes:
    """What a conversion changes about a stored model, besides its layout; see `convert`."""

    dtype: str | None
    gate: GateConfig | None
    quantize: Options | None

    def apply(self, stored: Stored, check: FiniteCheck | None = None) -> tuple[LMM, Iterator[tuple[str, mx.array]]]:
        """The model without weights and its lazy tensors, changed; `check` sees them before they are packed.

        Raises:
            ModelError: for what cannot be asked of this model.
        """
        self._refuse_needless(stored)
        lmm, tensors = stored.lmm, stored.tensors
        packing = lmm.config.quantization
        if self.quantize is not None and packing is not None:
            raise ModelError(
                f"{stored.path}: is quantized already, and packing it again would round it twice; quantize the model "
                "that it was made from, or convert it as it is"
            )
        if self.gate is not None:
            lmm, tensors = self._with_gates(stored, self.gate)
        dtype = read_dtype(self.dtype)
        if dtype is not None:
            tensors = _cast(tensors, dtype)
        if check is not None:
            tensors = check.over(tensors)
        if self.quantize is not None:
            packing = plan_quantization(lmm.config, lmm.named_weights(), self.quantize)
            tensors = pack(tensors, packing)
        lmm.config = replace(lmm.config, quantization=packing)
        return lmm, tensors

    def undivided(self, lmm: LMM) -> tuple[str, ...]:
        """Matrices that were to be packed, but whose rows the group size does not divide."""
        if self.quantize is None:
            return ()
        decisions = decide(lmm.config, lmm.named_weights(), self.quantize)
        return tuple(d.module for d in decisions if d.reason == "width")

    def _refuse_needless(self, stored: Stored) -> None:
        if directory.is_rave_directory(stored.path) and (self.dtype, self.gate, self.quantize) == (None, None, None):
            raise ModelError(
                f"{stored.path}: is a rave directory already; say what to change (--quantize, --dtype, --gate)"
            )

    def _with_gates(self, stored: Stored, gate: GateConfig) -> tuple[LMM, Iterator[tuple[str, mx.array]]]:
        """The model with fresh gates, whose tensors follow the others."""
        lmm = stored.lmm
        if lmm.config.gate is not None:
            raise ModelError(f"{stored.path}: has pair gates already")
        gated = LMM(replace(lmm.config, gate=gate), lmm.tokenizer, lmm.template, lmm.path)
        fresh = ((name, x) for name, x in gated.named_weights().items() if directory.GATE in name)
        return gated, chain(stored.tensors, fresh)


def _cast(tensors: Iterator[tuple[str, mx.array]], dtype: mx.Dtype) -> Iterator[tuple[str, mx.array]]:
    """Floating tensors in `dtype`; those of `directory.is_exact` and packed integers as they are."""
    for name, tensor in tensors:
        floating = mx.issubdtype(tensor.dtype, mx.floating)
        yield name, tensor.astype(dtype) if floating and not directory.is_exact(name) else tensor
