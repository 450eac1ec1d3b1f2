"""Canonical tensors back under transformers' names and in its shapes, for an export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import mlx.core as mx

from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin


def untranslate(
    tensors: Iterable[tuple[str, mx.array]], family: Family, config: LMMConfig, hub: HubConfig
) -> Iterator[tuple[str, mx.array]]:
    """Canonical tensors, lazy, as they lie in a checkpoint of transformers 5; the inverse of `Translation`.

    Args:
        tensors: by canonical name.
        family, config: of the model.
        hub: the checkpoint's config.json.
    """
    waiting = dict(tensors)
    origins = {name: family.origin(name, config, hub) for name in waiting}
    missing = Counter(origin.name for origin in origins.values())
    pieces: dict[str, dict[int, mx.array]] = {}
    for name, origin in origins.items():
        tensor = waiting.pop(name)
        if origin.rest:
            yield from _spread(tensor, origin)
            continue
        if origin.rows is None:
            yield origin.name, tensor if origin.shape is None else tensor.reshape(origin.shape)
            continue
        pieces.setdefault(origin.name, {})[origin.rows[0]] = tensor
        missing[origin.name] -= 1
        if not missing[origin.name]:
            found = pieces.pop(origin.name)
            yield origin.name, mx.concatenate([found[first] for first in sorted(found)])


def _spread(tensor: mx.array, origin: Origin) -> Iterator[tuple[str, mx.array]]:
    """The tensors that a canonical one lies in; their rows that it does not use are zero."""
    start = 0
    for piece in (origin, *origin.rest):
        assert piece.shape is not None
        used = piece.shape[0] if piece.rows is None else piece.rows[1] - piece.rows[0]
        unused = mx.zeros((piece.shape[0] - used, *piece.shape[1:]), tensor.dtype)
        yield piece.name, mx.concatenate([tensor[start : start + used], unused])
        start += used
