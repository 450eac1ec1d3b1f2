"""A PEFT adapter becomes one of this package: every tensor finds its place, or the adapter is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.adapter_config import EMBED, HEAD, AdapterConfig
from rave_mlx.checkpoint.safetensors_reader import open_files
from rave_mlx.config import GateConfig
from rave_mlx.convert.adapters.base import Base, Piece
from rave_mlx.convert.adapters.complete import check_complete
from rave_mlx.convert.adapters.peft_files import (
    EMBEDDING,
    GATE_CONFIG,
    GATE_WEIGHTS,
    MASK,
    PEFT_CONFIG,
    TOKENS,
    UPDATE,
    Named,
    open_peft,
    parse,
)
from rave_mlx.convert.adapters.peft_settings import PeftSettings, read_settings
from rave_mlx.errors import ConfigError, ModelError

_SHOWN = 10


def from_peft(folder: Path, base: Base) -> tuple[AdapterConfig, dict[str, mx.array]]:
    """The configuration and the canonical tensors, lazy, of a PEFT adapter (LoRA or DoRA).

    Args:
        folder: the adapter's directory.
        base: the model that it is for.

    Raises:
        ConfigError: for another kind of adapter, or a setting of it that is not supported.
        ModelError: for tensors that belong to nothing in `base`, have another shape, or are missing.
    """
    settings = read_settings(folder / PEFT_CONFIG)
    found = open_peft(folder)
    names = [named for key in found if (named := parse(key, base.family)) is not None]
    _refuse_strange(names, base, settings, folder)
    check_complete(names, base, settings, folder)
    reader = _Reader(settings, base, folder, found)
    for module, leaves in _by_module(names).items():
        reader.add_update(base.modules[module], leaves)
    for named in names:
        if named.leaf == TOKENS:
            reader.add_rows(named, names)
        elif not named.leaf:
            reader.add_weight(named)
    if not reader.weights:
        raise ModelError(f"{folder}: holds nothing; the adapter is empty")
    config, weights = _with_extras(reader.config(), reader.weights, folder)
    return config, weights


class _Reader:
    """Collects what an adapter changes."""

    def __init__(self, settings: PeftSettings, base: Base, folder: Path, found: Mapping[str, mx.array]):
        self.weights: dict[str, mx.array] = {}
        self._settings, self._base, self._folder, self._found = settings, base, folder, found
        self._modules: dict[str, tuple[int, float]] = {}
        self._replaced: dict[str, None] = {}
        self._rows: dict[str, tuple[int, ...]] = {}

    def add_update(self, pieces: tuple[Piece, ...], leaves: Mapping[str, Named]) -> None:
        """The update of a module of transformers, of which each piece takes its rows."""
        theirs = EMBEDDING if set(leaves) <= set(EMBEDDING) else UPDATE
        tensors = {theirs[leaf]: self._found[named.key] for leaf, named in leaves.items()}
        named = next(iter(leaves.values()))
        rank = int(tensors["lora_a"].shape[0])
        self._check_rank(rank, named)
        self._check_shapes(tensors, pieces, leaves, rank)
        scale = self._settings.scale_of(named.own, rank)
        for piece in pieces:
            self._modules[piece.name] = rank, scale
            self.weights[f"{piece.name}.lora_a"] = tensors["lora_a"].reshape(rank, -1).T
            self.weights[f"{piece.name}.lora_b"] = piece.of(tensors["lora_b"].reshape(-1, rank)).T
            for leaf in tensors.keys() & {"m", "lora_bias"}:
                self.weights[f"{piece.name}.{leaf}"] = piece.of(tensors[leaf].reshape(-1))

    def add_weight(self, named: Named) -> None:
        """A weight that the adapter brings whole."""
        x, pieces = self._found[named.key], self._base.weights[named.weight]
        self._check(named, x.shape, _whole_shape(pieces))
        for piece in pieces:
            for name in self._shared(piece.name, named):
                value = piece.of(x).reshape(piece.shape)
                # peft saves the table under an update as well, which is the base model's as a rule.
                if not named.inner or not _equal(value, self._base.weight(name)):
                    self.weights[name] = value
                    self._replaced[name] = None

    def add_rows(self, named: Named, names: list[Named]) -> None:
        """Rows of a table, for some tokens. The head of a model of tied embeddings follows its embedding."""
        (piece,) = self._base.modules[named.module]
        table = piece.name
        ids = self._settings.tokens.get("" if "" in self._settings.tokens else self._table(named))
        if ids is None:
            raise ModelError(f"{self._folder}: {named.key}: trainable_token_indices says nothing of {named.own}")
        x = self._found[named.key]
        self._check(named, x.shape, (len(ids), piece.shape[1]))
        alone = any(n.leaf == TOKENS and n.module != named.module for n in names)
        for name in (EMBED, HEAD) if table == EMBED and self._base.tied and not alone else (table,):
            self.weights[f"{name}.rows"] = x
            self._rows[name] = ids

    def config(self) -> AdapterConfig:
        """What was found, as a configuration."""
        rank = self._settings.rank
        scale = self._settings.alpha / (rank**0.5 if self._settings.root else rank)
        return AdapterConfig(
            rank=rank,
            scale=scale,
            modules=tuple(sorted(self._modules)),
            kind="dora" if self._settings.dora else "lora",
            dropout=self._settings.dropout,
            ranks={m: r for m, (r, _) in sorted(self._modules.items()) if r != rank},
            scales={m: s for m, (_, s) in sorted(self._modules.items()) if s != scale},
            update_bias=self._settings.update_bias,
            replaced=tuple(sorted(self._replaced)),
            rows=self._rows,
        )

    def _table(self, named: Named) -> str:
        return next((name for name in self._settings.tokens if name and named.own.endswith(name)), named.own)

    def _shared(self, name: str, named: Named) -> tuple[str, ...]:
        """The weights that one of transformers stands for: tied tables are one, unless the adapter keeps a copy."""
        tables = (f"{EMBED}.weight", f"{HEAD}.weight")
        copied = any(named.own.endswith(saved) for saved in self._settings.saved)
        return tables if name in tables and self._base.tied and (named.inner or not copied) else (name,)

    def _check_rank(self, rank: int, named: Named) -> None:
        known = {self._settings.rank_of(named.own), self._settings.rank_of(named.module)}
        if rank not in known:
            raise ModelError(
                f"{self._folder}: {named.key} has rank {rank}, r and rank_pattern say {min(known)}; the settings and "
                "the tensors are of different adapters"
            )

    def _check_shapes(
        self, tensors: Mapping[str, mx.array], pieces: tuple[Piece, ...], leaves: Mapping[str, Named], rank: int
    ) -> None:
        outputs, *inputs = _whole_shape(pieces)
        ones = (1,) * (len(inputs) - 1)
        expected: dict[str, tuple[int, ...]] = {
            "lora_A.weight": (rank, *inputs),
            "lora_B.weight": (outputs, rank, *ones),
            "lora_B.bias": (outputs,),
            "lora_magnitude_vector": (1, outputs, *ones[:-1], 1) if ones else (outputs,),
            "lora_embedding_A": (rank, outputs),
            "lora_embedding_B": (inputs[0], rank),
        }
        for leaf, named in leaves.items():
            self._check(named, self._found[named.key].shape, expected[leaf])

    def _check(self, named: Named, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if tuple(found) != expected:
            raise ModelError(
                f"{self._folder}: {named.key} has shape {list(found)} instead of {list(expected)}; the adapter is for "
                "another model, or its vocabulary was enlarged"
            )


def _by_module(names: list[Named]) -> dict[str, dict[str, Named]]:
    """The low-rank updates by module, each by leaf."""
    found: dict[str, dict[str, Named]] = {}
    for named in names:
        if named.leaf and named.leaf != TOKENS:
            found.setdefault(named.module, {})[named.leaf] = named
    return found


def _refuse_strange(names: list[Named], base: Base, settings: PeftSettings, folder: Path) -> None:
    """Refuse tensors that belong to nothing in the base model, or that the settings do not speak of."""
    strange = [named.key for named in names if not _known(named, base, settings)]
    if strange:
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise ModelError(
            f"{folder}: tensors of no projection or weight of the base model: {', '.join(sorted(strange)[:_SHOWN])}"
            f"{more}; is {base.name} the model that it was trained on?"
        )


def _known(named: Named, base: Base, settings: PeftSettings) -> bool:
    if not named.leaf:
        return named.weight in base.weights
    canonical = {piece.name for piece in base.modules.get(named.module, ())}
    if named.leaf == TOKENS:
        return canonical <= {EMBED, HEAD} and bool(canonical)
    if named.leaf in EMBEDDING:
        return canonical == {EMBED}
    if EMBED in canonical and settings.dora:
        raise ConfigError(f"{settings.where}: use_dora True is not supported on the embedding ({named.own})")
    wanted = {"lora_magnitude_vector": settings.dora, "lora_B.bias": settings.update_bias}
    return bool(canonical) and EMBED not in canonical and wanted.get(named.leaf, True)


def _whole_shape(pieces: tuple[Piece, ...]) -> tuple[int, ...]:
    """The shape of the weight of transformers that pieces make up."""
    rows = sum(piece.outside[0] for piece in pieces)
    return rows, *pieces[0].outside[1:]


def _equal(x: mx.array, other: mx.array) -> bool:
    same = mx.array_equal(x.astype(mx.float32), other.astype(mx.float32))
    return bool(same.item())


def _with_extras(
    config: AdapterConfig, weights: dict[str, mx.array], folder: Path
) -> tuple[AdapterConfig, dict[str, mx.array]]:
    """With what `export_peft` writes beside peft's files."""
    gate, mask = folder / GATE_CONFIG, folder / MASK
    if mask.is_file():
        answer = directory.read_json(mask).get("answer")
        if type(answer) is not int:
            raise ConfigError(f"{mask}: answer must be a token id, found {answer!r}")
        config = replace(config, mask="mutual", answer=answer)
    if gate.is_file():
        config = replace(config, gate=GateConfig.from_dict(directory.read_json(gate), str(gate)))
        weights = weights | dict(open_files([folder / GATE_WEIGHTS]))
    return config, weights
