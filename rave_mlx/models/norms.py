"""The decoder's RMS norms: plain ones, and Gemma's, which multiply by one plus their weight."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.decode_ops import RMSNorm
from rave_mlx.config import TextConfig


class OffsetRMSNorm(nn.Module):
    """x / rms(x) * (1 + weight), in float32 where it is multiplied (Gemma)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = mx.zeros(width)
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Norm x (..., width), in its own type."""
        factor = self.weight.astype(mx.float32) + 1.0
        normalized: mx.array = mx.fast.rms_norm(x.astype(mx.float32), factor, self.eps).astype(x.dtype)
        return normalized


def text_norm(text: TextConfig, width: int) -> RMSNorm | OffsetRMSNorm:
    """A norm of the decoder over `width` numbers."""
    return OffsetRMSNorm(width, text.norm_eps) if text.offset_norms else RMSNorm(width, text.norm_eps)
