"""A layer's experts: many small MLPs, of which a router chooses a few for every token (mixture of experts).

In a decoder layer `Experts` stands where an MLP stands in others, as `layer.mlp`, wherever `TextConfig.experts` says
so. Its weights, under canonical names after `decoder.layers.N.mlp.`:

    router.weight                                        (experts, hidden)
    experts.gate_proj.weight, experts.up_proj.weight     (experts, width, hidden)
    experts.down_proj.weight                             (experts, hidden, width)
    shared.{gate_proj,up_proj,down_proj}.weight          an MLP for every token, where `shared_size` says so
    shared_gate.weight                                   (1, hidden), what its output is multiplied with, if anything

The experts are mlx-lm's switch layers, which read only the chosen experts' weights, and, of many tokens, each expert's
one after the other.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import gated
from rave_mlx.backend.mlx_lm_file import mlx_lm_file
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


def switch(text: TextConfig, experts: ExpertsConfig) -> nn.Module:
    """A layer's experts without a router, called with states (B, L, hidden) and the chosen experts (B, L, chosen)."""
    glu = mlx_lm_file("models.switch_layers").SwitchGLU
    made: nn.Module = glu(text.hidden_size, experts.intermediate_size, experts.count, _Gated(text.activation))
    return made


class Experts(nn.Module):
    """The chosen experts' outputs, each times its share, added up, and an MLP for every token where there is one."""

    def __init__(self, text: TextConfig, experts: ExpertsConfig):
        super().__init__()
        hidden = text.hidden_size
        self.router = nn.Linear(hidden, experts.count, bias=False)
        self.experts = switch(text, experts)
        if experts.shared_size is not None:
            self.shared = MLP(text, experts.shared_size)
            if experts.shared_gate:
                self.shared_gate = nn.Linear(hidden, 1, bias=False)
        self._config = experts

    def __call__(self, x: mx.array) -> mx.array:
        """What the layer adds to the stream, from normalized states x (B, L, hidden)."""
        chosen, shares = self.route(x)
        out: mx.array = (self.experts(x, chosen) * shares[..., None]).sum(axis=-2)
        if "shared" not in self:
            return out
        shared = self.shared(x)
        return out + (mx.sigmoid(self.shared_gate(x)) * shared if "shared_gate" in self else shared)

    def route(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """The experts chosen for every token (B, L, chosen), in no order, and their shares, in the type of x.

        The softmax is of float32 numbers. The choice itself has no gradient, the shares have.
        """
        config = self._config
        scores = mx.softmax(self.router(x), axis=-1, precise=True)
        chosen = largest(self._allowed(scores), config.chosen)
        shares = mx.take_along_axis(scores, chosen, axis=-1)
        if config.normalize:
            shares = shares / shares.sum(axis=-1, keepdims=True)
        return chosen, shares if config.scale == 1 else shares * config.scale

    def _allowed(self, scores: mx.array) -> mx.array:
        """Scores (B, L, experts), below 0 for the experts of groups that a token does not choose among."""
        groups, chosen = self._config.groups, self._config.chosen_groups
        if groups == chosen:
            return scores
        grouped = scores.reshape(*scores.shape[:2], groups, -1)
        best = largest(grouped.max(axis=-1), chosen)
        allowed = (best[..., None] == mx.arange(groups)).any(axis=-2)
        return mx.where(allowed[..., None], grouped, -1.0).reshape(scores.shape)


def largest(scores: mx.array, count: int) -> mx.array:
    """Where the largest of the last axis are, in no order; without a gradient."""
    return mx.stop_gradient(mx.argpartition(scores, kth=-count, axis=-1)[..., -count:])
