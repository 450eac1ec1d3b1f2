"""An adapter becomes part of its base; what becomes of each weight is in `merging`.

Works tensor by tensor on what is stored, like a conversion. A packed matrix is unpacked, changed and packed again as
it was; what the adapter learned finer than the packing is lost then, so `dequantize` leaves such matrices unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint import adapters, directory, packed
from rave_mlx.checkpoint.adapter_config import EMBED, HEAD, AdapterConfig
from rave_mlx.checkpoint.directory import GATE, SINK_GATE, is_gate
from rave_mlx.checkpoint.safetensors_writer import Progress
from rave_mlx.config import LMMConfig, QuantizationConfig
from rave_mlx.convert.adapters import check_fits, open_adapter
from rave_mlx.convert.merging import changed_weights, merged
from rave_mlx.convert.open import find, open_stored
from rave_mlx.convert.quantize import apply as pack
from rave_mlx.convert.stored import Stored
from rave_mlx.convert.unchanged import Unchanged


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
        adapter: directory of the adapter: rave-mlx's own, PEFT's or mlx-lm's.
        out: the directory to create.
        dequantize: leave changed matrices unpacked (float16) instead of packing them again.
        revision: branch, tag or commit of a Hub id.
        progress: called with the bytes written and the bytes in all.

    Raises:
        ConfigError, ModelError: for an adapter that is malformed or belongs to another base, or an `out` that exists.
    """
    target, folder = Path(out), Path(adapter).expanduser()
    directory.check_new(target)
    place = find(model, revision)
    unchanged = Unchanged(place, folder)
    config, weights = open_adapter(folder, place)
    check_fits(place, folder, config, weights)
    base = open_stored(place)
    fused, packing = _configuration(base, config, folder, dequantize=dequantize)
    directory.write(
        target,
        fused,
        _fused(base, config, weights, packing),
        tokenizer=base.tokenizer,
        template=base.lmm.template.source,
        card=_card(base, config, folder),
        hub=base.hub,
        finder_files=base.finder_files,
        progress=progress,
        finish=lambda: unchanged.check(base.files),
    )
    return target


def _configuration(
    base: Stored, config: AdapterConfig, adapter: Path, *, dequantize: bool
) -> tuple[LMMConfig, QuantizationConfig | None]:
    """The configuration of the fused model, and how its weights are packed."""
    stored = base.lmm.config
    text, packing = stored.text, stored.quantization
    if config.splits_tie and text.tie_embeddings:
        text = replace(text, tie_embeddings=False)
        if packing is not None:
            packing = replace(packing, layers={**packing.layers, HEAD: _flat(packing.of(EMBED))})
    if dequantize and packing is not None:
        names = (*config.modules, *config.rows, *config.full, *(n.rpartition(".")[0] for n in config.replaced))
        changed: dict[str, None] = dict.fromkeys(names)
        packing = replace(packing, layers={**packing.layers, **changed})
    masked = adapters.masked(replace(stored, text=text), config, adapter)
    gate, sink_gate = config.gate or stored.gate, config.sink_gate or stored.sink_gate
    return replace(masked, gate=gate, sink_gate=sink_gate, quantization=packing), packing


def _flat(setting: QuantizationConfig | None) -> QuantizationConfig | None:
    return None if setting is None else replace(setting, layers={})


def _fused(
    base: Stored, config: AdapterConfig, weights: Mapping[str, mx.array], packing: QuantizationConfig | None
) -> Iterator[tuple[str, mx.array]]:
    """The tensors of the fused model, lazy; packed where `packing` says so."""
    waiting = dict(base.tensors)
    changed = changed_weights(config)
    if config.splits_tie and base.lmm.config.text.tie_embeddings:
        waiting |= {f"{HEAD}.{p}": waiting[f"{EMBED}.{p}"] for p in packed.PARTS if f"{EMBED}.{p}" in waiting}
    for name in sorted(changed - set(waiting)):
        yield name, merged(name, None, config, weights)
    for name in list(waiting):
        module, _, leaf = name.rpartition(".")
        replaced = module.partition(".")[0] in config.full
        replaced |= GATE in name and config.gate is not None
        replaced |= SINK_GATE in name and config.sink_gate is not None
        if name not in waiting or replaced:
            continue
        if name not in changed:
            yield name, waiting.pop(name)
            continue
        kind = waiting[name].dtype
        stored = kind if mx.issubdtype(kind, mx.floating) else mx.float16
        wanted = packed.PARTS if leaf == "weight" else (leaf,)
        parts = {part: waiting.pop(f"{module}.{part}") for part in wanted if f"{module}.{part}" in waiting}
        plain = parts[leaf] if leaf != "weight" else _plain(module, parts, base.lmm.config)
        update = merged(name, plain, config, weights)
        if leaf == "weight" and packing is not None and packing.of(module) is not None:
            yield from pack([(name, update)], packing)
        else:
            yield name, update.astype(stored)
    yield from ((n, x) for n, x in weights.items() if is_gate(n) or n.partition(".")[0] in config.full)


def _plain(module: str, parts: Mapping[str, mx.array], stored: LMMConfig) -> mx.array:
    """The matrix of a projection in float32, unpacked where it is packed."""
    packing = stored.quantization
    setting = packing and packing.of(EMBED if module == HEAD and stored.text.tie_embeddings else module)
    if "scales" not in parts or setting is None:
        return parts["weight"].astype(mx.float32)
    return packed.dequantize(parts["weight"], parts["scales"], parts.get("biases"), setting)


def _card(base: Stored, config: AdapterConfig, adapter: Path) -> str:
    """The model card of a fused model."""
    gate = "none" if config.gate is None else f"rank {config.gate.rank}"
    gate += "" if config.sink_gate is None else f", sink gates: layers {', '.join(map(str, config.sink_gate.layers))}"
    return (
        f"---\nlibrary_name: rave-mlx\npipeline_tag: image-text-to-text\n---\n\n# {base.name} with {adapter.name}\n\n"
        f"`{base.name}` with the adapter `{adapter.name}` built in: {config.kind} of rank {config.rank} on "
        f"{len(config.modules)} projections, scale {config.scale:g}; gates of the adapter: {gate}; parts replaced as "
        f"a whole: {', '.join(config.full) or 'none'}.\n"
    )
