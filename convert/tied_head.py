"""The output head of a checkpoint whose configuration says that it is the embedding, again.

transformers (5.24, `PreTrainedModel.tie_weights`) goes by the file where the two disagree: a head that differs from the
embedding is used, one that is equal is tied, and a head alone serves as the embedding, too. So fine-tuning that trained
head and embedding and left the setting as it was gives the model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx

from rave_mlx.checkpoint.packed import PARTS
from rave_mlx.config import LMMConfig
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.source import Source


def settle_head(
    source: Source, family: Family, config: LMMConfig, names: Mapping[str, str]
) -> tuple[LMMConfig, dict[str, str]]:
    """The configuration that says what the file holds, and the names without a head that is only a copy.

    Reads the head and the embedding where both are there. Placeholders for tensors, which have no values, count as
    equal.

    Args:
        source: the checkpoint.
        family: its family.
        config: its canonical configuration.
        names: a tensor's name in the checkpoint by its modern name.
    """
    kept = dict(names)
    if not config.text.tie_embeddings:
        return config, kept
    head, embedding = (
        {part: name.removesuffix("weight") + part for part in PARTS}
        for name in (family.origin(f"decoder.{n}.weight", config, source.config).name for n in ("head", "embed"))
    )
    if head["weight"] not in kept:
        return config, kept
    if embedding["weight"] in kept and not _equal(source, kept, head, embedding):
        return replace(config, text=replace(config.text, tie_embeddings=False)), kept
    for part in PARTS:
        copy = kept.pop(head[part], None)
        if copy is not None:
            kept.setdefault(embedding[part], copy)
    return config, kept


def _equal(source: Source, names: Mapping[str, str], head: Mapping[str, str], embedding: Mapping[str, str]) -> bool:
    """Whether two matrices, plain or packed, have the same shape and values."""
    if {part for part in PARTS if head[part] in names} != {part for part in PARTS if embedding[part] in names}:
        return False
    for part in (part for part in PARTS if head[part] in names):
        first, second = source.tensors[names[head[part]]], source.tensors[names[embedding[part]]]
        # Files of mixed types are read in one type; 32 bits hold the numbers of each.
        if first.dtype != second.dtype and part != "weight":
            return False
        if first.dtype != second.dtype:
            first, second = first.astype(mx.float32), second.astype(mx.float32)
        if first.shape != second.shape or not mx.array_equal(first, second).item():
            return False
    return True
