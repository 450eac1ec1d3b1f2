"""How ggml packs weights, and what they are in MLX.

A row is cut into blocks of 32 or 256 weights with their scales. Where 32 weights share a scale and a shift, a block is
what MLX calls an affine group and keeps its codes: these types are taken apart here, because the `gguf` package gives
numbers only. All others are expanded by that package, into float16.
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h, ggml-quants.c
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from rave_mlx.convert.gguf.container import Stored

GROUP = 32
"""Weights of an affine group."""
_ROWS = 4096
"""Rows expanded in one go: the numbers come in float32, which is twice what is kept."""

Bytes = NDArray[Any]
"""Of np.uint8."""
Codes = tuple[Bytes, NDArray[np.float32], NDArray[np.float32]]
"""Of n blocks: codes (n, weights), and for each group of 32 the factor and what is added (n, weights / 32)."""


@dataclass(frozen=True)
class Packing:
    """A type that stays packed: the width of a code in bits, and how blocks (n, bytes) are taken apart."""

    bits: int
    read: Callable[[Bytes], Codes]


def packing(stored: Stored) -> Packing | None:
    """How MLX holds a tensor packed; None where it is expanded."""
    return PACKED.get(stored.kind) if len(stored.shape) == 2 else None


def parts(stored: Stored) -> dict[str, mx.array]:
    """A tensor for MLX: "weight", and if it is packed "scales" and "biases" in float16.

    Raises:
        NotImplementedError: for a type that neither this module nor the `gguf` package reads.
    """
    found = _parts(stored)
    stored.give_back()
    return found


def _parts(stored: Stored) -> dict[str, mx.array]:
    packed = packing(stored)
    if packed is None:
        return {"weight": expand(stored)}
    codes, factor, shift = packed.read(stored.data.reshape(-1, GGML_QUANT_SIZES[stored.kind][1]))
    rows = stored.shape[0]
    return {
        "weight": mx.array(_pack(codes.reshape(rows, -1), packed.bits)),
        "scales": mx.array(factor.astype(np.float16).reshape(rows, -1)),
        "biases": mx.array(shift.astype(np.float16).reshape(rows, -1)),
    }


def expand(stored: Stored) -> mx.array:
    """A tensor as numbers: float32, float16 and bfloat16 as they are, packed types in float16.

    Raises:
        NotImplementedError: for a type that the `gguf` package does not read.
    """
    if stored.kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        return mx.array(stored.data.reshape(stored.shape))
    if stored.kind == GGMLQuantizationType.BF16:
        return mx.array(stored.data.view(np.uint16).reshape(stored.shape)).view(mx.bfloat16)
    rows = stored.data.reshape(-1, stored.data.shape[-1])
    expanded = np.empty((len(rows), stored.shape[-1]), np.float16)
    # What is too large for float16 becomes infinite, which the check of every conversion reports.
    with np.errstate(over="ignore"):
        for first in range(0, len(rows), _ROWS):
            expanded[first : first + _ROWS] = dequantize(rows[first : first + _ROWS], stored.kind)
    return mx.array(expanded.reshape(stored.shape))


def _pack(codes: Bytes, bits: int) -> NDArray[np.uint32]:
    """Codes (rows, width) as a stream of bits, the lowest first."""
    if bits == 8:
        packed = codes
    elif bits == 4:
        packed = codes[:, 0::2] | codes[:, 1::2] << 4
    else:
        spread = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
        packed = np.packbits(spread.reshape(codes.shape[0], -1), axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint32)


def _half(blocks: Bytes, first: int) -> NDArray[np.float32]:
    """The float16 at byte `first` of every block (n, 1)."""
    return np.ascontiguousarray(blocks[:, first : first + 2]).view(np.float16).astype(np.float32)


def _nibbles(data: Bytes) -> Bytes:
    """Low halves of bytes (n, m), then high halves (n, 2 m)."""
    return np.concatenate([data & 15, data >> 4], axis=1)


def _q4_0(blocks: Bytes) -> Codes:
    factor = _half(blocks, 0)
    return _nibbles(blocks[:, 2:]), factor, -8 * factor


def _q4_1(blocks: Bytes) -> Codes:
    return _nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Codes:
    factor = _half(blocks, 0)
    return _fifth_bits(blocks[:, 2:]), factor, -16 * factor


def _q5_1(blocks: Bytes) -> Codes:
    return _fifth_bits(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _fifth_bits(data: Bytes) -> Bytes:
    """Four bytes with the highest bits, then nibbles."""
    codes: Bytes = _nibbles(data[:, 4:]) | np.unpackbits(data[:, :4], axis=1, bitorder="little") << 4
    return codes


def _q8_0(blocks: Bytes) -> Codes:
    factor = _half(blocks, 0)
    return blocks[:, 2:] ^ 128, factor, -128 * factor


def _scales_k(blocks: Bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factors and shifts (n, 8) of Q4_K and Q5_K: six bits each, the last four spread over spare bits."""
    data = blocks[:, 4:16]
    low, high, both = data[:, :4], data[:, 4:8], data[:, 8:]
    factor = np.concatenate([low & 63, both & 15 | low >> 6 << 4], axis=1)
    shift = np.concatenate([high & 63, both >> 4 | high >> 6 << 4], axis=1)
    return _half(blocks, 0) * factor, -_half(blocks, 2) * shift


def _q4_k(blocks: Bytes) -> Codes:
    return (_nibbles(blocks[:, 16:].reshape(-1, GROUP)).reshape(-1, 256), *_scales_k(blocks))


def _q5_k(blocks: Bytes) -> Codes:
    # Bit i of byte l is the highest of weight l in group i.
    highest = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").swapaxes(1, 2).reshape(-1, 256)
    codes = _nibbles(blocks[:, 48:].reshape(-1, GROUP)).reshape(-1, 256) | highest << 4
    return (codes, *_scales_k(blocks))


PACKED = {
    GGMLQuantizationType.Q4_0: Packing(4, _q4_0),
    GGMLQuantizationType.Q4_1: Packing(4, _q4_1),
    GGMLQuantizationType.Q5_0: Packing(5, _q5_0),
    GGMLQuantizationType.Q5_1: Packing(5, _q5_1),
    GGMLQuantizationType.Q8_0: Packing(8, _q8_0),
    GGMLQuantizationType.Q4_K: Packing(4, _q4_k),
    GGMLQuantizationType.Q5_K: Packing(5, _q5_k),
}
"""Types that stay packed."""
