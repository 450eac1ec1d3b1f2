"""Execute a launch on the CPU, in a process of its own: a kernel that leaves its memory ends only that process."""

import ctypes
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from emulator.build import library
from emulator.cuda import cuda_program
from emulator.memory import Guarded, place
from emulator.trace import metal_text
from emulator.translate import Program, translate
from rave_mlx.attention.kernels.source import Call

_UNSIGNED = {mx.float16: mx.uint16, mx.bfloat16: mx.uint16, mx.float32: mx.uint32}


class KernelFault(Exception):
    """The emulator stopped a kernel: a race, a divergent collective, an access out of bounds."""


@dataclass(eq=False)
class Emulator:
    """Runs launches; give it to `fused` as `run`.

    Attributes:
        order: thread schedule, 0-6.
        ulp: noise in `fast::` functions, in units of the last place.
        layout: places the inputs like views, with random strides; None: contiguous.
        edit: changes the Metal text, to plant mistakes.
        cuda: run the CUDA form of the text instead of the Metal one.
        shared_bytes: threadgroup memory of each launch so far.
    """

    order: int = 0
    ulp: int = 0
    layout: np.random.Generator | None = None
    edit: Callable[[str], str] | None = None
    cuda: bool = False
    workers: int = 2
    shared_bytes: list[int] = field(default_factory=list)

    def __call__(self, call: Call) -> list[mx.array]:
        program = self._program(call)
        buffers, outputs = self._buffers(call, program.buffers)
        stats = Guarded(16, True)
        _isolated(library(program.source), buffers, call, self, stats)
        self.shared_bytes.append(int(stats.bytes.view(np.int64)[1]))
        return [_restore(m, s, d) for m, s, d in zip(outputs, call.output_shapes, call.output_dtypes, strict=True)]

    def _program(self, call: Call) -> Program:
        if self.cuda:
            return cuda_program(call)
        text = metal_text(call)
        return translate(self.edit(text) if self.edit else text)

    def _buffers(self, call: Call, names: tuple[str, ...]) -> tuple[list[Guarded], list[Guarded]]:
        made: dict[str, Guarded] = {}
        for name, array in zip(call.variant.inputs, call.inputs, strict=True):
            values = _plain(array)
            strided = f"{name}_strides" in names
            made[name], strides = place(values, self.layout if strided else None)
            made[f"{name}_shape"] = place(np.array(values.shape, np.int32), None)[0]
            made[f"{name}_strides"] = place(np.array(strides, np.int64), None)[0]
        sizes = [int(np.prod(s)) * d.size for s, d in zip(call.output_shapes, call.output_dtypes, strict=True)]
        outputs = [Guarded(n, True) for n in sizes]
        made |= zip(call.variant.outputs, outputs, strict=True)
        return [made[n] for n in names], outputs


def _isolated(lib: ctypes.CDLL, buffers: list[Guarded], call: Call, how: Emulator, stats: Guarded) -> None:
    pointers = (ctypes.c_void_p * len(buffers))(*[b.address for b in buffers])
    triple = ctypes.c_uint * 3
    grid, group = triple(*call.grid), triple(*call.threadgroup)
    with tempfile.TemporaryFile() as report:
        child = os.fork()
        if child == 0:
            os.dup2(report.fileno(), 2)
            lib.emu_launch(pointers, grid, group, how.order, how.workers, how.ulp, ctypes.c_void_p(stats.address))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        report.seek(0)
        if code:
            raise KernelFault(f"exit code {code}: {report.read().decode().strip()}")


def _plain(array: mx.array) -> np.ndarray:
    unsigned = _UNSIGNED.get(array.dtype)
    return np.array(array if unsigned is None else mx.view(mx.contiguous(array), unsigned))


def _restore(memory: Guarded, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32}[dtype.size]
    return mx.view(mx.array(memory.bytes.view(unsigned).reshape(shape)), dtype)
