"""What is minimized: mean cross-entropy of the trained tokens, and on request the sink decorrelation loss beside it.

Gradients of an update are sums over micro-batches and processes, divided by trained tokens at its end. The means of
the sink loss have another denominator. Both are known before: from the lengths of the update's rows, in all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx

from rave_mlx.models.lmm import LMM
from rave_mlx.train.batch import Batch
from rave_mlx.train.batch_sampler import BatchSampler
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.dataset import Dataset
from rave_mlx.train.loss import loss, losses
from rave_mlx.train.sink_loss import terms

Parts = tuple[mx.array, mx.array, mx.array]
"""What is minimized; of it the sum of cross-entropies; the sum of squared cosines, 0 where they do not count."""


class Objective:
    """The objective of a run's micro-batches."""

    def __init__(self, lmm: LMM, config: TrainConfig, rows: Dataset):
        self._lmm, self._config, self._rows = lmm, config, rows
        self._sampler = BatchSampler(rows.lengths, config.batch_size, config.seed)
        self._batches: tuple[int, list[tuple[int, ...]]] = (-1, [])

    def of(
        self, batch: Batch, features: Mapping[str, mx.array] | None, epoch: int, position: int
    ) -> Callable[[], Parts]:
        """For one process' share of the micro-batch at a position in an epoch."""
        lmm, weight, checkpoint = self._lmm, self._config.sink_loss, self._config.checkpointing

        def plain() -> Parts:
            entropy, _ = loss(lmm, batch, features, checkpoint=checkpoint)
            return entropy, entropy, mx.array(0.0)

        def decorrelating() -> Parts:
            trained, cosines = self._terms(epoch, position)
            entropy, sink = losses(lmm, batch, features, checkpoint=checkpoint)
            return entropy + weight * trained / max(cosines, 1) * sink, entropy, sink

        return decorrelating if weight else plain

    def mean_sink(self, total: float, epoch: int, position: int) -> float | None:
        """The sink loss of a whole update from its sum of squared cosines; None where it does not count."""
        return total / max(self._terms(epoch, position)[1], 1) if self._config.sink_loss else None

    def _terms(self, epoch: int, position: int) -> tuple[int, int]:
        """Trained tokens and squared cosines of the update that a micro-batch belongs to, over all processes."""
        if self._batches[0] != epoch:
            self._batches = epoch, self._sampler.batches(epoch)
        several = self._config.accumulate
        first = position - position % several
        rows = (row for batch in self._batches[1][first : first + several] for row in batch)
        return terms(self._rows.stats, rows, self._lmm.config.text.num_layers)
