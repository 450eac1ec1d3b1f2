"""A rave directory back into the Hub's layout, for transformers and every tool that reads it.

The configuration files of the checkpoint that a rave directory was converted from lie in its `hub/` folder and go back
as they were, but for what config.json says and does not hold of these weights. Pair gates have no place in
transformers: their tensors are exported beside the others (transformers names them and goes on without them) and their
shape under a key of its own in config.json, so that this package reads them back. The mutual mask of a family that has
it is part of its code; where an adapter brought it, no file could say so, and such a model is not exported. Tensors are
read, translated and written one after the other.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.links import check_links
from rave_mlx.checkpoint.packed import expand
from rave_mlx.checkpoint.safetensors_writer import write_files
from rave_mlx.config import LMMConfig
from rave_mlx.convert.expert_tensors import written
from rave_mlx.convert.families import detect
from rave_mlx.convert.families.base import GATE_KEY
from rave_mlx.convert.stored import read_rave_directory
from rave_mlx.convert.unchanged import Unchanged
from rave_mlx.convert.untranslate import untranslate
from rave_mlx.errors import ModelError

_MUTUAL = {"aki"}
"""Families whose own mask is the mutual one."""
_TIE = "tie_word_embeddings"


def export(model: str | os.PathLike[str], out: str | os.PathLike[str], *, dequantize: bool = False) -> Path:
    """Write the rave directory `model` as a checkpoint that `transformers.from_pretrained` opens.

    Args:
        model: the rave directory.
        out: the directory to create.
        dequantize: write a quantized model as the numbers that its packed weights stand for, in the type of its
            norms. What quantization lost does not come back.

    Raises:
        ModelError: when `out` exists, the model is quantized and `dequantize` is not asked for, or it does not come
            from such a checkpoint, or has a mask that transformers' model of this family lacks.
    """
    folder, target = Path(model), Path(out)
    directory.check_new(target)
    config = directory.read_config(folder)
    _refuse(folder, config, dequantize=dequantize)
    check_links(folder)
    unchanged = Unchanged(folder)
    stored = read_rave_directory(folder)
    hub = json.loads(stored.hub[directory.CONFIG])
    family = detect(hub, str(folder / directory.HUB / directory.CONFIG))
    named: Iterable[tuple[str, mx.array]] = stored.tensors
    _forget_quantization(hub)
    if config.quantization is not None:
        tensors = dict(stored.tensors)
        named = expand(tensors, config.quantization, tensors["decoder.norm.weight"].dtype)
    if not config.text.tie_embeddings:
        _untie(hub)
    hub |= {name: None for name in family.unexported if name in hub}
    if config.gate is not None:
        hub[GATE_KEY] = config.gate.to_dict()
    with directory.new_directory(target) as part:
        for name, content in stored.hub.items():
            (part / name).write_bytes(content)
        (part / directory.CONFIG).write_text(json.dumps(hub, indent=2) + "\n", encoding="utf-8")
        outside = untranslate(named, family, config, hub)
        if config.text.experts is not None:
            outside = written(outside, config.text, family.experts)
        write_files(part, ((family.exported(name), x) for name, x in outside), metadata="pt")
        shutil.copyfile(stored.tokenizer, part / directory.TOKENIZER)
        (part / directory.TEMPLATE).write_text(stored.lmm.template.source, encoding="utf-8")
        unchanged.check()
    return target


def _refuse(folder: Path, config: LMMConfig, *, dequantize: bool) -> None:
    """ModelError for what a checkpoint of transformers cannot be."""
    if config.quantization is not None and not dequantize:
        raise ModelError(
            f"{folder}: is quantized, in a way that transformers does not read; export the model that it was "
            "quantized from, or write its weights in 16 bits (--dequantize, dequantize=True)"
        )
    if config.sink_gate is not None:
        raise ModelError(
            f"{folder}: has sink gates (LSG), which transformers' {config.family} does not have: its visual keys would "
            "not be scaled; use the rave directory itself"
        )
    if config.mask == "mutual" and config.family not in _MUTUAL:
        raise ModelError(
            f"{folder}: was trained with the mutual mask, which transformers' {config.family} does not have: its "
            "images would not see the question; use the rave directory itself"
        )
    if not (folder / directory.HUB / directory.CONFIG).is_file():
        raise ModelError(f"{folder}: has no {directory.HUB}/{directory.CONFIG}, the configuration to export with")


def _untie(hub: MutableMapping[str, Any]) -> None:
    """Say in config.json that the head is one of its own, where it says that it is the embedding.

    transformers goes by the weights; other programs go by what stands there.
    """
    for section in (hub, hub.get("text_config")):
        if isinstance(section, MutableMapping) and section.get(_TIE):
            section[_TIE] = False


def _forget_quantization(hub: MutableMapping[str, Any]) -> None:
    """Drop what config.json says about packed weights: those that are written are plain."""
    for section in (hub, hub.get("text_config")):
        if isinstance(section, MutableMapping):
            for key in ("quantization", "quantization_config", "compression_config"):
                section.pop(key, None)
