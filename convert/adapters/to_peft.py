"""An adapter of this package goes to PEFT: two files that `peft.PeftModel.from_pretrained` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.checkpoint import adapters, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.checkpoint.directory import GATE
from rave_mlx.convert.adapters.base import Base, open_base
from rave_mlx.convert.adapters.opening import check_fits
from rave_mlx.convert.adapters.peft_files import GATE_CONFIG, GATE_WEIGHTS, MASK, PEFT_CONFIG, PEFT_WEIGHTS, PREFIX
from rave_mlx.convert.adapters.updates_to_peft import Update, updates
from rave_mlx.convert.adapters.weights_to_peft import Whole, whole_weights
from rave_mlx.convert.notes import print_note
from rave_mlx.convert.open import find
from rave_mlx.errors import ModelError


def export_peft(
    adapter: str | os.PathLike[str],
    base: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    note: Callable[[str], None] = print_note,
) -> Path:
    """Write an adapter as `peft.PeftModel.from_pretrained` reads it.

    Args:
        adapter: directory of the adapter.
        base: the model that it was trained on: a rave directory with the checkpoint's configuration, or a checkpoint.
        out: the directory to create.
        note: called with a line about what peft cannot do with it.

    Raises:
        ModelError: when `out` exists, the adapter was trained on another model, or peft cannot hold what it changes.
    """
    folder, target = Path(adapter).expanduser(), Path(out)
    directory.check_new(target)
    config, weights = adapters.read_config(folder), adapters.read_weights(folder)
    place = find(base)
    if config.sink_gate is not None:
        raise ModelError(f"{folder}: has sink gates (LSG), which peft has no place for; use the adapter with rave-mlx")
    if config.base is not None:
        check_fits(place, folder, config, weights)
    model = open_base(place)
    gates = {name: x for name, x in weights.items() if GATE in name}
    changed = updates(config, weights, model)
    whole = whole_weights(config, weights, model, {update.module for update in changed})
    named = {name: x for update in changed for name, x in update.tensors.items()} | whole.tensors
    # peft renames what it reads as transformers renames a checkpoint.
    tensors = {f"{PREFIX}{model.family.exported(name)}": x for name, x in named.items()}
    with directory.new_directory(target) as part:
        mx.save_safetensors(str(part / PEFT_WEIGHTS), tensors, metadata={"format": "pt"})
        _write_json(part / PEFT_CONFIG, _settings(config, changed, whole, model))
        if config.gate is not None:
            mx.save_safetensors(str(part / GATE_WEIGHTS), gates, metadata={"format": "mlx"})
            _write_json(part / GATE_CONFIG, config.gate.to_dict())
        if config.mask is not None:
            _write_json(part / MASK, {"answer": config.answer})
    if config.mask is not None:
        note(
            f"{out}: was trained with the mutual mask; peft runs it with a causal one and reads worse, rave-mlx takes "
            f"the mask from {MASK}"
        )
    return target


def _settings(config: AdapterConfig, changed: list[Update], whole: Whole, base: Base) -> dict[str, Any]:
    """PEFT's settings of the same adapter; what is not named has peft's default."""
    alpha = config.scale * config.rank
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name if base.commit else str(base.path),
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "use_dora": config.kind == "dora",
        "lora_bias": config.update_bias,
        "bias": "all" if whole.biases else "none",
        "target_modules": sorted(update.module for update in changed),
        "rank_pattern": {u.module: u.rank for u in changed if u.rank != config.rank},
        "alpha_pattern": {u.module: u.scale * u.rank for u in changed if u.scale * u.rank != alpha},
        "modules_to_save": list(whole.modules) or None,
        "trainable_token_indices": {module: list(ids) for module, ids in whole.tokens.items()} or None,
    }


def _write_json(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
