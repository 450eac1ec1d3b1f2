"""What runs a kernel in the tests: Metal where it is, else the emulator."""

import mlx.core as mx
import numpy as np

from rave_mlx.attention.kernels.launch import run_metal


def runner(*, order: int = 0, ulp: int = 0, layout: np.random.Generator | None = None):
    """A `run` for `fused`. On Metal the GPU schedules its threads itself, and inputs lie as MLX puts them."""
    if mx.metal.is_available():
        return run_metal
    from emulator.run import Emulator

    return Emulator(order=order, ulp=ulp, layout=layout)
