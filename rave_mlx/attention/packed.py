"""Keys and values in 8 or 4 bits: packed a row at a time, and expanded again.

A row is one key (or value) of one head. It is packed by itself, in groups of 64 or 32 neighbouring numbers with a scale
and an offset each (MLX's affine mode), so its bits depend on nothing but its own numbers.
"""

from __future__ import annotations

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.attention.kernels.fused import Packed
from rave_mlx.errors import UsageError

BITS = (4, 8)
_GROUP_SIZES = (64, 32)


def group_size(width: int, bits: int | None) -> int:
    """Numbers that share a scale, in rows of a width.

    Raises:
        UsageError: for bits or a width that cannot be packed.
    """
    if bits not in BITS:
        raise UsageError(f"--kv-bits (kv_bits) is {bits}; keys and values are kept in 8 or 4 bits, or whole without it")
    for size in _GROUP_SIZES:
        if width % size == 0:
            return size
    raise UsageError(
        f"--kv-bits (kv_bits): heads of {width} numbers cannot be packed, only those of a multiple of "
        f"{_GROUP_SIZES[-1]}; leave it out"
    )


def pack(x: mx.array, size: int, bits: int) -> Packed:
    """Rows (..., d) in `bits` bits, in groups of `size`."""
    return Packed(*mx.quantize(x, size, bits), size, bits)


def expand(x: Packed, dtype: mx.Dtype) -> mx.array:
    """The rows (..., d) that a packed array stands for."""
    if backend.current().kind != "cpu":
        return mx.dequantize(x.codes, x.scales, x.biases, x.group_size, x.bits).astype(dtype)
    # The same numbers to the bit, in a third of the time: MLX unpacks on a CPU one number after the other.
    codes = x.codes.view(mx.uint8)
    if x.bits == 4:
        codes = mx.stack([codes & 15, codes >> 4], axis=-1)
    grouped = codes.reshape(*x.scales.shape, x.group_size).astype(x.scales.dtype)
    plain = grouped * x.scales[..., None] + x.biases[..., None]
    return plain.reshape(*x.codes.shape[:-1], -1).astype(dtype)


def expanded(x: mx.array | Packed, dtype: mx.Dtype) -> mx.array:
    """`expand` for what may be plain already."""
    return expand(x, dtype) if isinstance(x, Packed) else x
