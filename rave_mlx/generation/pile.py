"""The answers to a pile of jobs, in the order of the jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from rave_mlx.generation.job import Answer, Failed, Job
from rave_mlx.generation.job_feed import JobFeed

_AHEAD = 4
"""Jobs that are made before there is room for them; a page of 1,000 visual tokens takes 20 MB."""
_MOST_BEHIND = 512
"""Answers that may wait for one before them that takes longer; no further jobs are begun beyond."""


class _Event(Protocol):
    @property
    def ticket(self) -> int: ...

    @property
    def answer(self) -> Answer | None: ...


class Writer(Protocol):
    """What writes the answers: the scheduler."""

    @property
    def free_rows(self) -> int:
        """How many more answers could be written now."""

    @property
    def is_busy(self) -> bool:
        """Whether there is an answer to write."""

    def add(self, job: Job) -> int:
        """Take a job; returns its ticket."""

    def cancel(self, ticket: int) -> None:
        """End an answer where it is."""

    def step(self) -> Sequence[_Event]:
        """Write on."""


def answers_in_order(writer: Writer, jobs: Iterable[Job | Failed]) -> Iterator[Answer]:
    """Have a pile of jobs answered.

    Args:
        writer: writes the answers, and nothing else meanwhile.
        jobs: taken a few ahead in a thread of their own.

    Raises:
        Exception: what the iterable raises, after the answers to the jobs before.
    """
    order: deque[int | Answer] = deque()
    done: dict[int, Answer] = {}
    try:
        with JobFeed(jobs, _AHEAD) as feed:
            failure: Exception | None = None
            while order or not feed.is_over:
                try:
                    _take(feed, writer, order)
                except Exception as error:  # noqa: BLE001  # raised below, after what came before it
                    failure = error
                for event in writer.step() if writer.is_busy else ():
                    if event.answer is not None:
                        done[event.ticket] = event.answer
                while order and (isinstance(order[0], Answer) or order[0] in done):
                    first = order.popleft()
                    yield first if isinstance(first, Answer) else done.pop(first)
            if failure is not None:
                raise failure
    finally:
        for left in order:
            if not isinstance(left, Answer):
                writer.cancel(left)


def _take(feed: JobFeed[Job | Failed], writer: Writer, order: deque[int | Answer]) -> None:
    """Take jobs for which there is room; waits for one where there is nothing else to do."""
    while writer.free_rows > 0 and len(order) < _MOST_BEHIND:
        job = feed.take(wait=not order)
        if job is None:
            return
        if isinstance(job, Failed):
            order.append(Answer(job.key, ending="error", error=job.error))
            return
        order.append(writer.add(job))
