"""Which MLX backend is there, and how to get the best of it.

`prepare()` comes before the first computation. On Metal and CUDA it only looks. On a Linux CPU it gives MLX a fast
BLAS (`cpu.blas`), keeps the C library from returning large buffers to the system after every operation
(`cpu.allocator`), makes sure that `mx.compile` can build kernels (`cpu.compilation`), and lets MLX multiply with packed
weights where the kernels for that have been built (`cpu.packed_products`). Importing this module does none of that.

What a CPU wants of callers: float32 (half precision and quantized products are far slower there), and independent
work spread over `streams()`.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Literal

import mlx.core as mx

from rave_mlx.backend import system
from rave_mlx.backend.cpu import allocator, blas, block_attention, compilation, packed_products
from rave_mlx.backend.system import Memory
from rave_mlx.errors import MemoryLimitError

_MAX_STREAMS = 4
"""Streams of a CPU at most; with more, the parts of one layer's rows get small."""
_HEADROOM = 1.25
"""Share of memory that expanded weights need on top of their size: activations, the file being read."""
_lock = threading.Lock()


@dataclass(frozen=True)
class Backend:
    """The compute backend of this process.

    Attributes:
        kind: what MLX computes on.
        device: its name, for people.
        dtype: type that weights are computed in by default; None for the checkpoint's own.
        cores: processor cores that this process may use.
        binding: ties MLX to the BLAS it was given; None for MLX's own.
        blas_note: which BLAS that is, or why MLX keeps its own.
        compiler: path of the g++ behind `mx.compile` on a CPU.
        jit_note: why `mx.compile` builds no kernels; "" where it does.
        kernels: multiply with packed weights on a CPU; None where they are expanded.
        kernels_note: why there are none; "" where there are, and on GPUs.
        attention: attention of many queries on a CPU, of the same library; None where MLX's operations compute it.
    """

    kind: Literal["metal", "cuda", "cpu"]
    device: str
    dtype: mx.Dtype | None
    cores: int
    binding: blas.Binding | None = None
    blas_note: str = ""
    compiler: str | None = None
    jit_note: str = ""
    kernels: packed_products.Kernels | None = None
    kernels_note: str = ""
    attention: block_attention.BlockAttention | None = None

    @property
    def blas(self) -> blas.Library | None:
        """The BLAS that MLX was given."""
        return self.binding.library if self.binding else None

    @property
    def jit(self) -> bool:
        """Whether `mx.compile` builds kernels."""
        return not self.jit_note


def prepare() -> Backend:
    """Find the backend and set it up; the first call does the work, in whatever thread it comes.

    Raises:
        BackendError: when RAVE_MLX_BLAS names a library that cannot be used.
    """
    with _lock:
        return _prepare()


def current() -> Backend:
    """The prepared backend."""
    return prepare()


def streams() -> list[mx.ThreadLocalStream]:
    """Streams for independent pieces of work: `with mx.stream(stream): ...`.

    On a CPU MLX runs each stream on one thread of its own, so there is a stream for each core, four at most. A GPU
    fills itself: one stream, which is not the default one, so there is nothing to gain from moving there. They are the
    same on every call, and each may be used in any Python thread.
    """
    return list(_streams())


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Let a matrix product use `count` BLAS threads: 1 where the streams already keep every core busy.

    It holds for the whole process and counts when a product is computed, not when it is written down: evaluate
    inside. Blocks may be nested and may overlap in several Python threads: the one entered last counts, and after
    the last one has ended the number is what it was before the first. Without a library of ours, and where that does
    not tell its threads, nothing changes.

    Raises:
        BackendError: when `count` is below 1.
    """
    library = current().blas
    if library is None:
        yield
        return
    with library.limited_to(count):
        yield


@contextmanager
def row_parallel() -> Iterator[None]:
    """A block that evaluates work cut over the streams (`split_rows.by_rows`): one BLAS thread a stream.

    Two streams that share two BLAS threads wait for each other, many times longer when another program is running.
    """
    with blas_threads(1) if len(streams()) > 1 else nullcontext():
        yield


@contextmanager
def lean_memory() -> Iterator[None]:
    """A block that evaluates many arrays of many sizes: on a CPU their memory is shared out anew for each."""
    with allocator.uncached_blocks.enter() if current().kind == "cpu" else nullcontext():
        yield


def memory() -> Memory:
    """Memory in bytes that models may take here: the GPU's, or the control group's or machine's."""
    backend = current()
    if backend.kind == "cpu":
        return system.memory()
    info = mx.device_info()
    total = int(info.get("max_recommended_working_set_size") or info.get("total_memory") or system.memory().total)
    free = int(info.get("free_memory") or total - mx.get_active_memory())
    return Memory(total, max(0, free))


def expand_quantized(stored: int, expanded: int) -> bool:
    """Whether to expand quantized weights to float32 at load: on a CPU, when memory allows.

    Args:
        stored: bytes of the weights as they are.
        expanded: bytes in float32.
    """
    return current().kind == "cpu" and max(stored, _HEADROOM * expanded) <= memory().available


def multiplies_packed(group_size: int, bits: int, mode: str) -> bool:
    """Whether products with weights of this packing (a matrix, no experts) are fast here without expanding them."""
    found = current()
    return found.kind != "cpu" or (found.kernels is not None and packed_products.covers(group_size, bits, mode))


def check_memory(need: int, what: str, remedy: str) -> None:
    """Refuse what does not fit into memory.

    Args:
        need: bytes.
        what: the thing that needs them ("the weights of ...").
        remedy: what to do about it.

    Raises:
        MemoryLimitError: with both sizes.
    """
    available = memory().available
    if need > available:
        raise MemoryLimitError(f"{what}: {_gb(need)} needed, {_gb(available)} available; {remedy}")


@cache
def _prepare() -> Backend:
    if mx.default_device().type == mx.DeviceType.gpu:
        kind: Literal["metal", "cuda"] = "metal" if mx.metal.is_available() else "cuda"
        return Backend(kind, str(mx.device_info().get("device_name", kind)), None, system.cores())
    cores = system.cores()
    device = str(mx.device_info(mx.Device(mx.cpu, 0)).get("device_name") or platform.processor() or platform.machine())
    if sys.platform == "linux":
        allocator.keep_buffers()
        binding, note = blas.bind(cores)
    else:
        binding, note = None, "MLX uses the system's BLAS on this platform"
    compiler = system.compiler()
    jit_note = compilation.problem(compiler)
    kernels, kernels_note = _kernels(cores, binding)
    attention = None if kernels is None else block_attention.find(kernels.file, _sgemm(binding))
    return Backend(
        "cpu", device, mx.float32, cores, binding, note, compiler, jit_note, kernels, kernels_note, attention
    )


def _kernels(cores: int, binding: blas.Binding | None) -> tuple[packed_products.Kernels | None, str]:
    if sys.platform != "linux":
        return None, "for Linux only"
    limits = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    threads = next((int(limit) for limit in limits if limit.isdigit() and int(limit)), cores)
    return packed_products.load(threads, _sgemm(binding))


def _sgemm(binding: blas.Binding | None) -> int | None:
    return None if binding is None else binding.library.address("cblas_sgemm")


@cache
def _streams() -> tuple[mx.ThreadLocalStream, ...]:
    backend = current()
    if backend.kind != "cpu":
        return (mx.new_thread_local_stream(mx.default_device()),)
    return tuple(mx.new_thread_local_stream(mx.cpu) for _ in range(min(backend.cores, _MAX_STREAMS)))


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
