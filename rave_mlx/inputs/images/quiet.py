"""Keep image libraries off stderr: what goes wrong in them reaches the user as one ImageError.

Pillow warns about odd metadata and about sizes that `image_files` limits itself, its TIFF reader logs, and libtiff
prints from C. None of it tells more than the error does, or than a picture that opened well.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import warnings
from collections.abc import Iterator

from PIL import _imaging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings, log lines and C messages of Pillow and pypdfium2 inside the block.

    The filter names these packages, so if another thread's block restores it late, nothing of the caller's is lost.
    """
    _quiet_for_good()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif|pypdfium2")
        yield


@functools.cache
def _quiet_for_good() -> None:
    """Logging goes where the program sends it, but not to stderr by default; libtiff has only a process-wide switch."""
    for name in ("PIL", "pypdfium2"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    with contextlib.suppress(OSError, AttributeError):  # libtiff may be linked in without exported names
        pillow = ctypes.CDLL(_imaging.__file__)
        pillow.TIFFSetErrorHandler(None)
        pillow.TIFFSetWarningHandler(None)
