"""Longer work beside the answers: looking, reading, extracting. A few threads of their own, and a fair line.

They take turns with the model thread (`generation.turns`), step by step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx
from starlette.requests import Request

from rave_mlx.errors import RaveError
from rave_mlx.serve.answering import busy, while_connected
from rave_mlx.serve.engine import INTERNAL
from rave_mlx.serve.errors import ApiError, from_rave
from rave_mlx.serve.fair_queue import FairQueue, QueueFullError

T = TypeVar("T")
_LOG = logging.getLogger("rave_mlx.serve")


class Stopped(Exception):
    """The work is given up."""


@dataclass(eq=False)
class _Work:
    do: Callable[[Callable[[], None]], Any]
    done: Callable[[Any, BaseException | None], None]
    stopped: bool = False

    def check(self) -> None:
        """Give up, where nobody waits any more.

        Raises:
            Stopped: then.
        """
        if self.stopped:
            raise Stopped


class SideWork:
    """Threads for one kind of work.

    Args:
        name: of the threads.
        threads: how many.
        queue: how many may wait.
    """

    def __init__(self, name: str, threads: int, queue: int):
        self.waiting: FairQueue[_Work] = FairQueue(queue)
        self._running: set[_Work] = set()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(threads)
        ]  # fmt: skip

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; what is being done is given up at its next step."""
        self.waiting.close()
        for work in list(self._running):
            work.stopped = True
        for thread in self._threads:
            thread.join()

    async def do(
        self,
        request: Request,
        client: str,
        what: Callable[[Callable[[], None]], T],
        *,
        seconds: float,
        retry_after: int,
    ) -> T:
        """Have something done, as long as the client waits.

        Args:
            request: whose connection is watched.
            client: who asks; clients take turns.
            what: is called in a thread, with a function that it calls now and then, and that raises when it shall stop.
            seconds: how long it may take.
            retry_after: for clients that find no place in line, in seconds.

        Raises:
            ApiError: what `what` raises, also in place of a RaveError; when too many wait; when it takes too long.
            ClientGoneError: when the client goes.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def done(result: Any, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        work = _Work(what, done)
        try:
            self.waiting.put(client, work)
        except QueueFullError:
            raise busy(retry_after) from None
        try:
            return await while_connected(request, future, seconds)
        finally:
            work.stopped = True
            self.waiting.discard(work)

    def _run(self) -> None:
        try:
            while (work := self.waiting.take()) is not None:
                if work.stopped:
                    continue
                self._running.add(work)
                try:
                    work.done(work.do(work.check), None)
                except Stopped:
                    pass
                except ApiError as error:
                    work.done(None, error)
                except RaveError as error:
                    work.done(None, from_rave(error))
                except Exception:  # noqa: BLE001  # whatever it is, the others go on
                    _LOG.exception("a request failed")
                    work.done(None, ApiError(500, INTERNAL))
                finally:
                    self._running.discard(work)
        finally:
            # MLX ends the process with an error when a thread leaves its streams behind.
            mx.clear_streams()
