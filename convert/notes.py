"""Lines that a person should read while a model is opened or converted."""

from __future__ import annotations

import sys


def print_note(text: str) -> None:
    """Print a line to stderr, marked as this package's."""
    print(f"rave-mlx: {text}", file=sys.stderr)
