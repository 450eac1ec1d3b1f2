"""What the routes of one server share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.requests import Request

from rave_mlx.serve.engine import Engine
from rave_mlx.serve.settings import ServeSettings
from rave_mlx.serve.shelf import Shelf


@dataclass(frozen=True, eq=False)
class Context:
    """A running server.

    Attributes:
        settings: how it runs.
        shelf: its models.
        engine: writes the answers.
    """

    settings: ServeSettings
    shelf: Shelf
    engine: Engine

    def client(self, request: Request, user: object = None) -> str:
        """Who asks, for the order in line: the address, and the `user` that a client names."""
        address = request.client.host if request.client is not None else ""
        return f"{address}/{user}" if isinstance(user, str) else address

    def retry_after(self) -> int:
        """Seconds after which a place in line will be free, about."""
        return max(1, math.ceil(len(self.engine.waiting) / max(1, self.settings.rows) / 4))
