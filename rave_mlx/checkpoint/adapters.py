"""Adapters: low-rank updates of a model's projections (LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353), with the pair
gates and sink gates, and the whole parts of the model, that were trained beside them.

A directory holds `adapter_config.json` (an AdapterConfig) and `adapters.safetensors`: `MODULE.lora_a` (in, rank) and
`MODULE.lora_b` (rank, out), for DoRA also `MODULE.m` (out,), under canonical module names, the tensors of the gates,
and all of the parts that were trained in full. What other packages' adapters have besides: `MODULE.lora_bias` (out,),
single weights under their own names, and `MODULE.rows` (tokens, hidden), rows of the embedding or the head. The layers
themselves are mlx-lm's.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_unflatten

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.adapter_config import CONFIG, EMBED, WEIGHTS, AdapterConfig, ModelPart, read_config
from rave_mlx.checkpoint.directory import GATE, SINK_GATE, is_exact
from rave_mlx.checkpoint.fingerprint import fingerprint
from rave_mlx.config import GateConfig, LMMConfig, SinkGateConfig
from rave_mlx.errors import ModelError
from rave_mlx.models.lmm import LMM

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "AdapterConfig",
    "ModelPart",
    "adapter_weights",
    "attach",
    "check_base",
    "load_adapter",
    "masked",
    "put_on",
    "read_config",
    "read_weights",
    "save",
    "twin",
    "with_gates",
    "with_sink_gates",
    "write",
]


def attach(lmm: LMM, config: AdapterConfig) -> None:
    """Put fresh updates (that change nothing yet) on the projections of a model, in place.

    Raises:
        ModelError: for a module that the model does not have, or that is not a projection.
    """
    from rave_mlx.checkpoint.adapter_layers import wrap

    wrap(lmm, config)


def adapter_weights(lmm: LMM, config: AdapterConfig) -> dict[str, mx.array]:
    """The adapter's tensors in a model that it is attached to."""
    from rave_mlx.checkpoint.adapter_layers import LEAVES, inner_name

    leaves = {f"{module}.{leaf}" for module in config.modules for leaf in LEAVES}

    def belongs(name: str) -> bool:
        if GATE in name:
            return config.gate is not None
        if SINK_GATE in name:
            return config.sink_gate is not None
        return name in leaves or (name.partition(".")[0] in config.full and not directory.is_constant(name))

    weights, modules = lmm.named_weights(), dict(lmm.named_modules())
    found = {name: x for name, x in weights.items() if belongs(name)}
    missing = [name for name in config.replaced if inner_name(modules, name) not in weights]
    missing += [f"{module}.weight" for module in config.rows if inner_name(modules, f"{module}.weight") not in weights]
    if missing:
        raise ModelError(f"the adapter is for another model: no weight {', '.join(missing[:10])} here")
    found |= {name: weights[inner_name(modules, name)] for name in config.replaced}
    for module, ids in config.rows.items():
        found[f"{module}.rows"] = weights[inner_name(modules, f"{module}.weight")][mx.array(ids)]
    return found


def save(lmm: LMM, config: AdapterConfig, out: str | os.PathLike[str]) -> Path:
    """Write an adapter directory; `out` must not exist."""
    target = Path(out)
    with directory.new_directory(target) as part:
        write(part, config, adapter_weights(lmm, config))
    return target


