"""Open a model: the built-in one, a rave directory, or a foreign checkpoint (converted into memory)."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend
from rave_mlx.checkpoint import directory
from rave_mlx.config import LMMConfig, QuantizationConfig
from rave_mlx.errors import ModelError
from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.tokenizer import Tokenizer
from rave_mlx.models.lmm import LMM

BUILT_IN = Path(__file__).parents[1] / "builtin"
MODEL_VARIABLE = "RAVE_MLX_MODEL"
_PARTS = ("weight", "scales", "biases")
_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(
    path_or_hub_id: str | os.PathLike[str] | None = None,
    *,
    dtype: str | mx.Dtype | None = None,
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> LMM:
    """Open a model for inference or training.

    Args:
        path_or_hub_id: a rave directory, a checkpoint directory in the Hub's layout, or a Hub id
            ("owner/name"). None: $RAVE_MLX_MODEL, and without it the built-in model.
        dtype: compute type, "float32", "float16" or "bfloat16". None: float32 on a CPU, else the checkpoint's own.
        adapter: directory of an adapter to put on the model.
        revision: branch, tag or commit of a Hub id.

    Raises:
        ModelError: when there is no such model, or it is incomplete or not supported, or the adapter is another's.
        MemoryLimitError: when it does not fit into memory.
    """
    backend.prepare()
    wanted = path_or_hub_id if path_or_hub_id is not None else os.environ.get(MODEL_VARIABLE) or BUILT_IN
    from rave_mlx.convert.source import find

    folder = find(wanted, revision)
    lmm, tensors = open_folder(folder)
    fill(lmm, tensors, _dtype(dtype), str(folder))
    if adapter is None:
        return lmm
    from rave_mlx.checkpoint.adapters import load_adapter

    return load_adapter(lmm, adapter)


def open_folder(folder: Path) -> tuple[LMM, dict[str, mx.array]]:
    """A model with random weights and the (lazy) canonical tensors to fill it with, from a folder of either kind."""
    if directory.is_rave_directory(folder):
        return open_directory(folder)
    from rave_mlx.convert import to_memory

    return to_memory(folder)


def open_directory(folder: Path) -> tuple[LMM, dict[str, mx.array]]:
    """A model with random weights and the (lazy) tensors to fill it with, from a rave directory."""
    config = directory.read_config(folder)
    lmm = build(config, folder / directory.TOKENIZER, _template(folder), folder)
    return lmm, directory.read_tensors(folder)


def build(config: LMMConfig, tokenizer: Path, template: str, path: Path | None) -> LMM:
    """A model without weights."""
    if not tokenizer.is_file():
        raise ModelError(f"{tokenizer.parent}: {tokenizer.name} is missing; download or convert the model again")
    core = Tokenizer(tokenizer, [i for i in (config.tokens.image, config.tokens.answer) if i is not None])
    chat = ChatTemplate(template, bos_token=core.token(config.tokens.bos), eos_token=core.token(config.tokens.stop[0]))
    return LMM(config, core, chat, path)


def fill(lmm: LMM, tensors: dict[str, mx.array], dtype: mx.Dtype | None, where: str) -> None:
    """Put tensors into a model, in the compute type, and read them from disk.

    Quantized tensors stay quantized where the backend is fast with them, and are expanded where it is not and
    memory allows (`backend.expand_quantized`). `tensors` is emptied: what was read must not stay beside what was
    made of it.
    """
    quantization = lmm.config.quantization
    found = dict(tensors)
    tensors.clear()
    if quantization is not None:
        stored = sum(t.nbytes for t in found.values())
        expanded = sum(_expanded_bytes(n, found, quantization) for n in found)
        if backend.expand_quantized(stored, expanded):
            found = dict(expand(found, quantization))
        else:
            _quantize_modules(lmm, found, quantization)
    expected = {name: array.shape for name, array in lmm.named_weights().items()}
    directory.check_tensors({n: t.shape for n, t in found.items()}, expected, where)
    dtype = dtype or backend.current().dtype
    weights = [(n, _cast(n, t, dtype, packed_module(n, found) is not None)) for n, t in found.items()]
    found.clear()
    need = sum(t.nbytes for _, t in weights)
    backend.check_memory(need, f"the weights of {where}", "choose a smaller or quantized model")
    lmm.load_weights(weights, strict=True)
    try:
        mx.eval(lmm.parameters())
    except RuntimeError as error:
        raise ModelError(
            f"{where}: the weights cannot be read ({error}); download or convert the model again"
        ) from None


def expand(
    tensors: Mapping[str, mx.array], quantization: QuantizationConfig, dtype: mx.Dtype = mx.float32
) -> Iterator[tuple[str, mx.array]]:
    """The tensors, lazy, with every packed matrix as the numbers that it stands for, computed in float32.

    Raises:
        ModelError: for a packed matrix that `quantization` leaves out.
    """
    for name in tensors:
        module = packed_module(name, tensors)
        if module is None:
            yield name, tensors[name]
        elif name == f"{module}.weight":
            scales, biases = tensors[f"{module}.scales"], tensors.get(f"{module}.biases")
            yield name, dequantize(tensors[name], scales, biases, _setting(module, quantization)).astype(dtype)


def dequantize(weight: mx.array, scales: mx.array, biases: mx.array | None, setting: QuantizationConfig) -> mx.array:
    """The float32 numbers that a packed matrix stands for."""
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    group_size, bits, mode = setting.group_size, setting.bits, setting.mode
    return mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32)


def packed_module(name: str, tensors: Container[str]) -> str | None:
    """The module of which a tensor is the packed weight, the scales or the biases; None for any other tensor."""
    module, _, part = name.rpartition(".")
    packed = part in _PARTS and f"{module}.weight" in tensors and f"{module}.scales" in tensors
    return module if packed else None


def _cast(name: str, tensor: mx.array, dtype: mx.Dtype | None, packed: bool) -> mx.array:
    """Floating tensors in the compute type; gates stay float32, packed integers as they are."""
    if not mx.issubdtype(tensor.dtype, mx.floating):
        if not packed:
            raise ModelError(f"tensor {name} has type {tensor.dtype}; weights must be floating point or quantized")
        return tensor
    if ".attention.gate." in name:
        return tensor.astype(mx.float32)
    return tensor if dtype is None else tensor.astype(dtype)


def _setting(module: str, quantization: QuantizationConfig) -> QuantizationConfig:
    setting = quantization.of(module)
    if setting is None:
        raise ModelError(f"tensor {module}.weight is packed, but the quantization in config.json leaves it as it is")
    return setting


def _expanded_bytes(name: str, tensors: Mapping[str, mx.array], quantization: QuantizationConfig) -> int:
    tensor, module = tensors[name], packed_module(name, tensors)
    if module is None:
        return tensor.size * 4
    return tensor.nbytes * 8 // _setting(module, quantization).bits * 4 if name == f"{module}.weight" else 0


def _quantize_modules(lmm: LMM, tensors: Container[str], quantization: QuantizationConfig) -> None:
    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or packed_module(f"{path}.weight", tensors) is None:
            return False
        setting = _setting(path, quantization)
        return {"group_size": setting.group_size, "bits": setting.bits, "mode": setting.mode}

    nn.quantize(lmm, class_predicate=choose)


def _template(folder: Path) -> str:
    try:
        return (folder / directory.TEMPLATE).read_text(encoding="utf-8")
    except OSError:
        raise ModelError(f"{folder}: {directory.TEMPLATE} is missing; download or convert the model again") from None


def _dtype(dtype: str | mx.Dtype | None) -> mx.Dtype | None:
    if dtype is None or isinstance(dtype, mx.Dtype):
        return dtype
    if dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]
