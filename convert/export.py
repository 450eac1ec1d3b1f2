"""A rave directory back into the Hub's layout, for transformers and every tool that reads it.

The configuration files of the checkpoint that a rave directory was converted from lie in its `hub/` folder and go
back as they were. Pair gates have no place in transformers: their tensors are exported beside the others
(transformers names them and goes on without them) and their shape under a key of its own in config.json, so that this
package reads them back.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx

from rave_mlx import store
from rave_mlx.convert.families import detect
from rave_mlx.convert.families.base import GATE_KEY
from rave_mlx.convert.translate import untranslate
from rave_mlx.errors import ModelError


def export(model: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write the rave directory `model` as a checkpoint that `transformers.from_pretrained` opens.

    Raises:
        ModelError: when `out` exists, the model is quantized, or it does not come from such a checkpoint.
    """
    folder, target = Path(model), Path(out)
    config = store.read_config(folder)
    if config.quantization is not None:
        raise ModelError(f"{folder}: is quantized; export the model it was quantized from")
    kept = folder / store.HUB
    if not (kept / store.CONFIG).is_file():
        raise ModelError(f"{folder}: has no {store.HUB}/{store.CONFIG}, the configuration to export with")
    hub = store.read_json(kept / store.CONFIG)
    if config.gate is not None:
        hub[GATE_KEY] = config.gate.to_dict()
    family = detect(hub, str(kept / store.CONFIG))
    tensors = dict(untranslate(store.read_tensors(folder).items(), family, config, hub))
    with store.new_directory(target) as part:
        for file in kept.iterdir():
            shutil.copyfile(file, part / file.name)
        (part / store.CONFIG).write_text(json.dumps(hub, indent=2) + "\n", encoding="utf-8")
        mx.save_safetensors(str(part / "model.safetensors"), tensors, metadata={"format": "pt"})
        for name in (store.TOKENIZER, store.TEMPLATE):
            shutil.copyfile(folder / name, part / name)
    return target
