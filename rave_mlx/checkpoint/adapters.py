"""Adapters: low-rank updates of a model's projections (LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353), with the pair
gates, and the whole parts of the model, that were trained beside them.

A directory holds `adapter_config.json` (an AdapterConfig) and `adapters.safetensors`: `MODULE.lora_a` (in, rank) and
`MODULE.lora_b` (rank, out), for DoRA also `MODULE.m` (out,), under canonical module names, the tensors of the gates,
and all of the parts that were trained in full. The layers themselves are mlx-lm's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.fingerprint import fingerprint
from rave_mlx.config import GateConfig, LMMConfig
from rave_mlx.config.part import Part, positive
from rave_mlx.errors import ConfigError, ModelError
from rave_mlx.models.lmm import LMM

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
_GATE = ".attention.gate."

ModelPart = Literal["decoder", "connector", "vision"]


@dataclass(frozen=True)
class AdapterConfig(Part):
    """What an adapter changes.

    Attributes:
        rank: of the updates.
        scale: what the product of the two factors is multiplied with (alpha / rank, where alpha is spoken of).
        modules: canonical names of the adapted projections ("decoder.layers.0.attention.q_proj").
        kind: "lora" or "dora".
        dropout: share of inputs left out in training.
        gate: the pair gates that the adapter brings; None for none.
        full: parts of the model that the adapter replaces.
        mask, answer: "mutual" and the token up to which images see their turn (`LMMConfig.mask`, `tokens.answer`), for
            an adapter that was trained so; None leaves the model's mask as it is.
        base: fingerprint of the model that it was trained on; None when that is not known.
    """

    rank: int
    scale: float
    modules: tuple[str, ...] = ()
    kind: Literal["lora", "dora"] = "lora"
    dropout: float = 0.0
    gate: GateConfig | None = None
    full: tuple[ModelPart, ...] = ()
    mask: Literal["mutual"] | None = None
    answer: int | None = None
    base: str | None = None

    def __post_init__(self) -> None:
        positive(self, "rank")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"adapter: dropout {self.dropout} is not in [0, 1)")
        if (self.mask is None) != (self.answer is None):
            raise ConfigError("adapter: the mutual mask and the token that begins an answer go together")
        if "decoder" in self.full and self.modules:
            raise ConfigError("adapter: projections of a decoder that is replaced as a whole cannot be adapted as well")


def read_config(folder: Path) -> AdapterConfig:
    """The configuration of an adapter directory.

    Raises:
        ConfigError: when it is missing, or PEFT's or another package's.
    """
    file = folder / CONFIG
    data = directory.read_json(file)
    if "peft_type" in data:
        raise ConfigError(f"{file}: is PEFT's layout; rave_mlx.convert.adapters.import_peft translates it")
    return AdapterConfig.from_dict(data, str(file))


def attach(lmm: LMM, config: AdapterConfig) -> None:
    """Put fresh updates (that change nothing yet) on the projections of a model, in place.

    Raises:
        ModelError: for a module that the model does not have, or that is not a projection.
    """
    from mlx_lm.tuner.dora import DoRALinear
    from mlx_lm.tuner.lora import LoRALinear

    kind = DoRALinear if config.kind == "dora" else LoRALinear
    modules = dict(lmm.named_modules())
    wrong = [name for name in config.modules if not isinstance(modules.get(name), (nn.Linear, nn.QuantizedLinear))]
    if wrong:
        raise ModelError(f"the adapter is for another model: no projection {', '.join(wrong[:10])} here")
    wrapped = [
        (name, kind.from_base(modules[name], r=config.rank, scale=config.scale, dropout=config.dropout))
        for name in config.modules
    ]
    lmm.update_modules(tree_unflatten(wrapped))


def adapter_weights(lmm: LMM, config: AdapterConfig) -> dict[str, mx.array]:
    """The adapter's tensors in a model that it is attached to."""
    leaves = {f"{module}.{leaf}" for module in config.modules for leaf in ("lora_a", "lora_b", "m")}

    def belongs(name: str) -> bool:
        if _GATE in name:
            return config.gate is not None
        return name in leaves or name.partition(".")[0] in config.full

    return {name: x for name, x in lmm.named_weights().items() if belongs(name)}


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
    attach(lmm, config)
    expected = {name: x.shape for name, x in adapter_weights(lmm, config).items()}
    directory.check_tensors({n: x.shape for n, x in weights.items()}, expected, str(place))
    dtype = lmm.decoder.norm.weight.dtype
    lmm.load_weights([(n, x.astype(mx.float32 if _GATE in n else dtype)) for n, x in weights.items()], strict=False)
    mx.eval(lmm.parameters())
    # Dropout is for training, which switches it on.
    lmm.eval()
    return lmm


def masked(model: LMMConfig, config: AdapterConfig, place: Path) -> LMMConfig:
    """A model's configuration with the mask that an adapter was trained with.

    Raises:
        ModelError: when the model cannot have it.
    """
    if config.mask is None:
        return model
    if model.vision is None or config.answer is None or not 0 <= config.answer < model.text.vocab_size:
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
    gated = LMM(replace(lmm.config, gate=gate), lmm.tokenizer, lmm.template, lmm.path)
    # Leaf modules are taken over whole, so that quantized ones stay quantized; single parameters by name.
    leaves = [(name, module) for name, module in lmm.named_modules() if name and not module.children()]
    gated.update_modules(tree_unflatten(leaves))
    gated.load_weights(list(lmm.named_weights().items()), strict=False)
    return gated
