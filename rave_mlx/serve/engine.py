"""Where answers are written: requests wait in a fair line, a few threads make jobs of them, one runs the model.

    ask = Ask(client, model, make, listener)
    engine.add(ask)             # QueueFullError when too many wait
    engine.cancel(ask)          # whenever nobody wants the answers any more

The listener is told, in the engine's threads: `Started` when the prompts are known, `Update`s as tokens come, or an
error, after which nothing follows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from rave_mlx.errors import RaveError
from rave_mlx.generation.job import Answer, Job, NewToken
from rave_mlx.generation.scheduler import Event
from rave_mlx.serve.errors import ApiError, from_rave
from rave_mlx.serve.fair_queue import FairQueue
from rave_mlx.serve.shelf import ServedModel, Shelf

_LOG = logging.getLogger("rave_mlx.serve")
_AHEAD = 4
"""Requests whose jobs are made before there is room for their answers; the pictures of each are in memory."""
_MAKERS = 2
"""Threads that read pictures and make jobs."""
INTERNAL = "something went wrong in the server; its log says what"


@dataclass(frozen=True, eq=False)
class Started:
    """The jobs of a request are made, and go to the model.

    Attributes:
        jobs: one an answer.
    """

    jobs: Sequence[Job]


@dataclass(frozen=True, eq=False)
class Update:
    """Something new of one answer.

    Attributes:
        index: which of the request's answers.
        tokens: those that came.
        answer: the whole, when it has ended.
        likely: for each of `tokens`, the likeliest ids in its place with their log-probabilities; where asked for.
    """

    index: int
    tokens: tuple[NewToken, ...]
    answer: Answer | None = None
    likely: tuple[Sequence[tuple[int, float]], ...] = ()


Told = Started | Update | ApiError


@dataclass(eq=False)
class Ask:
    """A request for answers.

    Attributes:
        client: who asks; clients take turns.
        model: name of the model.
        make: makes the jobs, in a thread of the engine's.
        listener: is told what comes of it; called in threads of the engine's, must not wait.
    """

    client: str
    model: str
    make: Callable[[ServedModel], Sequence[Job]]
    listener: Callable[[Told], None]
    cancelled: bool = False
    served: ServedModel | None = None
    jobs: Sequence[Job] = ()
    tickets: dict[int, int] = field(default_factory=dict)
    """Answers that are not there yet: the scheduler's ticket by index."""


