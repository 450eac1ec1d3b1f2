"""What trains, how fast, and with weight decay or without.

Low-rank updates and gates are float32 parameters on a frozen model, quantized or not. Parts that are trained whole
stay in the model's compute type; the optimizer keeps float32 copies of them (`train.optimizer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from rave_mlx.checkpoint.adapters import AdapterConfig, ModelPart, attach, with_gates
from rave_mlx.checkpoint.directory import ROUTER, is_gate
from rave_mlx.checkpoint.fingerprint import fingerprint
from rave_mlx.config import GateConfig
from rave_mlx.errors import UsageError
from rave_mlx.models.lmm import LMM
from rave_mlx.train.config import AdapterSettings, TrainConfig
from rave_mlx.train.mutual_mask import use_mutual_mask
from rave_mlx.train.sink_gates import use_sink_gates

GroupName = Literal["adapter", "gate", "decoder", "connector", "vision"]

_ADAPTER_LEAVES = ("lora_a", "lora_b", "m")
_GATE_SCALARS = ("a", "c", "beta")
_TABLES = ("decoder.embed.weight", "decoder.head.weight")


@dataclass(frozen=True)
class TrainedParameter:
    """One trained parameter.

    Attributes:
        name: canonical.
        group: whose learning rate it has.
        decays: whether weight decay applies: to matrices and filters, not to norms, biases and the gate's scalars.
        is_matrix: whether it maps hidden states to hidden states, as Muon wants; embeddings and heads do not.
    """

    name: str
    group: GroupName
    decays: bool
    is_matrix: bool


def prepare(lmm: LMM, config: TrainConfig) -> tuple[LMM, AdapterConfig]:
    """Put gates and updates on a model and mark what trains. The given model is changed in place; use what is returned.

    Raises:
        UsageError: for gates on a text-only model, sink gates in layers that it does not have, a mask that it cannot
            have, unknown projections, or quantized parts that should train whole.
    """
    mx.random.seed(config.seed)
    if config.mask == "mutual":
        use_mutual_mask(lmm)
    settings = config.adapter or AdapterSettings()
    base = fingerprint(lmm)
    gate = None
    if config.gates:
        if lmm.config.vision is None:
            raise UsageError("this model reads text only and a gate acts on images; train with --lora-only")
        gate = lmm.config.gate or GateConfig()
        if lmm.config.gate is None:
            lmm = with_gates(lmm, gate, lmm.path or Path())
    lmm = use_sink_gates(lmm, config)
    _check_parts(lmm, config.full)
    modules = projections(lmm, config.adapter.modules) if config.adapter is not None else ()
    _check_widths(lmm, modules, settings)
    adapter = AdapterConfig(
        rank=settings.rank,
        scale=settings.scale,
        modules=modules,
        kind=settings.kind,
        dropout=settings.dropout,
        gate=gate,
        sink_gate=None if config.sink_gates is None else lmm.config.sink_gate,
        full=config.full,
        mask=config.mask,
        answer=None if config.mask is None else lmm.config.tokens.answer,
        base=base,
    )
    attach(lmm, adapter)
    mark(lmm, adapter)
    return lmm, adapter


def projections(lmm: LMM, patterns: Sequence[str]) -> tuple[str, ...]:
    """Canonical names of the decoder's projections that the patterns choose: last parts of names, or "all".

    Experts, and what chooses them, are none.

    Raises:
        UsageError: for a pattern that chooses nothing, with what there is.
    """
    names = [
        name
        for name, module in lmm.named_modules()
        if name.startswith("decoder.layers.")
        and isinstance(module, (nn.Linear, nn.QuantizedLinear))
        and not name.endswith(ROUTER)
    ]
    chosen = {p: {n for n in names if p in ("all", n) or n.endswith(f".{p}")} for p in patterns}
    nothing = [p for p, found in chosen.items() if not found]
    if nothing:
        kinds = sorted({n.rpartition(".")[2] for n in names})
        hint = "" if lmm.config.text.experts is None else "; experts, and what chooses them, take no low-rank updates"
        raise UsageError(f"no projection is called {nothing[0]!r}; there are {', '.join(kinds)}, and all{hint}")
    return tuple(sorted(set().union(*chosen.values()), key=_layer_first))


def _layer_first(name: str) -> tuple[int, str]:
    return int(name.split(".")[2]), name


def mark(lmm: LMM, adapter: AdapterConfig) -> None:
    """Freeze all of a model but what `adapter` trains, and switch dropout on."""
    modules = dict(lmm.named_modules())
    for module in modules.values():
        module.freeze(recurse=False)
    for name in _trained_names(lmm, adapter):
        module, _, leaf = name.rpartition(".")
        modules[module].unfreeze(recurse=False, keys=leaf, strict=True)
    lmm.train()


def trained_parameters(lmm: LMM) -> tuple[TrainedParameter, ...]:
    """The parameters that train, in a fixed order."""
    return tuple(_describe(name, x) for name, x in sorted(trained_weights(lmm).items()))


def trained_weights(lmm: LMM) -> dict[str, mx.array]:
    """The arrays that train, by canonical name."""
    return dict(tree_flatten(lmm.trainable_parameters()))


def _describe(name: str, x: mx.array) -> TrainedParameter:
    leaf = name.rpartition(".")[2]
    if is_gate(name):
        decays = x.ndim > 1 and leaf not in _GATE_SCALARS
        return TrainedParameter(name, "gate", decays, is_matrix=False)
    if leaf in _ADAPTER_LEAVES:
        return TrainedParameter(name, "adapter", x.ndim > 1, x.ndim == 2)
    part: GroupName = name.partition(".")[0]  # type: ignore[assignment]  # decoder, connector or vision
    return TrainedParameter(name, part, x.ndim > 1, x.ndim == 2 and name not in _TABLES)


def _trained_names(lmm: LMM, adapter: AdapterConfig) -> list[str]:
    from rave_mlx.checkpoint.adapters import adapter_weights

    return list(adapter_weights(lmm, adapter))


def _check_parts(lmm: LMM, parts: Sequence[ModelPart]) -> None:
    for part in parts:
        if part not in lmm:
            raise UsageError(f"this model has no {part} to train; it reads text only")
        packed = [n for n, m in lmm[part].named_modules() if "scales" in m]
        if packed:
            raise UsageError(
                f"the {part} is quantized and cannot be trained whole; train low-rank updates, or load the "
                "unquantized model"
            )


def _check_widths(lmm: LMM, modules: Sequence[str], settings: AdapterSettings) -> None:
    # mlx-lm's DoRA computes the width of a packed matrix in whole numbers a word.
    found = dict(lmm.named_modules())
    odd = [m for m in modules if isinstance(found[m], nn.QuantizedLinear) and 32 % found[m].bits]
    if settings.kind == "dora" and odd:
        raise UsageError(f"{odd[0]} has {found[odd[0]].bits} bits, on which DoRA does not work; leave --dora out")
