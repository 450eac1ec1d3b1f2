"""A model on disk with its tensors under canonical names: what is opened, converted, quantized, fused and planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint import build, directory
from rave_mlx.checkpoint.packed import plain_shapes
from rave_mlx.checkpoint.safetensors_part import Place
from rave_mlx.checkpoint.safetensors_reader import Tensors
from rave_mlx.convert.hub import provenance
from rave_mlx.convert.source import read_settings, weight_files
from rave_mlx.models.lmm import LMM


@dataclass(frozen=True)
class Stored:
    """A rave directory, or a foreign checkpoint as this package names and shapes its tensors.

    Attributes:
        path: its folder (of a GGUF model: the file).
        name, commit: what to call it, and the Hub's commit that it is a snapshot of.
        lmm: the model without weights; its configuration says how `tensors` are packed.
        tensors: lazy tensors by canonical name, in the model's order; to be taken once, so that nothing keeps them.
        size: bytes of the stored weights.
        files: those whose content decides what the model answers.
        tokenizer: its tokenizer file.
        hub: configuration files of the foreign checkpoint by name, for an export.
        notes: what a person should know about it.
        finder_files: of its finder; none where it has none.
        place: where on disk a canonical tensor lies as it is used; None where it is made of several or of others.
    """

    path: Path
    name: str
    commit: str | None
    lmm: LMM
    tensors: Iterator[tuple[str, mx.array]] = field(repr=False)
    size: int
    files: tuple[Path, ...]
    tokenizer: Path
    hub: Mapping[str, bytes] = field(repr=False)
    notes: tuple[str, ...] = ()
    finder_files: tuple[Path, ...] = ()
    place: Callable[[str], Place | None] = field(default=lambda _: None, repr=False)


def read_rave_directory(folder: Path, tensors: Mapping[str, mx.array] | None = None) -> Stored:
    """A rave directory as it lies on disk.

    Args:
        folder: the directory.
        tensors: instead of those in its weight files (placeholders, to plan without them).

    Raises:
        ConfigError, ModelError: when a file is missing or malformed, or the weights do not fit the configuration.
    """
    lmm = build.build_directory(folder)
    found = directory.open_tensors(folder) if tensors is None else tensors
    expected = {name: tensor.shape for name, tensor in lmm.named_weights().items()}
    directory.check_tensors(plain_shapes(found, lmm.config.quantization), expected, str(folder))
    known = provenance(folder)
    settings = (folder / name for name in (directory.CONFIG, directory.TOKENIZER, directory.TEMPLATE))
    return Stored(
        path=folder,
        name=folder.resolve().name if known is None else known[0],
        commit=None if known is None else known[1],
        lmm=lmm,
        tensors=iter(found.items()),
        size=sum(tensor.nbytes for tensor in found.values()),
        files=(*settings, *weight_files(found), *directory.finder_files(folder)),
        tokenizer=folder / directory.TOKENIZER,
        hub=read_settings(folder / directory.HUB),
        finder_files=directory.finder_files(folder),
        place=lambda name: Place(found, name) if isinstance(found, Tensors) else None,
    )
