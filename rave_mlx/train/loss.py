"""Cross-entropy over the trained tokens, in float32, without ever holding their vocabulary scores at once.

With a vocabulary of 152,000 the scores of 2,000 tokens take 1.2 GB, and their gradient as much again. Here only the
positions before a trained token go through the head, some at a time, and their scores are computed again for the
gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from rave_mlx.attention import Path
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.lmm import LMM
from rave_mlx.train.activation_checkpointing import split_keys, substitute_parameters
from rave_mlx.train.batch import Batch
from rave_mlx.train.forward import hidden_states
from rave_mlx.train.sink_loss import Cosines

Weights = dict[str, mx.array]

CHUNK_SCORES = 1 << 22
"""Vocabulary scores that exist at once: 16 MB in float32, and a few times that while they are worked on."""


def loss(
    lmm: LMM,
    batch: Batch,
    features: Mapping[str, mx.array] | None = None,
    *,
    checkpoint: bool = False,
    path: Path | None = "train",
) -> tuple[mx.array, int]:
    """Sum of the cross-entropy (natural log, float32 scalar) of the trained tokens, and how many there are.

    What the sum is divided by is the caller's business: the trained tokens of all micro-batches and machines.
    Arguments as of `hidden_states`. A batch without rows gives 0 and 0, and zero gradients.
    """
    if not batch.count:
        return mx.array(0.0), 0
    hidden = hidden_states(lmm, batch, features, checkpoint=checkpoint, path=path)
    return _of_trained(lmm, batch, hidden), batch.count


def losses(
    lmm: LMM,
    batch: Batch,
    features: Mapping[str, mx.array] | None = None,
    *,
    checkpoint: bool = False,
    path: Path | None = "train",
) -> tuple[mx.array, mx.array]:
    """`loss`'s sum, and that of the squared cosines of the sink decorrelation loss (`sinks`), from one forward pass."""
    cosines = Cosines()
    hidden = hidden_states(lmm, batch, features, checkpoint=checkpoint, path=path, watch=cosines)
    return _of_trained(lmm, batch, hidden), cosines.total


def _of_trained(lmm: LMM, batch: Batch, hidden: mx.array) -> mx.array:
    """Cross-entropy of the trained tokens, from the states (B, L, hidden) that they are predicted from."""
    row, column = np.nonzero(batch.loss_mask)
    states = hidden[mx.array(row.astype(np.int32)), mx.array((column - 1).astype(np.int32))]
    targets = mx.array(batch.ids[row, column])
    return cross_entropy(lmm.decoder, states, targets)


def cross_entropy(decoder: Decoder, states: mx.array, targets: mx.array, *, chunk: int | None = None) -> mx.array:
    """Sum of -log softmax(head(state))[target] over states (N, hidden) and targets (N,); float32 scalar.

    `chunk` states go through the head at a time; None: as many as CHUNK_SCORES allows. Chunks wait for each other, in
    the backward pass too, so that the scores of one are gone before those of the next exist.
    """
    head = decoder.embed if decoder.text.tie_embeddings else decoder.head
    trainable = dict(tree_flatten(head.trainable_parameters()))
    chunk = chunk or max(1, CHUNK_SCORES // decoder.text.vocab_size)
    spans = [slice(start, start + chunk) for start in range(0, states.shape[0], chunk)]
    keys = split_keys(len(spans))

    def score(index: int, states: mx.array, weights: Weights) -> mx.array:
        with substitute_parameters([head], [weights], keys[index]):
            return decoder.logits(states)

    def gradient(index: int, states: mx.array, weights: Weights, cotangent: mx.array) -> tuple[mx.array, Weights]:
        scores = score(index, states, weights)
        slope = cotangent * mx.softmax(scores.astype(mx.float32), axis=-1)
        slope = slope.at[mx.arange(slope.shape[0]), targets[spans[index]]].subtract(cotangent)
        # The head is linear: its outcome is not computed a second time for this.
        again = lambda states, *flat: score(index, states, dict(zip(weights, flat, strict=True)))  # noqa: E731
        _, (first, *rest) = mx.vjp(again, [states, *weights.values()], [slope.astype(scores.dtype)])
        return first, dict(zip(weights, rest, strict=True))

    @mx.custom_function
    def total(states: mx.array, weights: Weights) -> mx.array:
        found = mx.array(0.0)
        for index, span in enumerate(spans):
            now = mx.depends([states[span]], [found])[0]
            scores = score(index, now, weights).astype(mx.float32)
            right = mx.take_along_axis(scores, targets[span, None], axis=-1)[:, 0]
            found = found + mx.sum(mx.logsumexp(scores, axis=-1) - right)
        return found

    @total.vjp
    def total_vjp(primals: tuple[mx.array, Weights], cotangent: mx.array, output: mx.array) -> tuple[mx.array, Weights]:
        states, weights = primals
        by_state: list[mx.array] = []
        by_weight = {name: mx.zeros_like(weight) for name, weight in weights.items()}
        for index, span in enumerate(spans):
            now = mx.depends([states[span]], [*by_state[-1:], *by_weight.values()])[0]
            first, rest = gradient(index, now, weights, cotangent)
            by_state.append(first)
            by_weight = {name: by_weight[name] + more for name, more in rest.items()}
        return mx.concatenate(by_state), by_weight

    return cast(mx.array, total(states, trainable))
