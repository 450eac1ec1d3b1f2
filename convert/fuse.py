"""An adapter becomes part of its base: W' = W + scale (A B)^T, for DoRA with its rows brought to their magnitudes.

Works tensor by tensor on what is stored, like a conversion. A packed matrix is unpacked, changed and packed again as
it was; what the adapter learned finer than the packing is lost then, so `dequantize` leaves such matrices unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint import adapters, build, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.checkpoint.safetensors_writer import Progress
from rave_mlx.config import LMMConfig, QuantizationConfig
from rave_mlx.convert import source as sources
from rave_mlx.convert.quantize import apply as pack

_GATE = ".attention.gate."


@dataclass(frozen=True)
class _Base:
    """A stored model: its configuration, its lazy tensors and its other files."""

    config: LMMConfig
    tensors: Mapping[str, mx.array]
    tokenizer: Path
    template: str
    hub: Mapping[str, bytes]
    name: str


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
        model: rave directory, checkpoint directory or Hub id of the base; None for the built-in model.
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
    # Opening the base and putting the adapter on it is the check that the two belong together.
    adapters.load_adapter(build.load(model, revision=revision), folder)
    base = _open(build.BUILT_IN if model is None else sources.find(model, revision))
    fused = replace(adapters.masked(base.config, config, folder), gate=config.gate or base.config.gate)
    packing = base.config.quantization
    if dequantize and packing is not None:
        changed: dict[str, None] = dict.fromkeys((*config.modules, *config.full))
        packing = replace(packing, layers={**packing.layers, **changed})
    fused = replace(fused, quantization=packing)
    directory.write(
        target,
        fused,
        _fused(base, config, weights, packing, dequantize),
        tokenizer=base.tokenizer,
        template=base.template,
        card=_card(base, config, folder),
        hub=base.hub,
        progress=progress,
    )
    return target


def _fused(
    base: _Base,
    config: AdapterConfig,
    weights: Mapping[str, mx.array],
    packing: QuantizationConfig | None,
    dequantize: bool,
) -> Iterator[tuple[str, mx.array]]:
    """The tensors of the fused model, lazy."""
    replaced = {name: x for name, x in weights.items() if _GATE in name or name.partition(".")[0] in config.full}
    gone = {f"{module}.{part}" for module in config.modules for part in ("scales", "biases")}
    for name, tensor in base.tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and module in config.modules:
            plain = _plain(module, base)
            update = _update(plain.astype(mx.float32), module, config, weights)
            stored = tensor.dtype if mx.issubdtype(tensor.dtype, mx.floating) else mx.float16
            if packing is None or packing.of(module) is None or dequantize:
                yield name, update.astype(stored)
            else:
                yield from pack([(name, update)], packing)
        elif name in gone or name.partition(".")[0] in config.full or (_GATE in name and config.gate is not None):
            continue
        else:
            yield name, tensor
    yield from replaced.items()


def _plain(module: str, base: _Base) -> mx.array:
    """The matrix of a projection, unpacked where it is packed."""
    weight, scales = base.tensors[f"{module}.weight"], base.tensors.get(f"{module}.scales")
    setting = None if base.config.quantization is None else base.config.quantization.of(module)
    if scales is None or setting is None:
        return weight
    return build.dequantize(weight, scales, base.tensors.get(f"{module}.biases"), setting)


def _update(weight: mx.array, module: str, config: AdapterConfig, weights: Mapping[str, mx.array]) -> mx.array:
    """The matrix (out, in) with its update, in float32."""
    first, second = (weights[f"{module}.{leaf}"].astype(mx.float32) for leaf in ("lora_a", "lora_b"))
    changed = weight + config.scale * (first @ second).T
    if config.kind == "lora":
        return changed
    magnitude = weights[f"{module}.m"].astype(mx.float32) / mx.linalg.norm(changed, axis=1)
    return magnitude[:, None] * changed


def _open(folder: Path) -> _Base:
    if directory.is_rave_directory(folder):
        kept = folder / directory.HUB
        hub = {file.name: file.read_bytes() for file in sorted(kept.iterdir())} if kept.is_dir() else {}
        template = (folder / directory.TEMPLATE).read_text(encoding="utf-8")
        tensors = directory.open_tensors(folder)
        return _Base(directory.read_config(folder), tensors, folder / directory.TOKENIZER, template, hub, folder.name)
    from rave_mlx.convert import to_memory

    source = sources.read(folder)
    lmm, found = to_memory(folder)
    return _Base(lmm.config, found, source.tokenizer, lmm.template.source, source.hub_files(), source.name)


def _card(base: _Base, config: AdapterConfig, adapter: Path) -> str:
    """The model card of a fused model."""
    gate = "none" if config.gate is None else f"rank {config.gate.rank}"
    return (
        f"---\nlibrary_name: rave-mlx\npipeline_tag: image-text-to-text\n---\n\n# {base.name} with {adapter.name}\n\n"
        f"`{base.name}` with the adapter `{adapter.name}` built in: {config.kind} of rank {config.rank} on "
        f"{len(config.modules)} projections, scale {config.scale:g}; gates of the adapter: {gate}; parts replaced as "
        f"a whole: {', '.join(config.full) or 'none'}.\n"
    )
