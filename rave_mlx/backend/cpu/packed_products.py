"""Products of packed and of half-precision weights on a Linux CPU, by kernels of our own under MLX's operations.

MLX multiplies with packed weights on a CPU one number at a time, so they were expanded to float32 when a model was
opened. With the compiled kernels (`kernel_library`) they stay packed: a written token reads them as they are, and a
prompt expands a block of a matrix at a time for the BLAS. Every caller of `mx.quantized_matmul`, and of products in
float16 and bfloat16, profits: the kernels stand in the place of the functions that MLX itself calls, as the BLAS does
(`elf_import_table`). An operation of MLX's extension interface would have to be called by name instead, by layers,
adapters and gradients alike. `RAVE_MLX_KERNELS=none` leaves MLX's own, `portable` takes kernels without vector code.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from rave_mlx.backend.cpu import elf_import_table, kernel_library, layer_steps

VARIABLE = "RAVE_MLX_KERNELS"
COMMAND = "rave-mlx build-kernels"
BITS, GROUPS = (4, 8), (32, 64, 128)
"""Packings that the kernels multiply with."""
FEW_ROWS = 8
"""Rows up to which weights are read as they are."""


@dataclass(frozen=True)
class Kernels:
    """Kernels that MLX calls.

    Attributes:
        name: the instructions that they use.
        file: the library's file.
        steps: its functions for whole layers (`layer_steps`); None where this MLX's arrays are not found.
        before, after: addresses of MLX's functions and of ours, by the place where MLX looks for them.
    """

    name: str
    file: str
    steps: ctypes.PyDLL | None
    before: Mapping[int, int] = field(repr=False)
    after: Mapping[int, int] = field(repr=False)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """MLX's own products while the block runs, for comparison. Not for use beside other computing threads."""
        elf_import_table.store(self.before)
        try:
            yield
        finally:
            elf_import_table.store(self.after)


def load(threads: int, sgemm: int | None) -> tuple[Kernels | None, str]:
    """Let MLX call the kernels, if they have been built and give right products.

    Args:
        threads: threads that one product uses.
        sgemm: address of a CBLAS function for products of many rows; None: the kernels do those too, slower.

    Returns:
        The kernels, and "" or why there are none.
    """
    wanted = os.environ.get(VARIABLE, "").strip()
    if wanted.lower() == "none":
        return None, f"{VARIABLE}=none"
    try:
        library = kernel_library.open_kept()
        if library is None:
            if kernel_library.stale():
                return None, f"built for another version; run {COMMAND} again"
            return None, f"not built; {COMMAND} does it"
        return _bind(library, wanted, threads, sgemm)
    except (OSError, AttributeError, elf_import_table.ImportTableError) as error:
        return None, f"{kernel_library.folder() / kernel_library.name()}: {error}; run {COMMAND} again"


def covers(group_size: int, bits: int, mode: str) -> bool:
    """Whether the kernels multiply with weights of this packing."""
    return mode == "affine" and bits in BITS and group_size in GROUPS


def _bind(library: ctypes.CDLL, wanted: str, threads: int, sgemm: int | None) -> tuple[Kernels | None, str]:
    library.rave_set_up.restype = ctypes.c_char_p
    chosen = library.rave_set_up(wanted.encode(), threads, ctypes.c_void_p(sgemm))
    if chosen is None:
        return None, f"{VARIABLE}={wanted}: there are no such kernels here"
    places = (ctypes.c_uint64 * 4)()
    if library.rave_slots(places):
        return None, "this MLX computes its products in another way"
    after = {places[0]: places[1], places[2]: places[3]}
    before = elf_import_table.store(after)
    if not _products_are_right():
        elf_import_table.store(before)
        return None, f"the kernels give wrong products; run {COMMAND} again"
    file = str(kernel_library.folder() / kernel_library.name())
    return Kernels(chosen.decode(), file, layer_steps.find(library), before, after), ""


def _products_are_right() -> bool:
    """Whether products of packed and of bfloat16 weights, of few and of many rows, agree with float64."""
    cpu = mx.cpu
    # Importing numpy.random would cost as much as all the rest.
    weights = np.sin(np.arange(37 * 192.0) ** 2).reshape(37, 192)
    inputs = np.cos(np.arange(11 * 192.0)).reshape(11, 192)
    right = True
    for bits, group in ((4, 32), (8, 64)):
        packed = mx.quantize(mx.array(weights, mx.float32), group, bits, stream=cpu)
        exact = np.array(mx.dequantize(*packed, group, bits, stream=cpu)).astype(np.float64)
        for rows in (1, 3, 11):
            x = mx.array(inputs[:rows], mx.float32)
            y = mx.quantized_matmul(x, *packed, group_size=group, bits=bits, stream=cpu)
            right &= bool(np.abs(np.array(y) - inputs[:rows] @ exact.T).max() < 1e-4)
    halves = mx.array(weights, mx.bfloat16)
    rounded = np.array(halves.astype(mx.float32)).astype(np.float64)
    for rows in (1, 11):
        x = mx.array(inputs[:rows], mx.bfloat16)
        found = np.array(mx.matmul(x, halves.T, stream=cpu).astype(mx.float32))
        right &= bool(np.abs(found - np.array(x.astype(mx.float32)) @ rounded.T).max() < 0.2)
    return right
