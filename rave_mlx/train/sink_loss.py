"""The sink decorrelation loss (Anand, Cappellazzo, Petridis, Pantic, arXiv 2510.22603; ICASSP 2026).

Tokens of little meaning whose hidden states point where the first token's does become attention sinks of their own
(intermediate sinks), with its massive activations. The loss is the mean squared cosine between the two,

    1 / (L - 1) sum_{l = 1}^{L - 1}  1 / |P| sum_{j in P}  cos(x_0^l, x_j^l)^2,

x^l the residual stream that enters decoder layer l of L (so neither embeddings nor the last output) and P the tokens
behind the first one that are no answer. This is the authors' code (umbertocappellazzo/Llama-AVSR @410842d,
models/modeling_AVSRLLM.py), which adds it 10,000 times to the mean cross-entropy. Here the denominators go over all
tokens of an update: its micro-batches, and all processes. Padding does not count; of several turns, no answer does.
The first token is the start token where a model has one, else whatever its template begins with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.errors import UsageError
from rave_mlx.models.lmm import LMM
from rave_mlx.train.batch import Batch
from rave_mlx.train.dataset import RowStats
from rave_mlx.train.parameters import trained_weights

_TINY = 1e-12
"""Squared norm below which a state counts as one without direction."""


class Cosines:
    """Adds up squared cosines while a forward pass hands out what enters its layers (`forward.hidden_states`)."""

    def __init__(self) -> None:
        self.total = mx.array(0.0)

    def __call__(self, layer: int, x: mx.array, batch: Batch) -> None:
        """Look at the states (B, L, hidden) that enter a layer."""
        if layer:
            self.total = self.total + squared_cosines(x, mx.array(counted(batch)))


def squared_cosines(x: mx.array, marks: mx.array) -> mx.array:
    """Sum over marked tokens (B, L) of the squared cosine of their states (B, L, hidden) with the first; float32.

    Nothing but the states is kept for the gradient.
    """

    def inner(x: mx.array) -> mx.array:
        x = x.astype(mx.float32)
        products = (x @ x[:, :1].swapaxes(-1, -2))[..., 0]
        norms = mx.maximum(mx.sum(mx.square(x), axis=-1), _TINY)
        return mx.sum(mx.where(marks, mx.square(products) / norms / norms[:, :1], 0.0))

    total: mx.array = mx.checkpoint(inner)(x)
    return total


def counted(batch: Batch) -> NDArray[np.bool_]:
    """(B, L) marks of the tokens whose cosines count."""
    columns = np.arange(batch.ids.shape[1])
    marks: NDArray[np.bool_] = (columns > 0) & (columns < batch.lengths[:, None]) & ~batch.loss_mask
    return marks


def terms(stats: Sequence[RowStats], rows: Iterable[int], num_layers: int) -> tuple[int, int]:
    """Trained tokens of some rows, and how many squared cosines they have."""
    chosen = [stats[row] for row in rows]
    trained = sum(row.trained_tokens for row in chosen)
    return trained, (num_layers - 1) * sum(row.tokens - 1 - row.trained_tokens for row in chosen)


def check_sink_loss(lmm: LMM) -> None:
    """Refuse a run in which nothing that trains changes the states that the loss looks at.

    Raises:
        UsageError: saying so.
    """
    last = lmm.config.text.num_layers - 1
    behind = (f"decoder.layers.{last}.", "decoder.norm.", "decoder.head.")
    if not last:
        raise UsageError("--sink-loss: the model has one layer, and the loss looks at what enters later ones")
    if all(name.startswith(behind) for name in trained_weights(lmm)):
        raise UsageError(
            f"--sink-loss: nothing that trains comes before the states it looks at, the inputs of layers 1 to {last}; "
            "train an earlier layer, or leave --sink-loss out"
        )
