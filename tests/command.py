"""The command line for tests of any room: in this process, or as one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rave_mlx.cli.main import main

COMMAND = [sys.executable, "-c", "from rave_mlx.cli.main import run; run()"]


def rave(*arguments, stdin="", cwd=".", **environment) -> subprocess.CompletedProcess[str]:
    """Run `rave-mlx` with arguments in this process: Python's start and the imports would take a second or more.

    Streams have bytes below, warnings are printed as Python does by itself; what a command does not catch, the test
    sees. What a process does besides (its exit, signals, a terminal) needs `rave_process`.

    Args:
        stdin: as text.
        cwd: the folder it runs in.
        environment: on top of this process's.
    """
    given, out, err = (io.TextIOWrapper(io.BytesIO(data), "utf-8") for data in (stdin.encode(), b"", b""))
    with pytest.MonkeyPatch.context() as patch, _warnings():
        for name, stream in (("stdin", given), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, stream)
        for name, value in ({"COLUMNS": "100"} | environment).items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code
    return subprocess.CompletedProcess(arguments, code, _written(out), _written(err))


def rave_process(*arguments, stdin=None, **environment) -> subprocess.CompletedProcess[str]:
    """Run `rave-mlx` as a process of its own; `stdin` as text, `environment` on top of this process's."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"COLUMNS": "100"} | environment,
    )  # fmt: skip


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()


@contextmanager
def _warnings() -> Iterator[None]:
    """Warnings go to stderr, those for developers nowhere: what Python does by itself, and pytest undoes."""

    def show(message, category, filename, lineno, file=None, line=None):
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield
