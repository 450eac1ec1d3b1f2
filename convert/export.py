"""A rave directory back into the Hub's layout, for transformers and every tool that reads it.

Pair gates have no place in transformers: their tensors are exported beside the others (transformers names them and
goes on without them) and their shape under a key of its own in config.json, so that this package reads them back.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx

from rave_mlx import store
from rave_mlx.convert.families import FAMILIES
from rave_mlx.errors import ModelError


def export(model: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write the rave directory `model` as a checkpoint that `transformers.from_pretrained` opens.

    Raises:
        ModelError: when `out` exists, the model is quantized, or its family has no exporter.
    """
    folder, target = Path(model), Path(out)
    config = store.read_config(folder)
    if config.quantization is not None:
        raise ModelError(f"{folder}: is quantized; export the model it was quantized from")
    family = FAMILIES[config.family]
    tensors = {}
    for name, tensor in store.read_tensors(folder).items():
        tensors[f"{family.modern_name(name)}"] = family.foreign_tensor(name, tensor, config)
    with store.new_directory(target) as part:
        mx.save_safetensors(str(part / "model.safetensors"), tensors, metadata={"format": "pt"})
        for name, data in family.foreign_config(config).items():
            (part / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        for name in (store.TOKENIZER, store.TEMPLATE):
            shutil.copyfile(folder / name, part / name)
    return target
