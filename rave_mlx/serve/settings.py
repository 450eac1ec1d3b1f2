"""What a server may do and how much: set once, when it starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from rave_mlx.errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, and nobody else can reach it under that."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Limits:
    """How much one request, and all of them together, may take.

    Attributes:
        body_bytes: of a request's body.
        images: in one request.
        pixels: of one picture.
        max_tokens: longest answer; requests for more get this much.
        image_tokens: largest budget of visual tokens an image.
        choices: answers to one request (`n`, or prompts times `n`).
        pages: of one document that is read, extracted from or drawn.
        queue: requests that wait; more are turned away.
        body_seconds: for a request's body to arrive.
        seconds: for a request to be answered, waiting included.
        download_bytes: of a remote image.
        download_seconds: for a remote image to arrive.
    """

    body_bytes: int = 64 << 20
    images: int = 32
    pixels: int = 64_000_000
    max_tokens: int = 4096
    image_tokens: int = 16_384
    choices: int = 16
    pages: int = 200
    queue: int = 64
    body_seconds: float = 60.0
    seconds: float = 600.0
    download_bytes: int = 20 << 20
    download_seconds: float = 15.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be above 0")


@dataclass(frozen=True)
class ServeSettings:
    """How a server runs.

    Attributes:
        host: address that it listens at.
        port: 0 for any that is free.
        api_key: what clients have to send; None where nobody else can reach the server.
        adapters: folders by the name under which they are asked for.
        adapter_bytes: memory that adapters may take beside the model.
        rows: answers that are written together.
        prefix_bytes: of keys and values of recent prompts, and as many of image features; None for the default.
        remote_images: whether images are fetched from other servers.
        limits: how much a request may take.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    adapter_bytes: int = 2 << 30
    rows: int = 8
    prefix_bytes: int | None = None
    remote_images: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.is_local and not self.api_key:
            raise UsageError(f"--host {self.host}: others could reach the server; give --api-key, or stay at 127.0.0.1")
        if self.api_key is not None and (not self.api_key.isascii() or len(self.api_key) < 8):
            raise UsageError("--api-key must be 8 ASCII characters or more")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port is {self.port}; a port is a number from 0 (any that is free) to 65535")

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can reach the server."""
        return is_loopback(self.host)
