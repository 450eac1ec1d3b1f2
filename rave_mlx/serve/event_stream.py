"""Server-sent events, ended by both sides: when the client goes, what makes them is told at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rave_mlx.serve.answering import with_pings
from rave_mlx.serve.json_text import to_bytes

DONE = b"data: [DONE]\n\n"
_PING_SECONDS = 15.0
_PING = b": waiting\n\n"
"""A comment: clients pass it over, and machines on the way see that the connection is in use."""


def event(content: Mapping[str, Any]) -> bytes:
    """One event with JSON."""
    return b"data: " + to_bytes(content) + b"\n\n"


class EventStream(Response):
    """A response of events that are made while they are sent.

    Args:
        events: their bytes; closed when the client goes.
        close: called at the end, whatever it is.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], close: Callable[[], None]):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client goes."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, gone):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task
            await self._events.aclose()
            self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in with_pings(self._events, _PING_SECONDS, _PING):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
