"""Where the installed `rave-mlx` command begins: an interrupt while the program is still loading ends it quietly."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from rave_mlx.cli.main import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
