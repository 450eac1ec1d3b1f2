"""Layers with packed weights whose scales and biases stay in half precision while all else is computed in float32.

They are a seventh of a 4-bit model's bytes that way, instead of a quarter. `mx.quantized_matmul` would turn them into
float32 for every product; the kernels of a CPU (`backend.cpu.packed_products`) read them as they are.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend
from rave_mlx.backend.cpu.layer_steps import Matrix, product


class PackedLinear(nn.QuantizedLinear):
    """A linear layer with packed weights."""

    def __call__(self, x: mx.array) -> mx.array:
        y = packed_matmul(x, self["weight"], self["scales"], self.get("biases"), self.group_size, self.bits, self.mode)
        return y + self["bias"] if "bias" in self else y


class PackedEmbedding(nn.QuantizedEmbedding):
    """A table of embeddings with packed rows."""

    def __call__(self, ids: mx.array) -> mx.array:
        biases = self.get("biases")
        rows: mx.array = mx.dequantize(
            self["weight"][ids],
            self["scales"][ids].astype(mx.float32),
            None if biases is None else biases[ids].astype(mx.float32),
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )
        return rows

    def as_linear(self, x: mx.array) -> mx.array:
        """Scores of all rows, x (..., width) times the transpose of the table."""
        biases = self.get("biases")
        return packed_matmul(x, self["weight"], self["scales"], biases, self.group_size, self.bits, self.mode)


LINEAR = (nn.Linear, nn.QuantizedLinear, PackedLinear)
"""Types of layers that multiply with a matrix, add a bias, and do nothing else."""


def keep_half(module: nn.Module) -> None:
    """Make a quantized layer, in place, one that computes with scales of half precision."""
    if type(module) is nn.QuantizedLinear:
        module.__class__ = PackedLinear
    elif type(module) is nn.QuantizedEmbedding:
        module.__class__ = PackedEmbedding


def reads_half(group_size: int, bits: int, mode: str) -> bool:
    """Whether products with scales of half precision are as fast here as with float32."""
    kernels = backend.current().kernels
    return kernels is not None and kernels.steps is not None and backend.multiplies_packed(group_size, bits, mode)


def packed_matmul(
    x: mx.array, weight: mx.array, scales: mx.array, biases: mx.array | None, group_size: int, bits: int, mode: str
) -> mx.array:
    """x (..., width) times the transpose of a packed matrix (rows, width), in the type of x.

    Args:
        x, weight, scales, biases, group_size, bits, mode: as of `mx.quantized_matmul`.
    """
    kernels = backend.current().kernels
    mixed = x.dtype == mx.float32 and scales.dtype != mx.float32 and biases is not None
    if mixed and kernels is not None and kernels.steps is not None and reads_half(group_size, bits, mode):
        assert biases is not None
        return product(kernels.steps, x, Matrix(weight, scales, biases, None, bits, group_size))
    return mx.quantized_matmul(x, weight, scales, biases, transpose=True, group_size=group_size, bits=bits, mode=mode)
