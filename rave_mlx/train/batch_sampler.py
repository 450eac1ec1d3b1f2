"""Which rows are in which batch: shuffled anew every epoch, similar lengths together, a function of the seed alone.

The state to go on from is therefore two numbers, epoch and position in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rave_mlx.errors import UsageError

_POOL = 64
"""Batches among which rows are sorted by length: padding falls to a few percent, and what is together stays random."""


@dataclass(frozen=True)
class BatchSampler:
    """The batches of every epoch.

    Attributes:
        lengths: tokens of every row.
        batch_size: rows of a batch, over all processes together.
        seed: of the shuffling.
        rank, size: which of how many processes this is. Every batch is dealt out over them.
    """

    lengths: Sequence[int]
    batch_size: int
    seed: int = 0
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"a batch size of {self.batch_size} was asked for; it must be at least 1")
        if self.batch_size < self.size:
            raise UsageError(
                f"a batch of {self.batch_size} rows cannot be dealt out over {self.size} processes; "
                f"raise --batch-size to at least {self.size}"
            )

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def batches(self, epoch: int) -> list[tuple[int, ...]]:
        """Rows of this process in every batch of an epoch, in order.

        Every row is in exactly one batch. The rows that are left over at the end make a smaller batch, in which a
        process may have none.
        """
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self.lengths))
        lengths = np.asarray(self.lengths)[shuffled]
        pool = np.arange(len(shuffled)) // (_POOL * self.batch_size)
        sorted_in_pools = shuffled[np.lexsort((lengths, pool))]
        cuts = range(0, len(shuffled), self.batch_size)
        batches = [sorted_in_pools[i : i + self.batch_size] for i in cuts]
        return [tuple(batches[i][self.rank :: self.size].tolist()) for i in rng.permutation(len(batches))]
