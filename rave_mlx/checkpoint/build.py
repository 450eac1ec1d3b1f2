"""Build a model from a configuration, a tokenizer and a template, and fill it with weights."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.backend.cpu import allocator, packed_products
from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.finite import is_finite, some
from rave_mlx.checkpoint.packed import (
    expand,
    expanded_bytes,
    keep_half_scales,
    multiplied_packed,
    packed_module,
    quantize_modules,
)
from rave_mlx.config import LMMConfig
from rave_mlx.errors import ModelError
from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.tokenizer import Tokenizer
from rave_mlx.models.lmm import LMM

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
"""Types that weights are stored and computed in, by name."""


def build_directory(folder: Path) -> LMM:
    """The model of a rave directory, without weights.

    Raises:
        ConfigError, ModelError: when a file of the directory is missing or malformed.
    """
    return build(directory.read_config(folder), folder / directory.TOKENIZER, _template(folder), folder)


def build(config: LMMConfig, tokenizer: Path, template: str, path: Path | None) -> LMM:
    """A model without weights.

    Args:
        config: what it consists of.
        tokenizer: its `tokenizer.json`.
        template: text of its chat template.
        path: the directory that it belongs to; None where there is none.

    Raises:
        ModelError: when the tokenizer is missing.
    """
    if not tokenizer.is_file():
        raise ModelError(f"{tokenizer.parent}: {tokenizer.name} is missing; download or convert the model again")
    tokens = config.tokens
    core = Tokenizer(
        tokenizer, [i for i in (tokens.image, tokens.placeholder, tokens.answer) if i is not None], tokens.added
    )
    named = tokens.named
    if named is None:
        named = {"bos_token": core.token(tokens.bos) or "", "eos_token": core.token(tokens.stop[0]) or ""}
    chat = ChatTemplate(template, named)
    return LMM(config, core, chat, path)


def fill(lmm: LMM, tensors: dict[str, mx.array], dtype: mx.Dtype | None, where: str) -> None:
    """Put tensors into a model, in the compute type, and read them from disk.

    Quantized tensors stay quantized where the backend is fast with them, and are expanded where it is not and
    memory allows (`backend.expand_quantized`).

    Args:
        lmm: the model, changed in place.
        tensors: lazy, by canonical name. Emptied: what was read must not stay beside what was made of it.
        dtype: type to compute in; None for the backend's.
        where: the model's place, for messages.

    Raises:
        ModelError: for tensors that do not fit the configuration, cannot be read, or hold NaN or infinity.
        MemoryLimitError: when they do not fit into memory.
    """
    quantization = lmm.config.quantization
    found = dict(tensors)
    tensors.clear()
    if quantization is not None:
        stored = sum(t.nbytes for t in found.values())
        keep = multiplied_packed(found, quantization)
        expanded = sum(expanded_bytes(n, found, quantization) for n in found if packed_module(n, found) not in keep)
        if backend.expand_quantized(stored, expanded):
            found = dict(expand(found, quantization, keep=keep))
            _say_how_to_stay_packed()
        quantize_modules(lmm, found, quantization)
    expected = {name: array.shape for name, array in lmm.named_weights().items()}
    directory.check_tensors({n: t.shape for n, t in found.items()}, expected, where)
    dtype = dtype or backend.current().dtype
    half = set() if quantization is None or dtype != mx.float32 else keep_half_scales(lmm, found)
    weights = [(n, _cast(n, t, dtype, packed_module(n, found) is not None, n in half)) for n, t in found.items()]
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
    _refuse_not_finite(lmm, weights, where)
    allocator.give_back()


def _say_how_to_stay_packed() -> None:
    """Say which command makes a packed model small and fast here, where that is what is missing."""
    note = backend.current().kernels_note
    if packed_products.COMMAND in note:
        print(
            f"rave-mlx: packed weights are expanded to float32 here (kernels: {note}); with them a model takes a "
            "fraction of the memory and answers faster",
            file=sys.stderr,
        )


def _refuse_not_finite(lmm: LMM, weights: Iterable[tuple[str, mx.array]], where: str) -> None:
    """Refuse weights that make every answer useless.

    A row of an embedding counts only when its token is read, and some models never trained all of theirs.
    """
    wrong = [name for name, tensor in weights if not (is_finite(tensor) or directory.is_bound(name))]
    if wrong == ["decoder.embed.weight"] and not lmm.config.text.tie_embeddings:
        print(f"rave-mlx: warning: {where}: NaN or infinite weights in {wrong[0]}", file=sys.stderr)
    elif wrong:
        raise ModelError(
            f"{where}: NaN or infinite weights in {some(wrong)}; the files are damaged, or the numbers too large for "
            "the type: download the model again, or choose a type with a wider range (bfloat16, float32)"
        )


def _cast(name: str, tensor: mx.array, dtype: mx.Dtype | None, packed: bool, half: bool) -> mx.array:
    """Floating tensors in the compute type, unless they are to stay in half precision; some are always float32
    (`directory.is_exact`), and packed integers stay as they are."""
    if not mx.issubdtype(tensor.dtype, mx.floating):
        if not packed:
            raise ModelError(f"tensor {name} has type {tensor.dtype}; weights must be floating point or quantized")
        return tensor
    if directory.is_exact(name):
        return tensor.astype(mx.float32)
    return tensor if dtype is None or half else tensor.astype(dtype)


def _template(folder: Path) -> str:
    try:
        return (folder / directory.TEMPLATE).read_text(encoding="utf-8")
    except OSError:
        raise ModelError(f"{folder}: {directory.TEMPLATE} is missing; download or convert the model again") from None


def read_dtype(dtype: str | mx.Dtype | None) -> mx.Dtype | None:
    """The MLX type of a name ("float32", "float16", "bfloat16"); None for None.

    Raises:
        ModelError: for another name.
    """
    if dtype is None or isinstance(dtype, mx.Dtype):
        return dtype
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[dtype]
