"""The files of a PEFT adapter directory, and the names that peft gives its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint.safetensors_reader import open_files
from rave_mlx.convert.families.base import Family
from rave_mlx.errors import ModelError

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GATE_CONFIG, GATE_WEIGHTS = "pair_gate.json", "pair_gates.safetensors"
MASK = "mutual_mask.json"
PREFIX = "base_model.model."
"""What peft puts before transformers' names."""
INNER = ".base_layer"
"""Where peft keeps the layer under an update."""

UPDATE = {
    "lora_A.weight": "lora_a",
    "lora_B.weight": "lora_b",
    "lora_B.bias": "lora_bias",
    "lora_magnitude_vector": "m",
}
"""peft's leaves of an adapted projection, and ours."""
EMBEDDING = {"lora_embedding_A": "lora_a", "lora_embedding_B": "lora_b"}
TOKENS = "token_adapter.trainable_tokens_delta"
_VELORA = "lora_velora_embed"
"""Statistics of VeLoRA's backward pass."""

_LEAF = re.compile(rf"(.+)\.({'|'.join(map(re.escape, (*UPDATE, *EMBEDDING, TOKENS, _VELORA)))})")


@dataclass(frozen=True)
class Named:
    """A tensor of a PEFT adapter.

    Attributes:
        key: its name in the file.
        own: its module, as the transformers version of its training called it.
        module: its module as transformers 5 calls it.
        leaf: what it is: one of `UPDATE`, `EMBEDDING`, `TOKENS`, or "" for a whole weight.
        weight: of a whole weight, its name in transformers 5.
        inner: whether the weight is one under an update, of the base model.
    """

    key: str
    own: str
    module: str
    leaf: str
    weight: str = ""
    inner: bool = False


def open_peft(folder: Path) -> Mapping[str, mx.array]:
    """The lazy tensors of a PEFT adapter.

    Raises:
        ModelError: when there are none, or only pickled ones.
    """
    file = folder / PEFT_WEIGHTS
    if file.is_file():
        return open_files([file])
    pickled = folder / "adapter_model.bin"
    if pickled.is_file():
        raise ModelError(
            f"{folder}: only pickled weights ({pickled.name}), which can run code and are never opened; load it with "
            "peft and save it again: model.save_pretrained(..., safe_serialization=True)"
        )
    raise ModelError(f"{folder}: no {PEFT_WEIGHTS}; the adapter is incomplete, download or save it again")


def parse(key: str, family: Family) -> Named | None:
    """What a tensor's name says; None for one that no answer depends on."""
    stem = key.removeprefix(PREFIX)
    found = _LEAF.fullmatch(stem)
    if found is not None:
        own, leaf = found[1], found[2]
        return None if leaf == _VELORA else Named(key, own, _modern(own, family), leaf)
    own, _, parameter = stem.rpartition(".")
    inner = own.endswith(INNER)
    own = own.removesuffix(INNER)
    name = f"{own}.{parameter}" if own else parameter
    weight = family.modern(name)
    return None if family.ignores(weight) else Named(key, own, _modern(own, family), "", weight, inner)


def own_name(module: str, named: Mapping[str, str]) -> str:
    """What the adapter's transformers version calls a module of transformers 5, by the prefixes that it uses."""
    for modern, own in named.items():
        if f"{module}.".startswith(modern):
            return own + module.removeprefix(modern)
    return module


def prefixes(names: list[Named], family: Family) -> dict[str, str]:
    """The adapter's own prefixes by those of transformers 5, where they differ."""
    used: dict[str, str] = {}
    for name in names:
        era = next(((own, modern) for own, modern in family.eras if f"{name.own}.".startswith(own)), None)
        if era is not None and era[0] != era[1]:
            used[era[1]] = era[0]
    return used


def _modern(own: str, family: Family) -> str:
    return family.modern(f"{own}.")[:-1]
