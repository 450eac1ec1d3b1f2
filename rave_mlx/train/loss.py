"""Cross-entropy over the trained tokens, in float32, without ever holding their vocabulary scores at once.

With a vocabulary of 152,000 the scores of 2,000 tokens take 1.2 GB, and their gradient as much again. Here only the
positions before a trained token go through the head, some at a time, and their scores are computed again for the
gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from rave_mlx.attention import Path
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.lmm import LMM
from rave_mlx.train.batch import Batch
from rave_mlx.train.forward import hidden_states, recomputed

CHUNK_SCORES = 1 << 24
"""Vocabulary scores that exist at once: 64 MB in float32."""


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
    row, column = np.nonzero(batch.trained)
    states = hidden[mx.array(row.astype(np.int32)), mx.array((column - 1).astype(np.int32))]
    targets = mx.array(batch.ids[row, column])
    return cross_entropy(lmm.decoder, states, targets), batch.count


def cross_entropy(decoder: Decoder, states: mx.array, targets: mx.array, *, chunk: int | None = None) -> mx.array:
    """Sum of -log softmax(head(state))[target] over states (N, hidden) and targets (N,); float32 scalar.

    `chunk` states go through the head at a time; None: as many as CHUNK_SCORES allows.
    """
    text = decoder._text
    head = decoder.embed if text.tie_embeddings else decoder.head
    chunk = chunk or max(1, CHUNK_SCORES // text.vocab_size)

    def part(start: int) -> mx.array:
        def scored(states: mx.array) -> mx.array:
            scores = decoder.logits(states).astype(mx.float32)
            right = mx.take_along_axis(scores, targets[start : start + chunk, None], axis=-1)[:, 0]
            return mx.sum(mx.logsumexp(scores, axis=-1) - right)

        return recomputed(head, scored, states[start : start + chunk])

    return mx.sum(mx.stack([part(start) for start in range(0, states.shape[0], chunk)]))
