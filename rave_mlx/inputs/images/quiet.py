"""Keep image libraries off stderr: what goes wrong in them reaches the user as one ImageError.

Pillow warns about odd metadata and about sizes that `decode` limits itself, its TIFF reader logs, and libtiff prints
from C. None of it tells more than the error does, or than a picture that opened well.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator

_LIBTIFF = re.compile(rb"(?:^|(?<=[\r\n]))(?:[\w.]+: |Warning, )(?:(?!rave-mlx: )[^\r\n])*\.\n")
"""A line as libtiff's default handlers write it: the function or the file, the message and a full stop.

It is written in three pieces. Where another thread writes a line of ours between them, it is left as it is.
"""


@contextlib.contextmanager
def quiet(*, tiff: bool = False) -> Iterator[None]:
    """Ignore warnings and log lines of Pillow and pypdfium2 inside the block.

    The filter names these packages, so if another thread's block restores it late, nothing of the caller's is lost.

    Args:
        tiff: a TIFF is decoded, about which libtiff prints; see `_Stderr`.
    """
    _quiet_for_good()
    with warnings.catch_warnings(), _STDERR if tiff else contextlib.nullcontext():
        warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif|pypdfium2")
        yield


@functools.cache
def _quiet_for_good() -> None:
    """Logging goes where the program sends it, but not to stderr by default."""
    for name in ("PIL", "pypdfium2"):
        logging.getLogger(name).addHandler(logging.NullHandler())


class _Stderr:
    """Holds back what the process writes to stderr while TIFFs are decoded, and leaves out what libtiff said.

    Pillow offers no way to libtiff's handlers. Other threads' lines come out when the last TIFF of those that are
    being decoded at a time is done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._held = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._held.enter_context(_held_back())
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._held.close()


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    try:
        stderr = os.dup(2)
    except OSError:  # a program without stderr
        yield
        return
    with tempfile.TemporaryFile() as held:
        _flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            with contextlib.suppress(OSError):  # nobody reads stderr any more
                os.write(2, _LIBTIFF.sub(b"", held.read()))


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
        sys.stderr.flush()


_STDERR = _Stderr()
