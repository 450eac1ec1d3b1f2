"""What runs a kernel in the tests: Metal where it is, else the emulator."""

from dataclasses import replace

import mlx.core as mx
import numpy as np

from rave_mlx.attention.kernels.launch import run_metal
from rave_mlx.attention.kernels.source import Call


def runner(*, order: int = 0, ulp: int = 0, layout: np.random.Generator | None = None):
    """A `run` for `fused`. On Metal the GPU schedules its threads itself; a layout makes its inputs views."""
    if mx.metal.is_available():
        return run_metal if layout is None else _run_on_views
    from emulator.run import Emulator

    return Emulator(order=order, ulp=ulp, layout=layout)


def _run_on_views(call: Call) -> list[mx.array]:
    """Inputs of four dimensions with heads and positions swapped in memory, as a decoder's projections leave them."""

    def view(x: mx.array) -> mx.array:
        return mx.contiguous(x.swapaxes(1, 2)).swapaxes(1, 2) if x.ndim == 4 else x

    return list(run_metal(replace(call, inputs=[view(x) for x in call.inputs])))
