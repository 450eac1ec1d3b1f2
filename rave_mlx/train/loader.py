"""Batches that are ready when the model is: threads decode images and build what comes next while it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from rave_mlx.train.batch import Batch, collate
from rave_mlx.train.batch_sampler import BatchSampler
from rave_mlx.train.dataset import Dataset


class Loader:
    """The batches of one epoch from a position on, in their order, however many threads there are.

        with Loader(dataset, order, epoch, position) as batches:
            for batch in batches: ...

    Args:
        dataset: the examples.
        order: which of them are in which batch.
        epoch: which epoch.
        position: batches to leave out at its beginning.
        workers: threads; each builds whole batches, and two for each are kept ready at most.

    An error in a thread (an image that became unreadable, say) is raised where its batch would have come.
    """

    def __init__(self, dataset: Dataset, order: BatchSampler, epoch: int, position: int = 0, *, workers: int = 2):
        self._dataset = dataset
        self._rows = iter(order.batches(epoch)[position:])
        self._ahead = 2 * max(1, workers)
        self._threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="loader")
        self._pending: deque[Future[Batch]] = deque()

    def __iter__(self) -> Iterator[Batch]:
        self._fill()
        while self._pending:
            batch = self._pending.popleft().result()
            self._fill()
            yield batch

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads; batches that they are at are finished and dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def _fill(self) -> None:
        while len(self._pending) < self._ahead:
            rows = next(self._rows, None)
            if rows is None:
                return
            self._pending.append(self._threads.submit(self._build, rows))

    def _build(self, rows: tuple[int, ...]) -> Batch:
        return collate([self._dataset[row] for row in rows])
