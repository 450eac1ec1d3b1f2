"""Whole weights as PEFT keeps them: modules to save, biases, the tables under updates, and rows for single tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import mlx.core as mx

from rave_mlx.checkpoint.adapter_config import EMBED, HEAD, AdapterConfig
from rave_mlx.checkpoint.directory import GATE
from rave_mlx.convert.adapters.base import Base
from rave_mlx.convert.adapters.peft_files import INNER, TOKENS
from rave_mlx.errors import ModelError

_TABLES = (f"{EMBED}.weight", f"{HEAD}.weight")


@dataclass(frozen=True)
class Whole:
    """What an adapter replaces.

    Attributes:
        tensors: by peft's name, without its prefix.
        modules: those that peft saves whole.
        biases: whether biases of other modules are replaced.
        tokens: ids whose rows are replaced, by module.
    """

    tensors: dict[str, mx.array] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    biases: bool = False
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)


def whole_weights(config: AdapterConfig, weights: Mapping[str, mx.array], base: Base, adapted: set[str]) -> Whole:
    """The weights and rows that an adapter brings whole, in PEFT's layout.

    Args:
        config, weights: the adapter.
        base: the model that it is for.
        adapted: modules of transformers with an update on them.

    Raises:
        ModelError: for what peft has no place for.
    """
    if "decoder" in config.full:
        raise ModelError("the adapter replaces the whole decoder, which PEFT's LoRA cannot hold; fuse it (rave-mlx "
                         "fuse) and export the result")  # fmt: skip
    replaced = {name: weights[name] for name in weights if _is_whole(name, config)}
    tensors: dict[str, mx.array] = {}
    modules: dict[str, None] = {}
    biases = False
    for outside, pieces in base.weights.items():
        if not any(piece.name in replaced for piece in pieces):
            continue
        module, _, leaf = outside.rpartition(".")
        x = mx.concatenate([_value(piece.name, replaced, base).reshape(piece.shape) for piece in pieces])
        x = x.reshape(sum(piece.outside[0] for piece in pieces), *pieces[0].outside[1:])
        if module in adapted:
            _refuse_half_of_tie(replaced, base, outside)
            tensors[f"{module}{INNER}.{leaf}"] = x
        else:
            tensors[outside] = x
            if leaf != "bias":
                modules[module] = None
        biases = biases or leaf == "bias"
    outer = tuple(module for module in modules if not any(module.startswith(f"{other}.") for other in modules))
    _fill(outer, tensors, base)
    placed = {piece.name for pieces in base.weights.values() for piece in pieces}
    lost = [*sorted(set(replaced) - placed), *(module for module in outer if module in ("", "model"))]
    if lost:
        raise ModelError(f"the adapter replaces {lost[0]}, which is no module of its own in transformers; PEFT cannot "
                         "hold it: fuse it (rave-mlx fuse) and export the result")  # fmt: skip
    return Whole(tensors, outer, biases, _rows(config, weights, base, tensors))


def _is_whole(name: str, config: AdapterConfig) -> bool:
    return name in config.replaced or (GATE not in name and name.partition(".")[0] in config.full)


def _value(name: str, replaced: Mapping[str, mx.array], base: Base) -> mx.array:
    return replaced[name] if name in replaced else base.weight(name).astype(next(iter(replaced.values())).dtype)


def _fill(modules: tuple[str, ...], tensors: dict[str, mx.array], base: Base) -> None:
    """The other weights of the modules that are saved whole, from the base."""
    for outside, pieces in base.weights.items():
        if outside not in tensors and any(outside.startswith(f"{module}.") for module in modules):
            whole = mx.concatenate([base.weight(piece.name).reshape(piece.shape) for piece in pieces])
            tensors[outside] = whole.reshape(-1, *pieces[0].outside[1:])


def _refuse_half_of_tie(replaced: Mapping[str, mx.array], base: Base, outside: str) -> None:
    """Under an update, peft replaces the one table of a model of tied embeddings, and with it both."""
    if not base.tied or not any(p.name in _TABLES for p in base.weights[outside]):
        return
    both = [replaced.get(name) for name in _TABLES]
    if both[0] is None or both[1] is None or not bool(mx.array_equal(both[0], both[1]).item()):
        raise ModelError(f"the adapter changes {outside} on one side of tied embeddings and updates it as well; PEFT "
                         "cannot hold that: fuse it (rave-mlx fuse) and export the result")  # fmt: skip


def _rows(
    config: AdapterConfig, weights: Mapping[str, mx.array], base: Base, tensors: dict[str, mx.array]
) -> dict[str, tuple[int, ...]]:
    """Rows of tables; peft keeps those of tied ones once."""
    rows = dict(config.rows)
    if base.tied and EMBED in rows:
        twin = weights.get(f"{HEAD}.rows")
        same = rows.get(HEAD) == rows[EMBED]
        if twin is None or (same and not bool(mx.array_equal(twin, weights[f"{EMBED}.rows"]).item())):
            raise ModelError("the adapter replaces rows of the embedding but not of the head, which peft ties; fuse it "
                             "(rave-mlx fuse) and export the result")  # fmt: skip
        if same:
            del rows[HEAD]
    names = {piece.name: module for module, pieces in base.modules.items() for piece in pieces}
    for table in rows:
        tensors[f"{names[table]}.{TOKENS}"] = weights[f"{table}.rows"]
    return {names[table]: ids for table, ids in rows.items()}
