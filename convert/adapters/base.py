"""The model under an adapter: which of its modules and weights lie where in transformers' model of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.checkpoint import directory, packed
from rave_mlx.checkpoint.adapter_config import EMBED, HEAD
from rave_mlx.checkpoint.directory import ROUTER, is_gate
from rave_mlx.config import LMMConfig
from rave_mlx.convert.families import detect
from rave_mlx.convert.families.base import Family, HubConfig
from rave_mlx.convert.open import open_stored, read
from rave_mlx.convert.stored import Stored
from rave_mlx.errors import ModelError


@dataclass(frozen=True)
class Piece:
    """A canonical module or weight as (a part of) one of transformers.

    Attributes:
        name: canonical.
        rows: the part [first, end) of the first axis; None for the whole.
        shape: of the canonical weight.
        outside: shape of the weight (of this part of it) in transformers; a convolution has more than two axes.
    """

    name: str
    rows: tuple[int, int] | None
    shape: tuple[int, ...]
    outside: tuple[int, ...]

    def of(self, x: mx.array) -> mx.array:
        """Its rows of a tensor."""
        return x if self.rows is None else x[self.rows[0] : self.rows[1]]


@dataclass(frozen=True)
class Base:
    """A base model, without its weights.

    Attributes:
        path: its folder or file.
        name, commit: what to call it, and the Hub's commit that it is a snapshot of.
        family: its model family.
        config, hub: canonical configuration, and the config.json that transformers reads.
        shapes: of every weight by canonical name, unpacked; of tied models the head's, too.
        linears: canonical names of the modules that are matrices.
    """

    path: Path
    name: str
    commit: str | None
    family: Family
    config: LMMConfig
    hub: HubConfig = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    linears: frozenset[str] = field(repr=False)

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.config.text.tie_embeddings

    @cached_property
    def modules(self) -> dict[str, tuple[Piece, ...]]:
        """What can take a low-rank update, by transformers' name of the module."""
        names = [name.removesuffix(".weight") for name in self.shapes if name.endswith(".weight")]
        wanted = [name for name in names if name in self.linears or name in (EMBED, HEAD)]
        found = self._pieces(f"{name}.weight" for name in wanted)
        return {
            outside.removesuffix(".weight"): tuple(
                Piece(p.name.removesuffix(".weight"), p.rows, p.shape, p.outside) for p in pieces
            )
            for outside, pieces in found.items()
        }

    @cached_property
    def weights(self) -> dict[str, tuple[Piece, ...]]:
        """Every weight, by transformers' name of the tensor."""
        return self._pieces(name for name in self.shapes if not is_gate(name))

    def weight(self, name: str) -> mx.array:
        """The numbers of a canonical weight, unpacked, read from disk."""
        kept = name if name != f"{HEAD}.weight" or not self.tied else f"{EMBED}.weight"
        tensors = dict(open_stored(self.path).tensors)
        module, setting = packed.packed_module(kept, tensors), self.config.quantization
        if module is None or setting is None:
            return tensors[kept]
        inner = setting.of(module)
        assert inner is not None  # the model was opened: what is packed has a setting
        return packed.dequantize(tensors[kept], tensors[f"{module}.scales"], tensors.get(f"{module}.biases"), inner)

    def _pieces(self, names: Iterator[str]) -> dict[str, tuple[Piece, ...]]:
        found: dict[str, tuple[Piece, ...]] = {}
        for name in names:
            origin, shape = self.family.origin(name, self.config, self.hub), self.shapes[name]
            # What lies in several tensors of transformers (AKI's vocabulary) has no module of its own there.
            if not origin.rest:
                outside = origin.shape or shape
                if math.prod(outside) == math.prod(shape):
                    piece = Piece(name, origin.rows, shape, outside)
                    found[origin.name] = (*found.get(origin.name, ()), piece)
        return found


def open_base(path: Path) -> Base:
    """Look at a model's configuration and headers.

    Raises:
        ConfigError, ModelError: when it is incomplete, or does not say how transformers names its modules.
    """
    stored = open_stored(path)
    hub = _hub_config(path, stored)
    shapes = {name: tuple(x.shape) for name, x in stored.lmm.named_weights().items()}
    shapes.setdefault(f"{HEAD}.weight", shapes[f"{EMBED}.weight"])
    modules = stored.lmm.named_modules()
    # transformers' routers are no linear layers, and take no updates there.
    linears = {name for name, module in modules if isinstance(module, nn.Linear) and not name.endswith(ROUTER)}
    family = detect(hub, str(path / directory.CONFIG))
    return Base(path, stored.name, stored.commit, family, stored.lmm.config, hub, shapes, frozenset({*linears, HEAD}))


def _hub_config(path: Path, stored: Stored) -> HubConfig:
    if directory.CONFIG in stored.hub:
        config: HubConfig = json.loads(stored.hub[directory.CONFIG])
        return config
    if directory.is_rave_directory(path):
        raise ModelError(f"{path}: has no {directory.HUB}/{directory.CONFIG}, which names transformers' modules")
    return read(path).config
