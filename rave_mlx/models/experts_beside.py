"""Experts beside a layer's MLP (Gemma 4): both read the stream through norms, and what they give is normed and added.

In a decoder layer `ExpertsBeside` stands as `layer.mlp` wherever `ExpertsConfig.beside` says so. Its weights, under
canonical names after `decoder.layers.N.mlp.`, beside those of `models.experts`:

    router_scale        (hidden,)     what the router's normed input is multiplied with
    expert_scale        (experts,)    what an expert's share is multiplied with
    shared_out_norm, experts_norm, experts_out_norm
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import ExpertsConfig, TextConfig
from rave_mlx.models.experts import largest, switch
from rave_mlx.models.mlp import MLP
from rave_mlx.models.norms import text_norm


class ExpertsBeside(nn.Module):
    """An MLP for every token, and beside it the chosen experts' outputs, each times its share."""

    def __init__(self, text: TextConfig, experts: ExpertsConfig, width: int):
        """Of the decoder's own kind; `width` is that of the MLP."""
        super().__init__()
        hidden = text.hidden_size
        self.shared = MLP(text, width)
        self.router = nn.Linear(hidden, experts.count, bias=False)
        self.router_scale, self.expert_scale = mx.ones(hidden), mx.ones(experts.count)
        self.experts = switch(text, experts)
        self.shared_out_norm, self.experts_norm, self.experts_out_norm = (text_norm(text, hidden) for _ in range(3))
        self._chosen, self._eps = experts.chosen, text.norm_eps

    def __call__(self, x: mx.array, stream: mx.array) -> mx.array:
        """What the layer's last norm takes (B, L, hidden), from its normalized states x and from the stream."""
        chosen, shares = self.route(stream)
        out = (self.experts(self.experts_norm(stream), chosen) * shares[..., None]).sum(axis=-2)
        added: mx.array = self.shared_out_norm(self.shared(x)) + self.experts_out_norm(out)
        return added

    def route(self, stream: mx.array) -> tuple[mx.array, mx.array]:
        """The experts chosen for every token (B, L, chosen), in no order, and their shares, in the type of the stream.

        The softmax is of float32 numbers. The choice itself has no gradient, the shares have.
        """
        normed = mx.fast.rms_norm(stream, None, self._eps) * self.router_scale * stream.shape[-1] ** -0.5
        scores = mx.softmax(self.router(normed), axis=-1, precise=True)
        chosen = largest(scores, self._chosen)
        shares = mx.take_along_axis(scores, chosen, axis=-1)
        return chosen, shares / shares.sum(axis=-1, keepdims=True) * self.expert_scale[chosen]
