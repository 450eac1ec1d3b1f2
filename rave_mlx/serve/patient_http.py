"""HTTP for slow clients: a connection on which no request comes within some seconds is closed."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 60.0
"""For a request's head to arrive, from the beginning of the connection; busy clients connect long before."""


class PatientHttp(H11Protocol):
    """uvicorn's protocol, which by itself waits for a head without end."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connects."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._close_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def _close_silent(self) -> None:
        cycle: Any = self.cycle
        if cycle is None and not self.transport.is_closing():
            self.transport.close()
