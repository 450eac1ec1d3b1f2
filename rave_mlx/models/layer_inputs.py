"""What a token gives to every decoder layer besides the stream (per-layer embeddings, Gemma 3n and Gemma 4)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import gated
from rave_mlx.config import LayerInputsConfig, TextConfig
from rave_mlx.models.norms import text_norm


class LayerInputs(nn.Module):
    """Of the whole decoder: a narrow embedding of every token for each layer, and a projection of its first one."""

    def __init__(self, text: TextConfig, config: LayerInputsConfig):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, text.num_layers * config.width)
        self.proj = nn.Linear(text.hidden_size, text.num_layers * config.width, bias=False)
        self.norm = text_norm(text, config.width)
        self._width, self._visual = config.width, config.visual
        self._scale = text.hidden_size**-0.5

    def __call__(self, ids: mx.array, x: mx.array, visual: mx.array | None) -> tuple[mx.array, ...]:
        """What tokens give to the layers, (B, L, width) each.

        Args:
            ids: of the tokens (B, L).
            x: what enters the first layer (B, L, hidden): embeddings, or features of images.
            visual: (B, L) marks of visual tokens, which have no embedding of their own; None where there are none.
        """
        ids = ids if visual is None else mx.where(visual, self._visual, ids)
        own = (self.embed(ids).astype(x.dtype) * self._width**0.5).reshape(*ids.shape, -1, self._width)
        if visual is not None:
            # The row that stands for them never trains, as in torch.
            own = mx.where(visual[..., None, None], mx.stop_gradient(own), own)
        projected = self.norm((self.proj(x) * self._scale).reshape(*ids.shape, -1, self._width))
        both = (projected + own) * 2**-0.5
        return tuple(both[:, :, layer] for layer in range(both.shape[2]))


class LayerInput(nn.Module):
    """Of one layer: what a token gives to it, under a gate that the stream opens."""

    def __init__(self, text: TextConfig, config: LayerInputsConfig):
        super().__init__()
        self.gate = nn.Linear(text.hidden_size, config.width, bias=False)
        self.proj = nn.Linear(config.width, text.hidden_size, bias=False)
        self.norm = text_norm(text, text.hidden_size)
        self._activation = text.activation

    def __call__(self, x: mx.array, given: mx.array) -> mx.array:
        """What is added to the stream x (B, L, hidden); given (B, L, width)."""
        added: mx.array = self.norm(self.proj(gated(self._activation, self.gate(x), given)))
        return added
