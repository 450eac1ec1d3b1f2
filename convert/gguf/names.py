"""The tensors of a GGUF text model under transformers' names and in its order of rows.

https://github.com/ggml-org/llama.cpp: gguf-py/gguf/tensor_mapping.py, conversion/llama.py (`LlamaModel.permute`)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from rave_mlx.convert.gguf.blocks import GROUP, packing, parts
from rave_mlx.convert.gguf.container import Stored
from rave_mlx.convert.gguf.text import DIVISORS, LONG, SHORT
from rave_mlx.errors import ModelError

_WHOLE = {"token_embd": "embed_tokens", "output_norm": "norm"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
"""Phi-3's, which stay fused."""


def module(name: str, architecture: str, stem: str) -> str | None:
    """transformers' module of a tensor; None for a name that is not known.

    Args:
        name: of the tensor, without .weight or .bias.
        architecture: general.architecture.
        stem: what precedes `layers`, `embed_tokens` and `norm` there.
    """
    if name == "output":
        return "lm_head"
    if name in _WHOLE:
        return stem + _WHOLE[name]
    block, _, rest = name.partition(".")
    index, _, part = rest.partition(".")
    known = _LAYER | _FUSED if architecture == "phi3" else _LAYER
    if block != "blk" or not index.isdecimal() or part not in known:
        return None
    return f"{stem}layers.{index}.{known[part]}"


def text_tensors(
    path: Path, architecture: str, config: Mapping[str, Any], stored: Mapping[str, Stored], stem: str
) -> Iterator[tuple[str, mx.array]]:
    """Tensors by transformers' names.

    Args:
        path: of the file, for errors.
        architecture: general.architecture.
        config: the text model's keys of the configuration.
        stored: tensors by llama.cpp's names.
        stem: see `module`.

    Raises:
        ModelError: for a tensor that is not known, or of a type that is not read.
    """
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, tensor in stored.items():
        if name in (DIVISORS, SHORT, LONG):
            continue
        start, _, leaf = name.rpartition(".")
        known = module(start, architecture, stem)
        if known is None or leaf not in ("weight", "bias"):
            raise ModelError(f"{path}: tensor {name} is not known; convert the original checkpoint instead")
        rows = None
        part = start.rpartition(".")[2]
        if architecture == "llama" and part in heads:
            rows = _paired_rows(path, name, tensor.shape[0], heads[part])
        for kind, array in read(path, name, tensor).items():
            yield f"{known}.{leaf if kind == 'weight' else kind}", array if rows is None else array[rows]


def read(path: Path, name: str, stored: Stored) -> dict[str, mx.array]:
    """The parts of a tensor (see `blocks.parts`).

    Raises:
        ModelError: for a type that is not read.
    """
    try:
        return parts(stored)
    except NotImplementedError:
        raise ModelError(
            f"{path}: tensor {name} has type {stored.kind.name}, which is not read; take a file of another type"
        ) from None


def quantization(stored: Mapping[str, Stored], architecture: str, stem: str) -> dict[str, Any]:
    """The packing as MLX packages declare it: the commonest width in bits, and the modules that have another."""
    bits = {
        known: packed.bits
        for name, tensor in stored.items()
        if (packed := packing(tensor)) and (known := module(name.rpartition(".")[0], architecture, stem))
    }
    if not bits:
        return {}
    widths = list(bits.values())
    common = max(set(widths), key=widths.count)
    others = {name: {"group_size": GROUP, "bits": width} for name, width in bits.items() if width != common}
    return {"quantization": {"group_size": GROUP, "bits": common, **others}}


def _paired_rows(path: Path, name: str, rows: int, heads: int) -> mx.array:
    """Where each row of queries or keys lies: llama.cpp interleaves the halves of a head that rotate together."""
    if rows % (2 * heads):
        raise ModelError(f"{path}: tensor {name} has {rows} rows, which {heads} heads cannot share; download it again")
    order = np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return mx.array(order.astype(np.int32))