class Engine:
    """Answers requests; `start` it, and `stop` it at the end.

    Args:
        shelf: the models.
        queue: how many requests may wait.

    Attributes:
        waiting: those who wait.
        on_answer: told of every answer that has ended, for the figures.
    """

    def __init__(self, shelf: Shelf, queue: int):
        self.shelf = shelf
        self.waiting: FairQueue[Ask] = FairQueue(queue)
        self.on_answer: Callable[[ServedModel, Answer, Job], None] = lambda model, answer, job: None
        self._changed = threading.Condition()
        self._ready: deque[Ask] = deque()
        self._making = 0
        self._open: dict[tuple[int, int], tuple[Ask, int]] = {}
        self._stopping = False
        makers = [threading.Thread(target=self._make_all, name=f"jobs-{n}", daemon=True) for n in range(_MAKERS)]
        self._threads = [*makers, threading.Thread(target=self._run, name="model", daemon=True)]

    def start(self) -> None:
        """Begin to answer."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Take nothing new; end what is not answered after so many seconds.

        Returns when the threads have ended, which takes as long as one step of the model more.
        """
        self.waiting.close()
        until = time.monotonic() + seconds
        while time.monotonic() < until and (len(self.waiting) or self.is_busy):
            time.sleep(0.02)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def is_busy(self) -> bool:
        """Whether there are requests beyond the line."""
        with self._changed:
            return bool(self._making or self._ready or self._open)

    @property
    def writing(self) -> int:
        """How many answers are being written, or read for."""
        with self._changed:
            return len(self._open)

    def add(self, ask: Ask) -> None:
        """Stand in line.

        Raises:
            QueueFullError: when too many wait.
        """
        self.waiting.put(ask.client, ask)

    def cancel(self, ask: Ask, index: int | None = None) -> None:
        """End the answers of a request, or one of them, where they are; nobody is told."""
        with self._changed:
            if index is None:
                ask.cancelled = True
            served = ask.served
            ending = [ask.tickets[index]] if index is not None and index in ask.tickets else []
            for ticket in list(ask.tickets.values()) if index is None else ending:
                if served is not None:
                    served.scheduler.cancel(ticket)
        if index is None:
            self.waiting.discard(ask)

    def _make_all(self) -> None:
        """A thread that makes jobs."""
        try:
            while self._make_next():
                pass
        finally:
            # MLX ends the process with an error when a thread leaves its streams behind.
            mx.clear_streams()

    def _make_next(self) -> bool:
        """Wait for a request and make its jobs; False at the end. Nothing of it is held afterwards."""
        ask = self._next_to_make()
        if ask is None:
            return False
        self._make(ask)
        with self._changed:
            self._making -= 1
            self._changed.notify_all()
        return True

    def _next_to_make(self) -> Ask | None:
        """The next request whose jobs are to be made, when there is room for them; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or len(self._ready) + self._making < _AHEAD)
            if self._stopping:
                return None
        ask = self.waiting.take()
        if ask is not None:
            with self._changed:
                self._making += 1
        return ask

    def _make(self, ask: Ask) -> None:
        """Make the jobs of a request; errors go to its listener."""
        if ask.cancelled:
            return
        try:
            ask.served = self.shelf.open(ask.model)
            ask.jobs = ask.make(ask.served)
        except ApiError as error:
            self._fail(ask, error)
        except RaveError as error:
            self._fail(ask, from_rave(error))
        except Exception:  # noqa: BLE001  # whatever it is, the others go on
            _LOG.exception("a request failed")
            self._fail(ask, ApiError(500, INTERNAL))
        else:
            with self._changed:
                self._ready.append(ask)
                self._changed.notify_all()

    def _fail(self, ask: Ask, error: ApiError) -> None:
        """Tell a request that nothing comes of it."""
        self._give_back(ask)
        if not ask.cancelled:
            ask.listener(error)

    def _give_back(self, ask: Ask) -> None:
        served, ask.served = ask.served, None
        if served is not None:
            self.shelf.give_back(served)

    def _run(self) -> None:
        """The model thread."""
        try:
            while self._wait():
                self._admit()
                for served in self.shelf.loaded:
                    if served.scheduler.is_busy:
                        self._step(served)
        finally:
            mx.clear_streams()

    def _wait(self) -> bool:
        """Wait for work; False when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._ready or self._open)
            return not self._stopping

    def _admit(self) -> None:
        """Give jobs to the schedulers, as far as there is room for their answers."""
        while True:
            with self._changed:
                if not self._ready or len(self._open) >= self._rows:
                    return
                ask = self._ready.popleft()
                served = ask.served
                self._changed.notify_all()
                if ask.cancelled or served is None:
                    self._give_back(ask)
                    continue
                ask.listener(Started(ask.jobs))
                for index, job in enumerate(ask.jobs):
                    ask.tickets[index] = ticket = served.scheduler.add(job)
                    self._open[id(served), ticket] = ask, index

    @property
    def _rows(self) -> int:
        return self.shelf.base.scheduler.rows

    def _step(self, served: ServedModel) -> None:
        """Write on; whatever happens to the model, the server goes on."""
        try:
            events = served.scheduler.step()
        except Exception:  # noqa: BLE001  # as above
            _LOG.exception("the model failed; its answers are given up")
            self._give_up(served)
            return
        for event in events:
            self._tell(served, event)

    def _tell(self, served: ServedModel, event: Event) -> None:
        """Hand what is new to the one who waits for it."""
        with self._changed:
            ask, index = self._open[id(served), event.ticket]
            if event.answer is not None:
                del self._open[id(served), event.ticket], ask.tickets[index]
            over = not ask.tickets
        if not ask.cancelled:
            ask.listener(Update(index, event.tokens, event.answer))
        if event.answer is not None:
            self.on_answer(served, event.answer, ask.jobs[index])
        if over:
            self._give_back(ask)

    def _give_up(self, served: ServedModel) -> None:
        """Fail all answers of a model, and begin with an empty scheduler."""
        with self._changed:
            failed = {key: self._open.pop(key) for key in list(self._open) if key[0] == id(served)}
            served.start_anew()
        for ask in {id(ask): ask for ask, _ in failed.values()}.values():
            ask.tickets.clear()
            self._fail(ask, ApiError(500, INTERNAL))
