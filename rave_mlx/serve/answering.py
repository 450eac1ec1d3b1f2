"""The answers to one request as they come, on the event loop; they are given up when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from starlette.requests import Request

from rave_mlx.generation.job import Job
from rave_mlx.serve.engine import Ask, Engine, Started, Told, Update
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.fair_queue import QueueFullError
from rave_mlx.serve.shelf import ServedModel

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class Answering:
    """Answers that were asked for: `started()` once, then `updates()`; `close()` in any case.

    Args:
        engine: writes them.
        client: who asks.
        model: name of the model.
        make: makes the jobs; see `Ask`.
        retry_after: seconds after which to try again when too many wait.
        seconds: how long all of it may take.
        prepare: completes updates, in the model thread.

    Raises:
        ApiError: when too many wait (429).
    """

    def __init__(
        self,
        engine: Engine,
        client: str,
        model: str,
        make: Callable[[ServedModel], Sequence[Job]],
        *,
        retry_after: int,
        seconds: float,
        prepare: Callable[[Update], Update] = lambda update: update,
    ):
        self._engine = engine
        self._told = waiting = asyncio.Queue[Told]()
        loop = asyncio.get_running_loop()
        self._seconds, self._until = seconds, loop.time() + seconds

        # It must not refer to `self`: pictures would stay in memory until the garbage collector comes.
        def listener(told: Told) -> None:
            told = prepare(told) if isinstance(told, Update) else told
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(waiting.put_nowait, told)

        self._ask = Ask(client, model, make, listener)
        try:
            engine.add(self._ask)
        except QueueFullError:
            raise busy(retry_after) from None

    async def started(self) -> Sequence[Job]:
        """The jobs, when they are made.

        Raises:
            ApiError: when they cannot be, or the time is over.
        """
        told = await self._next()
        assert isinstance(told, Started)
        return told.jobs

    async def updates(self, count: int) -> AsyncIterator[Update]:
        """What is new, until so many answers have ended.

        Raises:
            ApiError: when the model fails, or the time is over.
        """
        while count:
            told = await self._next()
            if isinstance(told, Update):
                count -= told.answer is not None
                yield told

    async def _next(self) -> Started | Update:
        try:
            async with asyncio.timeout_at(self._until):
                told = await self._told.get()
        except TimeoutError:
            raise too_slow(self._seconds) from None
        if isinstance(told, ApiError):
            raise told
        return told

    def cancel(self, index: int) -> None:
        """End one of the answers where it is; its end is still told."""
        self._engine.cancel(self._ask, index)

    def close(self) -> None:
        """Nobody wants the answers any more; nothing happens where they have ended."""
        self._engine.cancel(self._ask)


def busy(retry_after: int) -> ApiError:
    """The error for a request that finds no place in line."""
    return ApiError(
        429, f"too many requests wait already; try again in {retry_after} s", code="queue_full",
        headers={"Retry-After": str(retry_after)},
    )  # fmt: skip


async def while_connected(request: Request, work: Awaitable[T], seconds: float | None = None) -> T:
    """Wait for something as long as the client does; the request's body has to be read already.

    Args:
        request: whose connection is watched.
        work: what is waited for; it is cancelled when the client goes, or the time is over.
        seconds: longest time; None where the work watches it.

    Raises:
        ClientGoneError: when the client goes.
        ApiError: when the time is over (503).
    """
    gone, working = asyncio.ensure_future(_disconnected(request)), asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, working}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if gone.done():
            raise ClientGoneError
        assert seconds is not None
        raise too_slow(seconds)
    finally:
        for task in (gone, working):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ApiError, ClientGoneError):
                await task
        # An error that was raised here refers to this frame, and the task to the error.
        del task, gone, working


def too_slow(seconds: float) -> ApiError:
    """The error for a request that takes longer than it may."""
    return ApiError(
        503, f"the answer took longer than {seconds:g} s; ask for less, or start the server with a longer --timeout",
        code="timeout",
    )  # fmt: skip


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def with_pings(source: AsyncGenerator[bytes], every: float, ping: bytes) -> AsyncGenerator[bytes]:
    """What comes from a source, and `ping` whenever nothing came for a while: it keeps connections open.

    Args:
        source: closed at the end.
        every: seconds.
        ping: what is sent.
    """
    waiting: asyncio.Task[bytes] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(source))
            if not (await asyncio.wait({waiting}, timeout=every))[0]:
                yield ping
                continue
            try:
                piece = waiting.result()
            except StopAsyncIteration:
                waiting = None
                return
            waiting = None
            yield piece
    finally:
        if waiting is not None:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await waiting
        await source.aclose()
