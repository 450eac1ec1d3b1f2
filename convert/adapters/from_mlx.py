"""An adapter of mlx-lm, or of mlx-vlm from 0.7 on, becomes one of this package.

Their layout is the nearest: `MODULE.lora_a` (in, rank) and `MODULE.lora_b` (rank, out), under the names that they give
modules. An update of the embedding of a model of tied embeddings holds for the head as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.checkpoint import adapters, directory
from rave_mlx.checkpoint.adapter_config import CONFIG, EMBED, HEAD, AdapterConfig
from rave_mlx.convert.adapters.base import Base
from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError, ModelError

_LEAVES = ("lora_a", "lora_b", "m")


def is_mlx(data: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is mlx-lm's or mlx-vlm's."""
    return "fine_tune_type" in data or "lora_parameters" in data or {"rank", "alpha"} <= set(data)


def from_mlx(folder: Path, base: Base) -> tuple[AdapterConfig, dict[str, mx.array]]:
    """The configuration and the canonical tensors, lazy, of an adapter that mlx-lm or mlx-vlm trained.

    Args:
        folder: the adapter's directory.
        base: the model that it is for.

    Raises:
        ConfigError: for one that holds a whole model, or whose scale is not known.
        ModelError: for tensors that belong to nothing in `base`, have another shape, or are missing.
    """
    file = folder / CONFIG
    kind, rank, scale, dropout = _settings(directory.read_json(file), file)
    weights: dict[str, mx.array] = {}
    strange = []
    for key, x in adapters.read_weights(folder).items():
        own, _, leaf = key.rpartition(".")
        pieces = base.modules.get(base.family.modern(f"{own}.")[:-1], ())
        if not pieces or leaf not in _LEAVES or (leaf == "m" and kind == "lora"):
            strange.append(key)
        for piece in pieces:
            turned = piece.of(x.T).T if leaf == "lora_b" else piece.of(x) if leaf == "m" else x
            weights[f"{piece.name}.{leaf}"] = turned
    if any(".switch_mlp." in key or key.endswith((".mlp.gate.lora_a", ".mlp.gate.lora_b")) for key in strange):
        raise ModelError(
            f"{folder}: adapts experts, or what chooses them ({min(strange)}), which is not supported; fuse it with "
            "mlx_lm.fuse and give the result as --model"
        )
    if strange:
        raise ModelError(f"{folder}: tensors of no projection of the base model: {', '.join(sorted(strange)[:10])}")
    if kind == "dora" and f"{EMBED}.m" in weights:
        raise ConfigError(f"{file}: DoRA is not supported on the embedding")
    if base.tied and f"{EMBED}.lora_a" in weights and f"{EMBED}.lora_b" in weights:
        weights |= {f"{HEAD}.lora_a": weights[f"{EMBED}.lora_b"].T, f"{HEAD}.lora_b": weights[f"{EMBED}.lora_a"].T}
    modules = tuple(sorted({name.rpartition(".")[0] for name in weights}))
    directory.check_tensors(
        {name: x.shape for name, x in weights.items()}, _expected(modules, kind, rank, base), str(folder)
    )
    return AdapterConfig(rank=rank, scale=scale, modules=modules, kind=kind, dropout=dropout), weights


def _settings(data: Mapping[str, Any], file: Path) -> tuple[Any, int, float, float]:
    """Kind, rank, scale and dropout."""
    keys = Keys(data, str(file))
    kind = keys.get("fine_tune_type", str, "lora")
    if kind not in ("lora", "dora"):
        raise ConfigError(
            f"{file}: fine_tune_type {kind!r} is not supported, only 'lora' and 'dora'; fuse it with mlx_lm.fuse and "
            "give the result as --model"
        )
    if "lora_parameters" not in data:
        raise ConfigError(
            f"{file}: is an adapter of mlx-vlm before 0.7, whose alpha is the scale itself and later is divided by the "
            "rank; fuse it with the mlx-vlm that trained it and give the result as --model"
        )
    inner = keys.section("lora_parameters")
    return kind, inner.need("rank", int), inner.need("scale", float), inner.get("dropout", float, 0.0)


def _expected(modules: tuple[str, ...], kind: str, rank: int, base: Base) -> dict[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {}
    for module in modules:
        outputs, inputs = base.shapes[f"{module}.weight"]
        if module == EMBED:
            outputs, inputs = inputs, outputs
        expected |= {f"{module}.lora_a": (inputs, rank), f"{module}.lora_b": (rank, outputs)}
        if kind == "dora":
            expected[f"{module}.m"] = (outputs,)
    return expected
