"""A connection from process 0 to each of the others, beside MLX's own: it carries what they are to do, and shows at
once when one of them is gone.

MLX's collectives wait for ever for a process that died, or say so late and to its neighbours only; a socket that closes
is noticed by the process at its other end, whatever its program is waiting for. A machine that fell asleep or lost its
cable is noticed by the system's own probes, after half a minute.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rave_mlx.backend.distributed import World
from rave_mlx.errors import RaveError

Message = dict[str, Any]
Arrays = Mapping[str, NDArray[Any]]

_HEADER = struct.Struct(">IQ")
_TOKEN = 32
_MEET_SECONDS = 60.0
"""What the processes have to find each other."""
_PROBES = (("TCP_KEEPIDLE", 10), ("TCP_KEEPALIVE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
"""Seconds of silence before the system probes a connection, and between probes; how many may be lost."""


class Link:
    """One end of a connection: what is sent goes in order, from a thread of its own; what came waits to be taken.

    Args:
        connected: the socket.
        other: number of the process at the other end.
        gone: called in a thread of the link when the connection ended without a farewell.
    """

    def __init__(self, connected: socket.socket, other: int, gone: Any):
        self.other = other
        self._socket, self._gone = connected, gone
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._incoming: SimpleQueue[tuple[Message, dict[str, NDArray[Any]]]] = SimpleQueue()
        self._closing = False
        self._threads = [threading.Thread(target=task, daemon=True) for task in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def put(self, frame: bytes) -> None:
        """Send what `encoded` gave, soon."""
        self._outgoing.put(frame)

    def take(self) -> tuple[Message, dict[str, NDArray[Any]]]:
        """The next message, when it has come."""
        return self._incoming.get()

    def close(self) -> None:
        """Send what is waiting, and end the connection."""
        self._closing = True
        self._outgoing.put(None)
        self._threads[0].join(timeout=5)

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (frame := self._outgoing.get()) is not None:
                self._socket.sendall(frame)
            self._socket.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                message, arrays = _received(self._socket)
                if message["do"] == "end":
                    self._closing = True
                if message["do"] == "failed":
                    self._closing = True
                    self._gone(self, message["why"], message["code"])
                self._incoming.put((message, arrays))
        if not self._closing:
            self._gone(self, None, 1)


def encoded(message: Message, arrays: Arrays | None = None) -> bytes:
    """A message as bytes: JSON, and arrays behind it."""
    arrays = {name: np.ascontiguousarray(x) for name, x in (arrays or {}).items()}
    described = {name: [x.dtype.str, x.shape] for name, x in arrays.items()}
    text = json.dumps({**message, "arrays": described}).encode()
    data = b"".join(x.tobytes() for x in arrays.values())
    return _HEADER.pack(len(text), len(data)) + text + data


def _received(connected: socket.socket) -> tuple[Message, dict[str, NDArray[Any]]]:
    length, size = _HEADER.unpack(_exactly(connected, _HEADER.size))
    message = json.loads(_exactly(connected, length))
    data, arrays, at = _exactly(connected, size), {}, 0
    for name, (kind, shape) in message.pop("arrays").items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, np.dtype(kind), count, at).reshape(shape)
        at += arrays[name].nbytes
    return message, arrays


def _exactly(connected: socket.socket, count: int) -> bytes:
    """So many bytes; EOFError where the connection ends before."""
    data = bytearray()
    while len(data) < count:
        more = connected.recv(min(count - len(data), 1 << 20))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def meet(world: World) -> list[Link]:
    """Connect process 0 with each of the others; in process 0 a link to every other, in these one to process 0.

    From now on a process whose counterpart is gone says so in one line and ends with exit code 1.

    Raises:
        RaveError: where they do not find each other.
    """
    try:
        return _listen(world) if world.rank == 0 else [_connect(world)]
    except OSError as error:
        raise RaveError(
            f"process {world.rank}: the processes do not reach process 0 ({error.strerror or error}); give addresses "
            "of one network to mlx.launch"
        ) from None


def _listen(world: World) -> list[Link]:
    """Wait for the others; each has to know a word that only the processes of this run are told."""
    token = secrets.token_bytes(_TOKEN)
    links: list[Link] = []
    with socket.create_server((_address(), 0), backlog=world.size) as server:
        host, port = server.getsockname()[:2]
        world.broadcast_text(json.dumps([host, port, token.hex()]))
        server.settimeout(_MEET_SECONDS)
        while len(links) < world.size - 1:
            connected, _ = server.accept()
            connected.settimeout(_MEET_SECONDS)
            with contextlib.suppress(OSError, EOFError):
                if hmac.compare_digest(_exactly(connected, _TOKEN), token):
                    (rank,) = struct.unpack(">I", _exactly(connected, 4))
                    links.append(Link(_prepared(connected), rank, _leave_all(links)))
                    continue
            connected.close()
    return sorted(links, key=lambda link: link.other)


def _connect(world: World) -> Link:
    host, port, token = json.loads(world.broadcast_text(""))
    connected = socket.create_connection((host, port), timeout=_MEET_SECONDS)
    connected.sendall(bytes.fromhex(token) + struct.pack(">I", world.rank))

    def gone(_: Link, why: str | None, code: int) -> None:
        # Process 0 tells the others before it ends, unless it was killed; one of them is to say so.
        leave("process 0 is gone, and so its answers; start again" if world.rank == 1 else "", code)

    return Link(_prepared(connected), 0, gone)


def _leave_all(links: list[Link]) -> Any:
    """What process 0 does when another one is gone or failed: tell the rest, say why, and end."""

    def gone(link: Link, why: str | None, code: int) -> None:
        for each in links:
            if each is not link:
                each.put(encoded({"do": "end"}))
                each.close()
        leave(f"process {link.other}: {why}" if why else f"process {link.other} is gone, and so the part of the model "
              "that it held; start all of them again", code)  # fmt: skip

    return gone


def leave(line: str, code: int) -> NoReturn:
    """End this process at once, with one line: its other threads may be waiting for what never comes."""
    with contextlib.suppress(OSError):
        if line:
            os.write(2, f"rave-mlx: {line}\n".encode())
    os._exit(code)


def _prepared(connected: socket.socket) -> socket.socket:
    connected.settimeout(None)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
    return connected


def _address() -> str:
    """An address of this machine, process 0's, that the others reach: the one that mlx.launch was given."""
    if file := os.environ.get("MLX_HOSTFILE"):
        return str(json.loads(Path(file).read_text(encoding="utf-8"))[0][0]).rpartition(":")[0]
    if coordinator := os.environ.get("MLX_JACCL_COORDINATOR"):
        return coordinator.rpartition(":")[0]
    return os.environ.get("NCCL_HOST_IP") or socket.gethostbyname(socket.gethostname())