def write(folder: Path, config: AdapterConfig, weights: Mapping[str, mx.array]) -> None:
    """Write an adapter's two files into a folder.

    Raises:
        OSError: when they cannot be written.
    """
    try:
        mx.save_safetensors(str(folder / WEIGHTS), dict(weights), metadata={"format": "mlx"})
    except RuntimeError as error:
        raise OSError(f"{WEIGHTS}: {error}") from None
    (folder / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")


def read_weights(folder: Path) -> dict[str, mx.array]:
    """An adapter's tensors, lazy."""
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no {WEIGHTS}; this is not an adapter directory")
    return directory.read_tensors(folder)


def load_adapter(lmm: LMM, folder: str | os.PathLike[str]) -> LMM:
    """A model with an adapter on it. The given one is changed in place; use what is returned.

    Raises:
        ConfigError, ModelError: for an adapter that is malformed, or that belongs to another model.
    """
    place = Path(folder).expanduser()
    config, weights = read_config(place), read_weights(place)
    return put_on(lmm, config, weights, place)


def put_on(lmm: LMM, config: AdapterConfig, weights: Mapping[str, mx.array], place: Path) -> LMM:
    """`load_adapter` for what was read from `place` already."""
    check_base(lmm, config, place)
    lmm.config = masked(lmm.config, config, place)
    if config.gate is not None and lmm.config.gate != config.gate:
        lmm = with_gates(lmm, config.gate, place)
    if config.sink_gate is not None and lmm.config.sink_gate != config.sink_gate:
        lmm = with_sink_gates(lmm, config.sink_gate, place)
    if config.splits_tie and lmm.config.text.tie_embeddings:
        lmm = with_head(lmm)
    _unpack_replaced(lmm, config)
    attach(lmm, config)
    expected = {name: x.shape for name, x in adapter_weights(lmm, config).items()}
    directory.check_tensors({n: x.shape for n, x in weights.items()}, expected, str(place))
    _check_rows(lmm, config, place)
    _put(lmm, config, weights)
    mx.eval(lmm.parameters())
    # Dropout is for training, which switches it on.
    lmm.eval()
    return lmm


def _put(lmm: LMM, config: AdapterConfig, weights: Mapping[str, mx.array]) -> None:
    """Put an adapter's tensors into the model that it is attached to."""
    from rave_mlx.checkpoint.adapter_layers import inner_name

    dtype, modules = lmm.decoder.norm.weight.dtype, dict(lmm.named_modules())
    cast = {name: x.astype(mx.float32 if is_exact(name) else dtype) for name, x in weights.items()}
    rows = {f"{module}.rows": module for module in config.rows}
    whole = set(config.replaced)
    lmm.load_weights(
        [(inner_name(modules, n) if n in whole else n, x) for n, x in cast.items() if n not in rows], strict=False
    )
    for name, module in rows.items():
        weight = inner_name(modules, f"{module}.weight")
        table = mx.array(lmm.named_weights()[weight])
        table[mx.array(config.rows[module])] = cast[name]
        lmm.load_weights([(weight, table)], strict=False)


def _unpack_replaced(lmm: LMM, config: AdapterConfig) -> None:
    """Unpack the quantized layers of which the adapter brings weights that are not."""
    from rave_mlx.checkpoint.adapter_layers import unpack

    for module in {*config.rows, *(n.removesuffix(".weight") for n in config.replaced if n.endswith(".weight"))}:
        unpack(lmm, module)


def _check_rows(lmm: LMM, config: AdapterConfig, place: Path) -> None:
    size = lmm.config.text.vocab_size
    outside = [i for ids in config.rows.values() for i in ids if not 0 <= i < size]
    if outside:
        raise ModelError(f"{place}: replaces the row of token {outside[0]}, the model has {size}; open the model that "
                         "it was trained on")  # fmt: skip


def masked(model: LMMConfig, config: AdapterConfig, place: Path) -> LMMConfig:
    """A model's configuration with the mask that an adapter was trained with.

    Raises:
        ModelError: when the model cannot have it.
    """
    if config.mask is None:
        return model
    if (
        model.vision is None
        or model.mask in ("image", "windows", "whole")
        or config.answer is None
        or not 0 <= config.answer < model.text.vocab_size
    ):
        raise ModelError(f"{place}: the adapter opens the mask of images up to token {config.answer}, which this "
                         "model does not have; open the model that it was trained on")  # fmt: skip
    return replace(model, mask=config.mask, tokens=replace(model.tokens, answer=config.answer))


def check_base(lmm: LMM, config: AdapterConfig, place: Path) -> None:
    """Refuse an adapter that was trained on another model, where it says on which.

    Raises:
        ModelError: naming both fingerprints.
    """
    if config.base is None:
        return
    found = fingerprint(lmm)
    if found != config.base:
        raise ModelError(
            f"{place}: the adapter was trained on another base model (fingerprint {config.base[:12]}, this one has "
            f'{found[:12]}); open that model, or remove "base" from {CONFIG} to put it on this one all the same'
        )


def with_gates(lmm: LMM, gate: GateConfig, where: Path) -> LMM:
    """The model with gates of this shape beside its weights, which are shared."""
    if lmm.config.gate is not None:
        raise ModelError(f"{where}: the adapter's pair gates have another shape than the model's")
    return _sharing(lmm, replace(lmm.config, gate=gate))


def with_sink_gates(lmm: LMM, gate: SinkGateConfig, where: Path) -> LMM:
    """The model with sink gates of this shape beside its weights, which are shared."""
    if lmm.config.sink_gate is not None:
        raise ModelError(f"{where}: the adapter's sink gates have another shape than the model's")
    return _sharing(lmm, replace(lmm.config, sink_gate=gate))


def with_head(lmm: LMM) -> LMM:
    """A model of tied embeddings with a head of its own, which begins as the embedding. Weights are shared."""
    from rave_mlx.checkpoint.adapter_layers import head_like

    split = _sharing(lmm, replace(lmm.config, text=replace(lmm.config.text, tie_embeddings=False)))
    split.decoder["head"] = head_like(dict(lmm.named_modules())[EMBED])
    return split


def twin(lmm: LMM) -> LMM:
    """A second model with the same arrays for weights: an adapter put on it leaves the first one as it is."""
    return _sharing(lmm, lmm.config, own_leaves=True)


def _sharing(lmm: LMM, config: LMMConfig, *, own_leaves: bool = False) -> LMM:
    """A model of another configuration with the weights of this one where it has them.

    Args:
        lmm: the model.
        config: of the other one.
        own_leaves: whether its modules may be changed without changing this model's.
    """
    other = LMM(config, lmm.tokenizer, lmm.template, lmm.path)
    # Leaf modules are taken over whole, so that quantized ones stay quantized; single parameters by name.
    leaves = [(name, module) for name, module in lmm.named_modules() if name and not module.children()]
    if own_leaves:
        leaves = [(name, copy.copy(module)) for name, module in leaves]
    other.update_modules(tree_unflatten(leaves))
    other.load_weights(list(lmm.named_weights().items()), strict=False)
    other.kv_bits = lmm.kv_bits
    return other
