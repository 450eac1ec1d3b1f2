"""Which base model is this? A fingerprint that an adapter keeps of the model that it was trained on.

It covers the name and shape of every weight and a sample of its values, rounded to bfloat16. So it is the same
whether a checkpoint is opened in float32 or bfloat16, packed or expanded, with or without adapters on it, and it
reads a few kilobytes of however many gigabytes. Pair gates and sink gates do not count: adapters bring their own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from rave_mlx.checkpoint.directory import EXPERTS, is_gate
from rave_mlx.models.lmm import LMM

_SAMPLES = 32
"""Values sampled of a weight."""
_ADAPTED = ("lora_a", "lora_b", "m", "lora_bias")


def fingerprint(lmm: LMM) -> str:
    """Tell base models apart: SHA-256, in hexadecimal, over names, shapes and sampled values of the weights."""
    parts = sorted(_samples(lmm))
    values = np.array(mx.concatenate([x for _, _, x in parts]).astype(mx.bfloat16).astype(mx.float32))
    digest = hashlib.sha256()
    for name, shape, _ in parts:
        digest.update(f"{name} {list(shape)}\n".encode())
    # Zero has two signs, and dequantized weights may have the other one.
    digest.update((values + 0.0).astype("<f4").tobytes())
    return digest.hexdigest()


def adapter_fingerprint(folder: str | os.PathLike[str] | None) -> str | None:
    """Tell adapters apart: SHA-256, in hexadecimal, over the weights and settings in a folder; None for no adapter."""
    if folder is None:
        return None
    digest = hashlib.sha256()
    files = [file for file in Path(folder).iterdir() if file.suffix in (".safetensors", ".json") and file.is_file()]
    for file in sorted(files):
        with file.open("rb") as opened:
            digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _samples(lmm: LMM) -> Iterator[tuple[str, tuple[int, ...], mx.array]]:
    """Canonical name, shape and sampled values (float32) of every weight of the base."""
    for name, module in lmm.named_modules():
        # An adapted layer keeps the base's under one of these names.
        canonical = name.removesuffix(".linear").removesuffix(".embedding")
        weight = module.get("weight") if "scales" in module else None
        if weight is not None:
            row = _first_row(module)
            yield f"{canonical}.weight", (*weight.shape[:-1], row.size), _pick(row)
        for leaf, x in module.items():
            skipped = weight is not None and leaf in ("weight", "scales", "biases")
            if isinstance(x, mx.array) and not skipped and leaf not in _ADAPTED:
                full = f"{canonical}.{leaf}" if name else leaf
                if not is_gate(full):
                    # Of a packed matrix only a row is unpacked; so only a row counts of a plain one.
                    rows = x.ndim == 2 or EXPERTS in full
                    yield full, tuple(x.shape), _pick(x.reshape(-1, x.shape[-1])[0] if rows else x)


def _first_row(module: nn.Module) -> mx.array:
    """The first row that a packed matrix stands for, in float32."""

    def first(packed: mx.array) -> mx.array:
        return packed.reshape(-1, packed.shape[-1])[:1]

    scales, biases = first(module.scales), module.get("biases")
    if biases is not None:
        scales, biases = scales.astype(mx.float32), first(biases).astype(mx.float32)
    setting = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
    return mx.dequantize(first(module.weight), scales, biases, **setting, dtype=mx.float32)[0]


def _pick(x: mx.array) -> mx.array:
    """At most `_SAMPLES` values, evenly spread."""
    flat = x.reshape(-1)
    count = min(_SAMPLES, flat.size)
    return flat[mx.array(np.linspace(0, flat.size - 1, count).astype(np.int64))].astype(mx.float32)
