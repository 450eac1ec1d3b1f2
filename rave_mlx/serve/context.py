"""What the routes of one server share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.requests import Request

from rave_mlx.serve.engine import Engine
from rave_mlx.serve.settings import ServeSettings
from rave_mlx.serve.shelf import Shelf
from rave_mlx.serve.side_work import SideWork


@dataclass(frozen=True, eq=False)
class Context:
    """A running server.

    Attributes:
        settings: how it runs.
        shelf: its models.
        engine: writes the answers.
        looking, reading, drawing: threads for what is not an answer alone.
    """

    settings: ServeSettings
    shelf: Shelf
    engine: Engine
    looking: SideWork
    reading: SideWork
    drawing: SideWork

    @classmethod
    def make(cls, shelf: Shelf, settings: ServeSettings) -> Context:
        """What a server consists of; nothing runs yet."""
        queue = settings.limits.queue
        works = (SideWork(name, threads, queue) for name, threads in (("look", 1), ("read", 2), ("draw", 2)))
        return cls(settings, shelf, Engine(shelf, queue), *works)

    def start(self) -> None:
        """Begin to work."""
        for part in (self.engine, self.looking, self.reading, self.drawing):
            part.start()

    def stop(self) -> None:
        """End; returns when all threads have."""
        self.engine.stop(0)
        for part in (self.looking, self.reading, self.drawing):
            part.stop()

    def client(self, request: Request, user: object = None) -> str:
        """Who asks, for the order in line: the address, and the `user` that a client names."""
        address = request.client.host if request.client is not None else ""
        return f"{address}/{user}" if isinstance(user, str) else address

    def retry_after(self) -> int:
        """Seconds after which a place in line will be free, about."""
        return max(1, math.ceil(len(self.engine.waiting) / max(1, self.settings.rows) / 4))
