"""Whether `mx.compile` can build kernels on this CPU, found out before anything relies on it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import mlx.core as mx

from rave_mlx.backend.cpu.own_file import is_own

_log = logging.getLogger(__name__)


def problem(compiler: str | None) -> str:
    """Why `mx.compile` builds no kernels, or "" where it does.

    MLX runs operations one by one where it finds no g++, but fails where the one it finds cannot build (no
    headers, no place for temporary files); compilation is then switched off for the whole process. The trial takes
    a second once, afterwards MLX finds the result in its folder of temporary files.

    Args:
        compiler: path of the g++ that MLX will call, or None.
    """
    if compiler is None:
        return "no g++"
    if "MLX_DISABLE_COMPILE" in os.environ:
        return "MLX_DISABLE_COMPILE is set"
    folder = _kernel_folder()
    if not _is_claimed(folder):
        mx.disable_compile()
        reason = f"{folder} is not this user's alone, set TMPDIR to a folder that is"
        _log.warning("no kernels are compiled: %s", reason)
        return reason
    try:
        right = mx.array_equal(mx.compile(lambda x: x * 2.0 + 1.0)(mx.arange(16.0)), mx.arange(1.0, 33.0, 2.0)).item()
    except RuntimeError as error:
        mx.disable_compile()
        return f"g++ failed: {str(error).splitlines()[-1][-200:]}"
    return "" if right else "g++ builds wrong kernels"


def _kernel_folder() -> Path:
    """Where MLX keeps compiled kernels: a folder of fixed name among the temporary files (C++'s idea of them)."""
    named = (os.environ.get(name) for name in ("TMPDIR", "TMP", "TEMP", "TEMPDIR"))
    return Path(next((name for name in named if name is not None), "/tmp")) / "mlx"


def _is_claimed(folder: Path) -> bool:
    """Whether no other user can put a kernel there: MLX loads whatever lies under the right name, without a look.

    Where nothing can be made, nothing can be found either; the trial says so.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        return is_own(folder.lstat())
    except FileExistsError:
        return False
    except OSError:
        return True
