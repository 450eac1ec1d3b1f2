"""An adapter becomes part of its base: W' = W + scale (A B)^T, for DoRA with its rows brought to their magnitudes.

Works tensor by tensor on what is stored, like a conversion. A packed matrix is unpacked, changed and packed again as
it was; what the adapter learned finer than the packing is lost then, so `dequantize` leaves such matrices unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.checkpoint import adapters, build, directory, packed
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.checkpoint.directory import GATE
from rave_mlx.checkpoint.safetensors_writer import Progress
from rave_mlx.config import QuantizationConfig
from rave_mlx.convert.notes import print_note
from rave_mlx.convert.open import find, open_model, open_stored
from rave_mlx.convert.quantize import apply as pack
from rave_mlx.convert.stored import Stored


def fuse(
    model: str | os.PathLike[str] | None,
    adapter: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dequantize: bool = False,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a model with an adapter built in as a rave directory.

    Args:
        model: rave directory, checkpoint directory or Hub id of the base; None as for `load`.
        adapter: directory of the adapter.
        out: the directory to create.
        dequantize: leave changed matrices unpacked (float16) instead of packing them again.
        revision: branch, tag or commit of a Hub id.
        progress: called with the bytes written and the bytes in all.

    Raises:
        ConfigError, ModelError: for an adapter that is malformed or belongs to another base, or an `out` that exists.
    """
    target, folder = Path(out), Path(adapter).expanduser()
    directory.check_new(target)
    config, weights = adapters.read_config(folder), adapters.read_weights(folder)
    place = find(model, revision)
    _check_fits(place, folder, config, weights)
    base = open_stored(place)
    for line in base.notes:
        print_note(line)
    stored = base.lmm.config
    packing = stored.quantization
    if dequantize and packing is not None:
        changed: dict[str, None] = dict.fromkeys((*config.modules, *config.full))
        packing = replace(packing, layers={**packing.layers, **changed})
    fused = replace(adapters.masked(stored, config, folder), gate=config.gate or stored.gate, quantization=packing)
    directory.write(
        target,
        fused,
        _fused(base, config, weights, packing),
        tokenizer=base.tokenizer,
        template=base.lmm.template.source,
        card=_card(base, config, folder),
        hub=base.hub,
        progress=progress,
    )
    return target


def _check_fits(base: Path, folder: Path, config: AdapterConfig, weights: Mapping[str, mx.array]) -> None:
    """Open the base and put the adapter on it: the check that the two belong together.

    Raises:
        ModelError: when they do not.
    """
    backend.prepare()
    lmm, tensors = open_model(base)
    build.fill(lmm, tensors, None, str(base))
    adapters.put_on(lmm, config, weights, folder)


def _fused(
    base: Stored, config: AdapterConfig, weights: Mapping[str, mx.array], packing: QuantizationConfig | None
) -> Iterator[tuple[str, mx.array]]:
    """The tensors of the fused model, lazy; packed where `packing` says so."""
    waiting = dict(base.tensors)
    for name in list(waiting):
        module, _, leaf = name.rpartition(".")
        replaced = module.partition(".")[0] in config.full or (GATE in name and config.gate is not None)
        if name not in waiting or replaced:
            continue
        if leaf != "weight" or module not in config.modules:
            yield name, waiting.pop(name)
            continue
        parts = {part: waiting.pop(f"{module}.{part}") for part in packed.PARTS if f"{module}.{part}" in waiting}
        update = _update(_plain(module, parts, base.lmm.config.quantization), module, config, weights)
        if packing is not None and packing.of(module) is not None:
            yield from pack([(name, update)], packing)
        else:
            kept = mx.issubdtype(parts["weight"].dtype, mx.floating)
            yield name, update.astype(parts["weight"].dtype if kept else mx.float16)
    yield from ((n, x) for n, x in weights.items() if GATE in n or n.partition(".")[0] in config.full)


def _plain(module: str, parts: Mapping[str, mx.array], stored: QuantizationConfig | None) -> mx.array:
    """The matrix of a projection in float32, unpacked where it is packed."""
    setting = None if stored is None else stored.of(module)
    if "scales" not in parts or setting is None:
        return parts["weight"].astype(mx.float32)
    return packed.dequantize(parts["weight"], parts["scales"], parts.get("biases"), setting)


def _update(matrix: mx.array, module: str, config: AdapterConfig, weights: Mapping[str, mx.array]) -> mx.array:
    """The matrix (out, in) with its update, in float32."""
    first, second = (weights[f"{module}.{leaf}"].astype(mx.float32) for leaf in ("lora_a", "lora_b"))
    changed = matrix + config.scale * (first @ second).T
    if config.kind == "lora":
        return changed
    magnitude = weights[f"{module}.m"].astype(mx.float32) / mx.linalg.norm(changed, axis=1)
    return magnitude[:, None] * changed


def _card(base: Stored, config: AdapterConfig, adapter: Path) -> str:
    """The model card of a fused model."""
    gate = "none" if config.gate is None else f"rank {config.gate.rank}"
    return (
        f"---\nlibrary_name: rave-mlx\npipeline_tag: image-text-to-text\n---\n\n# {base.name} with {adapter.name}\n\n"
        f"`{base.name}` with the adapter `{adapter.name}` built in: {config.kind} of rank {config.rank} on "
        f"{len(config.modules)} projections, scale {config.scale:g}; gates of the adapter: {gate}; parts replaced as "
        f"a whole: {', '.join(config.full) or 'none'}.\n"
    )
