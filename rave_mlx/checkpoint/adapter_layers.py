"""Layers with a low-rank update on them: mlx-lm's, built so that every bit width works, and one with a bias."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from rave_mlx.backend.mlx_lm_file import mlx_lm_file
from rave_mlx.checkpoint.adapter_config import EMBED, AdapterConfig
from rave_mlx.checkpoint.packed import dequantize
from rave_mlx.config import QuantizationConfig
from rave_mlx.errors import ModelError
from rave_mlx.models.lmm import LMM

_LORA = mlx_lm_file("tuner.lora")
_LoRALinear: Any = _LORA.LoRALinear
INNER = {"linear", "embedding"}
"""Under which names an adapted layer keeps the layer that it adapts."""
LEAVES = ("lora_a", "lora_b", "m", "lora_bias")
"""Parameters that an adapted layer adds."""


class BiasedLoRALinear(_LoRALinear):  # type: ignore[misc]  # mlx-lm is untyped
    """A low-rank update with a vector of its own: W x + scale (B A x + lora_bias)."""

    lora_bias: mx.array
    scale: float

    def __call__(self, x: mx.array) -> mx.array:
        out: mx.array = super().__call__(x)
        return out + (self.scale * self.lora_bias).astype(out.dtype)


def wrap(lmm: LMM, config: AdapterConfig) -> None:
    """Put fresh updates (that change nothing yet) on the modules that `config` names, in place.

    Raises:
        ModelError: for a module that the model does not have, or that takes no such update.
    """
    modules = dict(lmm.named_modules())
    wrong = [name for name in config.modules if not _takes_update(name, modules.get(name))]
    if wrong:
        raise ModelError(f"the adapter is for another model: no projection {', '.join(wrong[:10])} here")
    lmm.update_modules(tree_unflatten([(name, _wrapped(name, modules[name], config)) for name in config.modules]))


def unpack(lmm: LMM, module: str) -> None:
    """Make a packed layer a plain one, in place; a plain one stays."""
    packed = dict(lmm.named_modules()).get(module)
    if not isinstance(packed, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
        return
    setting = QuantizationConfig.from_dict({n: getattr(packed, n) for n in ("bits", "group_size", "mode")})
    weight = dequantize(packed.weight, packed.scales, packed.get("biases"), setting)
    plain: nn.Module
    if isinstance(packed, nn.QuantizedEmbedding):
        plain = nn.Embedding(1, 1)
    else:
        plain = nn.Linear(1, 1, bias=False)
        if "bias" in packed:
            plain.bias = packed.bias
    plain.weight = weight.astype(lmm.decoder.norm.weight.dtype)
    lmm.update_modules(tree_unflatten([(module, plain)]))


def head_like(embedding: nn.Module) -> nn.Module:
    """A head that scores with the matrix of a token embedding, plain or packed, which it shares."""
    if not isinstance(embedding, nn.QuantizedEmbedding):
        head = nn.Linear(1, 1, bias=False)
        head.weight = embedding.weight
        return head
    size, bits, mode = embedding.group_size, embedding.bits, embedding.mode
    packed = nn.QuantizedLinear(size, 1, bias=False, group_size=size, bits=bits, mode=mode)
    for name in ("weight", "scales", "biases"):
        packed[name] = embedding.get(name)
    return packed


def inner_name(modules: dict[str, nn.Module], name: str) -> str:
    """The name of a weight in a model whose layers may be adapted ("....q_proj.linear.bias")."""
    module, _, leaf = name.rpartition(".")
    inner = next((part for part in INNER if part in modules.get(module, {})), None)
    return name if inner is None or leaf in LEAVES else f"{module}.{inner}.{leaf}"


def _takes_update(name: str, module: nn.Module | None) -> bool:
    if name == EMBED:
        return isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))
    return isinstance(module, (nn.Linear, nn.QuantizedLinear))


def _wrapped(name: str, module: nn.Module, config: AdapterConfig) -> nn.Module:
    settings = {"r": config.rank_of(name), "scale": config.scale_of(name), "dropout": config.dropout}
    adapted: nn.Module
    if name == EMBED:
        adapted = _LORA.LoRAEmbedding.from_base(module, **settings)
        return adapted
    outputs, inputs = module.weight.shape
    if isinstance(module, nn.QuantizedLinear):
        # mlx-lm's DoRALinear.from_base takes 32 // bits weights a word, which holds for 2, 4 and 8 bits only.
        inputs = inputs * 32 // module.bits
    if config.kind == "dora":
        adapted = mlx_lm_file("tuner.dora").DoRALinear(inputs, outputs, **settings)
        adapted.set_linear(module)
        return adapted
    adapted = (BiasedLoRALinear if config.update_bias else _LoRALinear)(inputs, outputs, **settings)
    adapted["linear"] = module
    if config.update_bias:
        adapted["lora_bias"] = mx.zeros((outputs,))
    return adapted
