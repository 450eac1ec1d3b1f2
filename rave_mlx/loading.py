"""Open a model: the built-in one, a rave directory, or a foreign checkpoint (converted into memory)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend, store
from rave_mlx.chat_template import ChatTemplate
from rave_mlx.config import LMMConfig, QuantizationConfig
from rave_mlx.errors import ModelError
from rave_mlx.models.lmm import LMM
from rave_mlx.tokenizer import Tokenizer

BUILT_IN = Path(__file__).parent / "nano" / "model"
MODEL_VARIABLE = "RAVE_MLX_MODEL"
_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(
    path_or_hub_id: str | os.PathLike[str] | None = None,
    *,
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
) -> LMM:
    """Open a model for inference or training.

    Args:
        path_or_hub_id: a rave directory, a checkpoint directory in the Hub's layout, or a Hub id
            ("owner/name"). None: $RAVE_MLX_MODEL, and without it the built-in model.
        dtype: compute type, "float32", "float16" or "bfloat16". None: float32 on a CPU, else the checkpoint's own.
        revision: branch, tag or commit of a Hub id.

    Raises:
        ModelError: when there is no such model, or it is incomplete or not supported.
        MemoryLimitError: when it does not fit into memory.
    """
    backend.prepare()
    wanted = path_or_hub_id if path_or_hub_id is not None else os.environ.get(MODEL_VARIABLE) or BUILT_IN
    from rave_mlx.convert.source import find

    folder = find(wanted, revision)
    if store.is_rave_directory(folder):
        lmm, tensors = open_directory(folder)
    else:
        from rave_mlx.convert import to_memory

        lmm, tensors = to_memory(folder)
    fill(lmm, tensors, _dtype(dtype), str(folder))
    return lmm


def open_directory(folder: Path) -> tuple[LMM, dict[str, mx.array]]:
    """A model with random weights and the (lazy) tensors to fill it with, from a rave directory."""
    config = store.read_config(folder)
    lmm = build(config, folder / store.TOKENIZER, _template(folder), folder)
    return lmm, store.read_tensors(folder)


def build(config: LMMConfig, tokenizer: Path, template: str, path: Path | None) -> LMM:
    """A model without weights."""
    if not tokenizer.is_file():
        raise ModelError(f"{tokenizer.parent}: {tokenizer.name} is missing; download or convert the model again")
    core = Tokenizer(tokenizer)
    chat = ChatTemplate(template, bos_token=core.token(config.tokens.bos), eos_token=core.token(config.tokens.stop[0]))
    return LMM(config, core, chat, path)


def fill(lmm: LMM, tensors: dict[str, mx.array], dtype: mx.Dtype | None, where: str) -> None:
    """Put tensors into a model, in the compute type, and read them from disk.

    Quantized tensors stay quantized where the backend is fast with them, and are expanded where it is not and
    memory allows (`backend.expand_quantized`).
    """
    quantization = lmm.config.quantization
    stored = sum(t.nbytes for t in tensors.values())
    if quantization is not None:
        expanded = sum(_expanded_bytes(n, tensors, quantization) for n in tensors)
        if backend.expand_quantized(stored, expanded):
            tensors = dict(_expand(tensors, quantization))
        else:
            _quantize_modules(lmm, tensors, quantization)
    expected = {name: array.shape for name, array in lmm.named_weights().items()}
    store.check_tensors({n: t.shape for n, t in tensors.items()}, expected, where)
    dtype = dtype or backend.current().dtype
    weights = [
        (n, _cast(n, t, dtype, quantization is not None and f"{_module(n)}.scales" in tensors))
        for n, t in tensors.items()
    ]
    need = sum(t.nbytes for _, t in weights)
    backend.check_memory(need, f"the weights of {where}", "choose a smaller or quantized model")
    lmm.load_weights(weights, strict=True)
    try:
        mx.eval(lmm.parameters())
    except RuntimeError as error:
        raise ModelError(
            f"{where}: the weights cannot be read ({error}); download or convert the model again"
        ) from None


def _cast(name: str, tensor: mx.array, dtype: mx.Dtype | None, quantized: bool) -> mx.array:
    """Floating tensors in the compute type; gates stay float32, packed integers as they are."""
    if not mx.issubdtype(tensor.dtype, mx.floating):
        if not quantized:
            raise ModelError(f"tensor {name} has type {tensor.dtype}; weights must be floating point or quantized")
        return tensor
    if ".attention.gate." in name:
        return tensor.astype(mx.float32)
    return tensor if dtype is None else tensor.astype(dtype)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _settings(module: str, quantization: QuantizationConfig) -> dict[str, Any]:
    chosen = quantization.layers.get(module, quantization)
    return {"group_size": chosen.group_size, "bits": chosen.bits, "mode": chosen.mode}


def _expanded_bytes(name: str, tensors: dict[str, mx.array], quantization: QuantizationConfig) -> int:
    tensor = tensors[name]
    if name.endswith((".scales", ".biases")) and f"{_module(name)}.weight" in tensors:
        return 0
    if name.endswith(".weight") and f"{_module(name)}.scales" in tensors:
        return tensor.nbytes * 8 // quantization.layers.get(_module(name), quantization).bits * 4
    return tensor.size * 4


def _expand(tensors: dict[str, mx.array], quantization: QuantizationConfig) -> Iterable[tuple[str, mx.array]]:
    for name, tensor in tensors.items():
        module = _module(name)
        if f"{module}.scales" not in tensors or not name.endswith((".weight", ".scales", ".biases")):
            yield name, tensor
        elif name.endswith(".weight"):
            scales, biases = tensors[f"{module}.scales"], tensors.get(f"{module}.biases")
            if mx.issubdtype(scales.dtype, mx.floating):
                scales = scales.astype(mx.float32)
            yield (
                name,
                mx.dequantize(
                    tensor,
                    scales,
                    None if biases is None else biases.astype(mx.float32),
                    dtype=mx.float32,
                    **_settings(module, quantization),
                ),
            )


def _quantize_modules(lmm: LMM, tensors: dict[str, mx.array], quantization: QuantizationConfig) -> None:
    nn.quantize(
        lmm,
        class_predicate=lambda path, module: (
            _settings(path, quantization) if f"{path}.scales" in tensors and hasattr(module, "to_quantized") else False
        ),
    )


def _template(folder: Path) -> str:
    try:
        return (folder / store.TEMPLATE).read_text(encoding="utf-8")
    except OSError:
        raise ModelError(f"{folder}: {store.TEMPLATE} is missing; download or convert the model again") from None


def _dtype(dtype: str | mx.Dtype | None) -> mx.Dtype | None:
    if dtype is None or isinstance(dtype, mx.Dtype):
        return dtype
    if dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]
