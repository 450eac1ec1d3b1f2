"""The gated MLP of a decoder layer."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import gated
from rave_mlx.config import TextConfig
from rave_mlx.models.joined import Joined, outputs


class MLP(nn.Module):
    """act(gate) * up: SwiGLU, or with another activation."""

    def __init__(self, text: TextConfig, width: int | None = None):
        """Of the decoder's own width, or of `width`."""
        super().__init__()
        width = text.intermediate_size if width is None else width
        self.gate_proj = nn.Linear(text.hidden_size, width, bias=text.mlp_bias)
        self.up_proj = nn.Linear(text.hidden_size, width, bias=text.mlp_bias)
        self.down_proj = nn.Linear(width, text.hidden_size, bias=text.mlp_bias)
        self._activation = text.activation
        self._joined: Joined | None = None

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self.gated(*outputs(self, (self.gate_proj, self.up_proj), x)))

    def gated(self, gate: mx.array, up: mx.array) -> mx.array:
        """act(gate) * up, what enters the last matrix."""
        return gated(self._activation, gate, up)
