"""The complete Metal text of a launch, signature included, as MLX itself writes it."""

import ctypes
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from rave_mlx.attention.kernels.launch import run_metal
from rave_mlx.attention.kernels.source import Call

_TEXT = re.compile(r"```\n(.*?)\n```", re.DOTALL)


def metal_text(call: Call) -> str:
    """Export a graph with this launch in it; MLX prints the text while it does."""

    def graph(*inputs):
        return run_metal(replace(call, inputs=inputs), verbose=True)

    # The text is printed from C++, so the file descriptor itself is redirected.
    sys.stdout.flush()
    with tempfile.TemporaryFile() as captured, tempfile.TemporaryDirectory() as folder:
        saved = os.dup(1)
        os.dup2(captured.fileno(), 1)
        try:
            mx.export_function(str(Path(folder) / "graph.mlxfn"), graph, *call.inputs)
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        captured.seek(0)
        return _TEXT.search(captured.read().decode())[1]
