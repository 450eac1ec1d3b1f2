"""The command line as a process, for tests of any room."""

from __future__ import annotations

import os
import subprocess
import sys

COMMAND = [sys.executable, "-c", "from rave_mlx.cli.main import run; run()"]


def rave(*arguments, stdin=None, **environment):
    """Run `rave-mlx` with arguments; `stdin` as text, `environment` on top of this process's."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"COLUMNS": "100"} | environment,
    )  # fmt: skip
