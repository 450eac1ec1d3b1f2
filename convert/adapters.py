"""Adapters to and from the layout of the `peft` package.

PEFT knows modules by transformers' names, factors the other way round (`lora_A` (rank, in), `lora_B` (out, rank)) and
alpha = scale * rank. It has no place for pair gates and for the mutual mask: they travel in files of their own beside
PEFT's two. Without its mask an adapter reads worse, so exporting one says so.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.checkpoint import adapters, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.checkpoint.safetensors_reader import open_files
from rave_mlx.config import GateConfig, LMMConfig
from rave_mlx.convert import open as opening
from rave_mlx.convert.families import detect
from rave_mlx.convert.families.base import Family
from rave_mlx.errors import ConfigError, ModelError

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GATE_CONFIG, GATE_WEIGHTS = "pair_gate.json", "pair_gates.safetensors"
MASK = "mutual_mask.json"
_PREFIX = "base_model.model."
_LEAVES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_GATE = ".attention.gate."
_NEUTRAL: dict[str, Any] = {
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": False,
    "layers_to_transform": None,
    "lora_bias": False,
    "fan_in_fan_out": False,
}
"""Settings of PEFT's LoRA that an imported adapter must leave alone, with what leaves them alone."""


def export_peft(
    adapter: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Write an adapter as `peft.PeftModel.from_pretrained` reads it.

    Args:
        adapter: directory of the adapter.
        base: the model that it was trained on: a rave directory with the checkpoint's configuration, or a checkpoint.
        out: the directory to create.
        note: called with a line about what peft cannot do with it; None prints it to stderr.

    Raises:
        ModelError: when `out` exists, or a projection is part of a larger one in transformers (Phi-3).
    """
    folder = Path(adapter)
    config, weights = adapters.read_config(folder), adapters.read_weights(folder)
    if config.full:
        raise ModelError(f"{folder}: replaces the whole {' and '.join(config.full)}, which PEFT's LoRA cannot hold")
    names = _module_names(Path(base), config.modules)
    tensors, gates = {}, {}
    for name, x in weights.items():
        module, _, leaf = name.rpartition(".")
        if _GATE in name:
            gates[name] = x
        else:
            tensors[f"{_PREFIX}{names[module]}.{_LEAVES[leaf]}"] = x if leaf == "m" else x.T
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.scale * config.rank,
        "lora_dropout": config.dropout,
        "use_dora": config.kind == "dora",
        "target_modules": sorted(names[module] for module in config.modules),
        **_NEUTRAL,
    }
    with directory.new_directory(Path(out)) as part:
        mx.save_safetensors(str(part / PEFT_WEIGHTS), tensors, metadata={"format": "pt"})
        (part / PEFT_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if config.gate is not None:
            mx.save_safetensors(str(part / GATE_WEIGHTS), gates, metadata={"format": "mlx"})
            (part / GATE_CONFIG).write_text(json.dumps(config.gate.to_dict(), indent=2) + "\n", encoding="utf-8")
        if config.mask is not None:
            (part / MASK).write_text(json.dumps({"answer": config.answer}) + "\n", encoding="utf-8")
    if config.mask is not None:
        (note or _to_stderr)(
            f"{out}: was trained with the mutual mask; peft runs it with a causal one and reads worse, rave-mlx takes "
            f"the mask from {MASK}"
        )
    return Path(out)


def import_peft(adapter: str | os.PathLike[str], base: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a PEFT adapter (LoRA or DoRA) as an adapter directory; the inverse of `export_peft`.

    Raises:
        ConfigError: for another kind of adapter, or a setting of it that is not supported.
        ModelError: for tensors that belong to no projection of `base`.
    """
    folder = Path(adapter)
    file = folder / PEFT_CONFIG
    settings = directory.read_json(file)
    if settings.get("peft_type") != "LORA":
        raise ConfigError(f"{file}: peft_type {settings.get('peft_type')!r} is not supported, only 'LORA'")
    for key, neutral in _NEUTRAL.items():
        if settings.get(key, neutral) not in (neutral, None):
            raise ConfigError(f"{file}: {key} {settings[key]!r} is not supported, only {neutral!r}")
    if not (folder / PEFT_WEIGHTS).is_file():
        raise ModelError(f"{folder}: no {PEFT_WEIGHTS}; save the adapter as safetensors")
    found = dict(open_files([folder / PEFT_WEIGHTS]))
    family, config, hub = _base(Path(base))
    modules = {family.origin(f"{m}.weight", config, hub): m for m in _projections(config)}
    known = {o.name.removesuffix(".weight"): m for o, m in modules.items() if o.rows is None}
    weights = _canonical(found, known, family, folder)
    gate = folder / GATE_CONFIG
    rank, mask = int(settings["r"]), folder / MASK
    translated = AdapterConfig(
        rank=rank,
        scale=float(settings["lora_alpha"]) / rank,
        modules=tuple(sorted({name.rpartition(".")[0] for name in weights})),
        kind="dora" if settings.get("use_dora") else "lora",
        dropout=float(settings.get("lora_dropout", 0.0)),
        mask="mutual" if mask.is_file() else None,
        answer=_answer(mask) if mask.is_file() else None,
        gate=GateConfig.from_dict(directory.read_json(gate), str(gate)) if gate.is_file() else None,
    )
    if translated.gate is not None:
        weights |= dict(open_files([folder / GATE_WEIGHTS]))
    with directory.new_directory(Path(out)) as part:
        adapters.write(part, translated, weights)
    return Path(out)


def _answer(file: Path) -> int:
    """The token up to which images see their turn."""
    answer = directory.read_json(file).get("answer")
    if type(answer) is not int:
        raise ConfigError(f"{file}: answer must be a token id, found {answer!r}")
    return answer


def _to_stderr(text: str) -> None:
    print(f"rave-mlx: {text}", file=sys.stderr)


def _canonical(
    found: Mapping[str, mx.array], known: Mapping[str, str], family: Family, folder: Path
) -> dict[str, mx.array]:
    """PEFT's tensors under canonical names, factors turned round."""
    leaves = {theirs: ours for ours, theirs in _LEAVES.items()}
    weights, strange = {}, []
    for name, x in found.items():
        stem = name.removeprefix(_PREFIX)
        leaf = next((leaf for leaf in leaves if stem.endswith(f".{leaf}")), None)
        module = None if leaf is None else known.get(family.modern(f"{stem.removesuffix(f'.{leaf}')}.")[:-1])
        if leaf is None or module is None:
            strange.append(name)
        else:
            weights[f"{module}.{leaves[leaf]}"] = x if leaves[leaf] == "m" else x.T
    if strange:
        raise ModelError(f"{folder}: tensors of no projection of the base model: {', '.join(sorted(strange)[:10])}")
    return weights


def _module_names(base: Path, modules: tuple[str, ...]) -> dict[str, str]:
    """transformers' names of canonical modules."""
    family, config, hub = _base(base)
    origins = {module: family.origin(f"{module}.weight", config, hub) for module in modules}
    fused = [module for module, origin in origins.items() if origin.rows is not None]
    if fused:
        raise ModelError(f"{base}: transformers keeps {fused[0]} inside a larger projection; PEFT cannot hold its LoRA")
    return {module: origin.name.removesuffix(".weight") for module, origin in origins.items()}


def _base(base: Path) -> tuple[Family, LMMConfig, dict[str, Any]]:
    """Family, canonical configuration and Hub configuration of a model."""
    folder = opening.find(base)
    if directory.is_rave_directory(folder):
        file = folder / directory.HUB / directory.CONFIG
        if not file.is_file():
            raise ModelError(f"{folder}: has no {directory.HUB}/{directory.CONFIG}, which names transformers' modules")
        hub = directory.read_json(file)
        return detect(hub, str(file)), directory.read_config(folder), hub
    source = opening.read(folder)
    family = detect(source.config, str(folder / directory.CONFIG))
    return family, family.config(source), source.config


def _projections(config: LMMConfig) -> list[str]:
    """Canonical names of the decoder's projections."""
    inner = [f"attention.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
    return [f"decoder.layers.{i}.{name}" for i in range(config.text.num_layers) for name in inner]
