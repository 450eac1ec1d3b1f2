"""A layer's experts: many small MLPs, of which a router chooses a few for every token (mixture of experts).

In a decoder layer `Experts` stands where an MLP stands in others, as `layer.mlp`, wherever `TextConfig.experts` says
so. Its weights, under canonical names after `decoder.layers.N.mlp.`:

    router.weight                                        (experts, hidden)
    experts.gate_proj.weight, experts.up_proj.weight     (experts, width, hidden)
    experts.down_proj.weight                             (experts, hidden, width)
    shared.{gate_proj,up_proj,down_proj}.weight          an MLP for every token, where `shared_size` says so
    shared_gate.weight                                   (1, hidden), what that MLP's output is multiplied with

The experts are mlx-lm's switch layers, which read only the chosen experts' weights, and, of many tokens, each expert's
one after the other.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU

from rave_mlx.backend.activations import gated
from rave_mlx.config import ExpertsConfig, TextConfig
from rave_mlx.config.vision import Activation
from rave_mlx.models.mlp import MLP


class _Gated(nn.Module):
    """act(gate) * up, as mlx-lm's switch layers call it."""

    def __init__(self, activation: Activation):
        super().__init__()
        self._activation = activation

    def __call__(self, up: mx.array, gate: mx.array) -> mx.array:
        return gated(self._activation, gate, up)


class Experts(nn.Module):
    """The chosen experts' outputs, each times its share, added up, and an MLP for every token where there is one."""

    def __init__(self, text: TextConfig, experts: ExpertsConfig):
        super().__init__()
        hidden = text.hidden_size
        self.router = nn.Linear(hidden, experts.count, bias=False)
        self.experts = SwitchGLU(hidden, experts.intermediate_size, experts.count, _Gated(text.activation))
        if experts.shared_size is not None:
            self.shared = MLP(text, experts.shared_size)
            self.shared_gate = nn.Linear(hidden, 1, bias=False)
        self._chosen, self._normalize = experts.chosen, experts.normalize

    def __call__(self, x: mx.array) -> mx.array:
        """What the layer adds to the stream, from normalized states x (B, L, hidden)."""
        chosen, shares = self.route(x)
        out: mx.array = (self.experts(x, chosen) * shares[..., None]).sum(axis=-2)
        if "shared" in self:
            out = out + mx.sigmoid(self.shared_gate(x)) * self.shared(x)
        return out

    def route(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """The experts chosen for every token (B, L, chosen), in no order, and their shares, in the type of x.

        The softmax is of float32 numbers. The choice itself has no gradient, the shares have.
        """
        scores = mx.softmax(self.router(x), axis=-1, precise=True)
        chosen = mx.stop_gradient(mx.argpartition(scores, kth=-self._chosen, axis=-1)[..., -self._chosen :])
        shares = mx.take_along_axis(scores, chosen, axis=-1)
        if self._normalize:
            shares = shares / shares.sum(axis=-1, keepdims=True)
        return chosen, shares
