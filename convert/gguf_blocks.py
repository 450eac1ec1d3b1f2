"""How ggml packs weights, and what they are in MLX.

A row is cut into blocks of 32 or 256 weights with their scales. Where 32 weights share a scale and a shift, a block is
what MLX calls an affine group and keeps its codes; Q6_K has a scale for 16, which MLX has not, and is expanded.
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h, ggml-quants.c
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

GROUP = 32
"""Weights of an affine group."""

Bytes = NDArray[Any]
"""Of np.uint8."""
Codes = tuple[Bytes, NDArray[np.float32], NDArray[np.float32]]
"""Of n blocks: codes (n, weights), and for each group of 32 the factor and what is added (n, weights / 32)."""


@dataclass(frozen=True)
class Block:
    """A type of ggml: its name, weights and bytes a block, and how it is read.

    Attributes:
        bits: of a code; None for types that are not packed in MLX.
        read: codes from blocks (n, bytes), or floating-point weights (n, weights).
    """

    name: str
    weights: int
    bytes: int
    bits: int | None
    read: Callable[[Bytes], Any]


def parts(block: Block, shape: tuple[int, ...], data: Bytes) -> dict[str, mx.array]:
    """A tensor for MLX: "weight", and if it is packed "scales" and "biases" in float16."""
    blocks = data.reshape(-1, block.bytes)
    if block.bits is None or len(shape) != 2:
        values = block.read(blocks)
        if block.bits is not None:
            codes, factor, shift = values
            values = (np.repeat(factor, GROUP, 1) * codes + np.repeat(shift, GROUP, 1)).astype(np.float16)
        array = mx.array(values.reshape(shape))
        return {"weight": array.astype(mx.bfloat16) if block.name == "BF16" else array}
    codes, factor, shift = block.read(blocks)
    rows = shape[0]
    return {
        "weight": mx.array(_pack(codes.reshape(rows, -1), block.bits)),
        "scales": mx.array(factor.astype(np.float16).reshape(rows, -1)),
        "biases": mx.array(shift.astype(np.float16).reshape(rows, -1)),
    }


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


def _q6_k(blocks: Bytes) -> NDArray[np.float16]:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    codes = (low | high << 4).astype(np.float32).reshape(-1, 16, 16) - 32
    factor = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    weights: NDArray[np.float16] = (factor[..., None] * codes).astype(np.float16)
    return weights


def _float32(blocks: Bytes) -> NDArray[np.float32]:
    return blocks.view(np.float32)


def _float16(blocks: Bytes) -> NDArray[np.float16]:
    return blocks.view(np.float16)


def _bfloat16(blocks: Bytes) -> NDArray[np.float32]:
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


BLOCKS = {
    0: Block("F32", 1, 4, None, _float32),
    1: Block("F16", 1, 2, None, _float16),
    2: Block("Q4_0", 32, 18, 4, _q4_0),
    3: Block("Q4_1", 32, 20, 4, _q4_1),
    6: Block("Q5_0", 32, 22, 5, _q5_0),
    7: Block("Q5_1", 32, 24, 5, _q5_1),
    8: Block("Q8_0", 32, 34, 8, _q8_0),
    12: Block("Q4_K", 256, 144, 4, _q4_k),
    13: Block("Q5_K", 256, 176, 5, _q5_k),
    14: Block("Q6_K", 256, 210, None, _q6_k),
    30: Block("BF16", 1, 2, None, _bfloat16),
}
"""Types by ggml's number."""
