"""Low-rank updates as PEFT keeps them: one of each module of transformers, which may be several of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx.checkpoint.adapter_config import EMBED, AdapterConfig
from rave_mlx.convert.adapters.base import Base, Piece
from rave_mlx.errors import ModelError


@dataclass(frozen=True)
class Update:
    """The update of a module.

    Attributes:
        module: transformers' name.
        rank, scale: of its factors.
        tensors: by peft's name, without its prefix.
    """

    module: str
    rank: int
    scale: float
    tensors: dict[str, mx.array]


def updates(config: AdapterConfig, weights: Mapping[str, mx.array], base: Base) -> list[Update]:
    """The updates of an adapter, in PEFT's layout.

    Raises:
        ModelError: for a module that transformers does not have as one, or DoRA on a part of one.
    """
    found = []
    waiting = set(config.modules)
    for module, pieces in base.modules.items():
        adapted = [piece for piece in pieces if piece.name in waiting]
        waiting -= {piece.name for piece in adapted}
        if adapted and adapted[0].name == EMBED:
            found.append(_embedding(module, config, weights))
        elif adapted:
            found.append(_linear(module, pieces, adapted, config, weights))
    if waiting:
        raise ModelError(f"{base.path}: transformers has no module that is {min(waiting)}; PEFT cannot hold its update")
    return found


def _embedding(module: str, config: AdapterConfig, weights: Mapping[str, mx.array]) -> Update:
    a, b = weights[f"{EMBED}.lora_a"].T, weights[f"{EMBED}.lora_b"].T
    tensors = {f"{module}.lora_embedding_A": a, f"{module}.lora_embedding_B": b}
    return Update(module, config.rank_of(EMBED), config.scale_of(EMBED), tensors)


def _linear(
    module: str,
    pieces: tuple[Piece, ...],
    adapted: list[Piece],
    config: AdapterConfig,
    weights: Mapping[str, mx.array],
) -> Update:
    """The update of a linear layer or a convolution; of a fused one, those of its parts side by side."""
    first = adapted[0].name
    scale = config.scale_of(first)
    if len(pieces) == 1 or _one_update(pieces, adapted, config, weights):
        down = weights[f"{first}.lora_a"].T
        up = mx.concatenate([weights[f"{p.name}.lora_b"].T for p in pieces])
    else:
        down, up = _side_by_side(pieces, config, weights, scale)
    rank, inner = down.shape[0], pieces[0].outside[1:]
    ones = (1,) * (len(inner) - 1)
    tensors = {
        f"{module}.lora_A.weight": down.reshape(rank, *inner),
        f"{module}.lora_B.weight": up.reshape(-1, rank, *ones),
    }
    if config.update_bias:
        tensors[f"{module}.lora_B.bias"] = _vector("lora_bias", pieces, config, weights, scale)
    if config.kind == "dora":
        if len(adapted) < len(pieces):
            raise ModelError(f"{module}: DoRA on a part of it ({first}); PEFT has DoRA on the whole module only")
        length = mx.concatenate([weights[f"{p.name}.m"] for p in pieces])
        tensors[f"{module}.lora_magnitude_vector"] = length.reshape(1, -1, *ones) if ones else length
    return Update(module, rank, scale, tensors)


def _one_update(
    pieces: tuple[Piece, ...], adapted: list[Piece], config: AdapterConfig, weights: Mapping[str, mx.array]
) -> bool:
    """Whether the parts of a fused module have their first factor in common, as one update of it gives them."""
    if len(adapted) < len(pieces) or len({config.scale_of(p.name) for p in pieces}) > 1:
        return False
    first, *rest = (weights[f"{p.name}.lora_a"] for p in pieces)
    return all(x.shape == first.shape and bool(mx.array_equal(x, first).item()) for x in rest)


def _side_by_side(
    pieces: tuple[Piece, ...], config: AdapterConfig, weights: Mapping[str, mx.array], scale: float
) -> tuple[mx.array, mx.array]:
    """Factors whose product is that of every part in the part's own rows: first ones stacked, second ones in blocks."""
    downs, blocks = [], []
    ranks = {p.name: config.rank_of(p.name) if f"{p.name}.lora_a" in weights else 0 for p in pieces}
    total, before = sum(ranks.values()), 0
    for piece in pieces:
        rank, rows = ranks[piece.name], piece.shape[0]
        if not rank:
            blocks.append(mx.zeros((rows, total)))
            continue
        downs.append(weights[f"{piece.name}.lora_a"].T)
        up = weights[f"{piece.name}.lora_b"].T * (config.scale_of(piece.name) / scale)
        blocks.append(mx.pad(up, [(0, 0), (before, total - before - rank)]))
        before += rank
    return mx.concatenate(downs), mx.concatenate(blocks)


def _vector(
    leaf: str, pieces: tuple[Piece, ...], config: AdapterConfig, weights: Mapping[str, mx.array], scale: float
) -> mx.array:
    """A vector of every part, zero where there is none, in the scale of the whole."""
    parts = []
    for piece in pieces:
        found = weights.get(f"{piece.name}.{leaf}")
        share = config.scale_of(piece.name) / scale
        parts.append(mx.zeros(piece.shape[:1]) if found is None else found * share)
    return mx.concatenate(parts)
