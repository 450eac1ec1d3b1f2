"""Packed weights: what `mx.quantize` made of a matrix (weight, scales and, in affine modes, biases), and back."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend
from rave_mlx.config import QuantizationConfig
from rave_mlx.errors import ModelError
from rave_mlx.models.packed_linear import keep_half, reads_half

PARTS = ("weight", "scales", "biases")
"""Last parts of the names of a packed matrix's tensors; those of 4-bit floats have no biases."""


def expand(
    tensors: Mapping[str, mx.array],
    quantization: QuantizationConfig,
    dtype: mx.Dtype = mx.float32,
    keep: Container[str] = (),
) -> Iterator[tuple[str, mx.array]]:
    """The tensors, lazy, with every packed matrix as the numbers that it stands for, computed in float32.

    Args:
        tensors: by canonical name, packed matrices as weight, scales and biases.
        quantization: how they are packed.
        dtype: of the expanded matrices; other tensors keep theirs.
        keep: modules that stay packed.

    Raises:
        ModelError: for a packed matrix that `quantization` leaves out.
    """
    for name in tensors:
        module = packed_module(name, tensors)
        if module is None or module in keep:
            yield name, tensors[name]
        elif name == f"{module}.weight":
            scales, biases = tensors[f"{module}.scales"], tensors.get(f"{module}.biases")
            yield name, dequantize(tensors[name], scales, biases, _setting(module, quantization)).astype(dtype)


def dequantize(weight: mx.array, scales: mx.array, biases: mx.array | None, setting: QuantizationConfig) -> mx.array:
    """The float32 numbers (rows, columns), of experts (experts, rows, columns), that a packed matrix stands for.

    Args:
        weight: (rows, columns * bits / 32) words of 32 bits.
        scales: (rows, columns / group_size).
        biases: as the scales; None in modes without them.
        setting: bits, group size and mode.
    """
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    group_size, bits, mode = setting.group_size, setting.bits, setting.mode
    return mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32)


def packed_module(name: str, tensors: Container[str]) -> str | None:
    """The module of which a tensor is the packed weight, the scales or the biases; None for any other tensor."""
    module, _, part = name.rpartition(".")
    packed = part in PARTS and f"{module}.weight" in tensors and f"{module}.scales" in tensors
    return module if packed else None


def multiplied_packed(tensors: Mapping[str, mx.array], quantization: QuantizationConfig) -> set[str]:
    """The packed modules with which this machine multiplies fast as they are: matrices, no experts.

    Raises:
        ModelError: for a packed matrix that `quantization` leaves out.
    """
    found = set()
    for name, tensor in tensors.items():
        module = packed_module(name, tensors)
        if module is not None and name == f"{module}.weight" and tensor.ndim == 2:
            setting = _setting(module, quantization)
            if backend.multiplies_packed(setting.group_size, setting.bits, setting.mode):
                found.add(module)
    return found


def plain_shapes(
    tensors: Mapping[str, mx.array], quantization: QuantizationConfig | None
) -> dict[str, tuple[int, ...]]:
    """The shapes that tensors have once they are expanded, by name; scales and biases of packed matrices left out.

    Raises:
        ModelError: for a packed matrix that `quantization` leaves out.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        module = None if quantization is None else packed_module(name, tensors)
        if module is None or quantization is None:
            shapes[name] = tensor.shape
        elif name == f"{module}.weight":
            *rows, words = tensor.shape
            shapes[name] = *rows, words * 32 // _setting(module, quantization).bits
    return shapes


def expanded_bytes(name: str, tensors: Mapping[str, mx.array], quantization: QuantizationConfig) -> int:
    """Bytes that a tensor takes in float32 once it is expanded; scales and biases take none.

    Args:
        name: of the tensor.
        tensors: all of them, by canonical name.
        quantization: how they are packed.

    Raises:
        ModelError: for a packed matrix that `quantization` leaves out.
    """
    tensor, module = tensors[name], packed_module(name, tensors)
    if module is None:
        return tensor.size * 4
    return tensor.nbytes * 8 // _setting(module, quantization).bits * 4 if name == f"{module}.weight" else 0


def quantize_modules(model: nn.Module, tensors: Container[str], quantization: QuantizationConfig) -> None:
    """Replace layers of a model, in place, by quantized ones that can hold packed weights.

    Args:
        model: with plain layers.
        tensors: canonical names; layers whose weights are packed among them are replaced.
        quantization: how they are packed.

    Raises:
        ModelError: for a packed matrix that `quantization` leaves out.
    """

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or packed_module(f"{path}.weight", tensors) is None:
            return False
        setting = _setting(path, quantization)
        return {"group_size": setting.group_size, "bits": setting.bits, "mode": setting.mode}

    nn.quantize(model, class_predicate=choose)


def keep_half_scales(model: nn.Module, tensors: Mapping[str, mx.array]) -> set[str]:
    """Names of the scales and biases that stay in half precision, where layers of a model can compute with those.

    Args:
        model: with quantized layers, which are changed in place.
        tensors: by canonical name.
    """
    kept = set()
    for path, module in model.named_modules():
        if not isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            continue
        names = [f"{path}.scales", f"{path}.biases"]
        types = {tensors[name].dtype if name in tensors else None for name in names}
        half = len(types) == 1 and types <= {mx.float16, mx.bfloat16}
        if half and reads_half(module.group_size, module.bits, module.mode):
            keep_half(module)
            kept.update(names)
    return kept


def _setting(module: str, quantization: QuantizationConfig) -> QuantizationConfig:
    """How a packed module is packed; ModelError where the configuration says that it is not."""
    setting = quantization.of(module)
    if setting is None:
        raise ModelError(f"tensor {module}.weight is packed, but the quantization in config.json leaves it as it is")
    return setting
