"""Starting and stopping a server."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
from h11 import LocalProtocolError

from rave_mlx.errors import RaveError
from rave_mlx.serve.app import make_app
from rave_mlx.serve.context import Context
from rave_mlx.serve.patient_http import PatientHttp
from rave_mlx.serve.settings import ServeSettings
from rave_mlx.serve.shelf import Shelf

_FINISH_SECONDS = 20
"""What answers that are being written get to end when the server is stopped."""
_BACKLOG = 512


def serve_at(bound: socket.socket, shelf: Shelf, settings: ServeSettings) -> None:
    """Serve until a signal (SIGINT, SIGTERM) ends it; answers that are being written are finished first.

    Args:
        bound: the socket, as of `bind`; closed at the end.
        shelf: the models.
        settings: how the server runs.
    """
    bound.listen(_BACKLOG)
    context = Context.make(shelf, settings)
    _keep_logs_short()
    config = uvicorn.Config(
        make_app(context), http=PatientHttp, ws="none", lifespan="off", loop="asyncio", log_level="error",
        access_log=False, server_header=False, timeout_graceful_shutdown=_FINISH_SECONDS, timeout_keep_alive=30,
        backlog=_BACKLOG, h11_max_incomplete_event_size=64 << 10, proxy_headers=False,
    )  # fmt: skip
    context.start()
    try:
        print(f"rave-mlx: {shelf.base.name} at {address(bound)} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        _Server(config).run(sockets=[bound])
    finally:
        context.stop()
        bound.close()


def _keep_logs_short() -> None:
    """Log what is wrong with the server, and not what is wrong with requests: those are told so."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

    def is_ours(record: logging.LogRecord) -> bool:
        # h11 refuses to answer a client whose request turned out to be no HTTP half-way.
        return not (record.exc_info and isinstance(record.exc_info[1], LocalProtocolError))

    logging.getLogger("uvicorn.error").addFilter(is_ours)


class _Server(uvicorn.Server):
    """uvicorn's server, which by itself repeats the signal that ended it: the process would die of it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End in good order for the time of a block: at the second signal at once."""
        kept = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


def bind(settings: ServeSettings) -> socket.socket:
    """A socket at the address.

    Raises:
        RaveError: when it is in use, not this machine's, or not allowed.
    """
    where = f"--host {settings.host} --port {settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RaveError(f"port {settings.port} is in use; end what uses it, or choose another --port") from None
        raise RaveError(f"{where}: cannot be used ({error.strerror or error}); choose another address") from None
    return bound


def address(bound: socket.socket) -> str:
    """Where a browser finds the server."""
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
