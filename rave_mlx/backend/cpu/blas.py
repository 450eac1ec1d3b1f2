"""A fast BLAS for MLX on a Linux CPU, without a rebuild.

MLX's Linux wheel calls the reference BLAS, on one thread. Nearly all of a model's float32 work goes through the
three functions that MLX imports from it, so this module loads an optimised library privately and redirects those
three imports of libmlx.so (`elf_import_table`). No other library in the process is touched, and the redirection is
taken back when a trial product is not right. `RAVE_MLX_BLAS` names a library file, or `none` for MLX's own.

No package does this: MLX takes its BLAS when it is built, and threadpoolctl only sets threads of what is loaded.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from rave_mlx.backend import system
from rave_mlx.backend.cpu import elf_import_table, gemv
from rave_mlx.backend.cpu.thread_blocks import ThreadBlocks
from rave_mlx.errors import RaveError

VARIABLE = "RAVE_MLX_BLAS"
REMEDY = "pip install scipy-openblas32"
_FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
_OPTIMISED = re.compile(r"openblas|mkl|blis|armpl|nvpl|flexiblas|libatlas|libsci", re.IGNORECASE)
_WHEELS = (
    "scipy_openblas32/lib/libscipy_openblas*.so*",
    "opencv_python*.libs/libopenblas*.so*",
    "cmeel.prefix/lib/libopenblas.so*",
    "ngsolve_openblas/lib/libopenblas*.so*",
)
_SYSTEM = ("libopenblasp.so.0", "libopenblas.so.0", "libblis.so.4", "libmkl_rt.so.3", "libmkl_rt.so.2")
"""Sonames of the 32-bit-integer builds."""


class BackendError(RaveError):
    """A compute backend or library that was asked for and cannot be used."""


class _Unusable(Exception):
    """Why a library cannot stand in for MLX's BLAS."""


@dataclass(frozen=True)
class Library:
    """An optimised BLAS in the process.

    Attributes:
        name: OpenBLAS, MKL, BLIS, or its file's name.
        version: as it says itself; "" where it does not.
        path: its file.
        prefix: what stands before its function names.
        handle: the loaded library.
    """

    name: str
    version: str
    path: str
    prefix: str
    handle: ctypes.CDLL
    _blocks: ThreadBlocks = field(default_factory=ThreadBlocks, init=False, repr=False, compare=False)

    @property
    def threads(self) -> int | None:
        """Threads that one product uses now; None where the library does not say."""
        for name in (f"{self.prefix}openblas_get_num_threads", "MKL_Get_Max_Threads", "bli_thread_get_num_threads"):
            if hasattr(self.handle, name):
                return int(self.handle[name]())
        return None

    def set_threads(self, count: int) -> None:
        """Let products that start from now on use `count` threads.

        Raises:
            BackendError: when `count` is below 1.
        """
        if count < 1:
            raise BackendError(f"a BLAS needs at least 1 thread, not {count}")
        for name in (f"{self.prefix}openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads"):
            if hasattr(self.handle, name):
                # BLIS takes a 64-bit integer, the others an int; a 64-bit register holds both.
                self.handle[name](ctypes.c_int64(count))
                return

    @contextmanager
    def limited_to(self, count: int) -> Iterator[None]:
        """`count` threads while the block runs; blocks may overlap (see `ThreadBlocks`)."""
        if self.threads is None:
            yield
            return
        with self._blocks.enter(count, lambda: self.threads or 1, self.set_threads):
            yield

    def address(self, function: str) -> int:
        """Where a CBLAS function starts."""
        try:
            found = ctypes.cast(self.handle[self.prefix + function], ctypes.c_void_p).value
        except AttributeError:
            found = None
        if not found:
            raise _Unusable(f"no {function} with 32-bit integers")
        return found


@dataclass(frozen=True)
class Binding:
    """MLX calls a library of ours.

    Attributes:
        library: the library.
        before, after: contents of MLX's import slots, by address, without and with it.
        gemv_note: why products with a single row are not handed to the library's own function for them; "" where
            they are.
    """

    library: Library
    before: dict[int, int]
    after: dict[int, int]
    gemv_note: str = ""

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """MLX's own BLAS while the block runs, for comparison. Not for use beside other computing threads."""
        elf_import_table.store(self.before)
        try:
            yield
        finally:
            elf_import_table.store(self.after)


def bind(threads: int) -> tuple[Binding | None, str]:
    """Make MLX use the best BLAS there is, with so many threads unless OPENBLAS_NUM_THREADS or the like is set.

    Returns:
        The binding, and a line for the user; without a binding the line says why MLX keeps its own BLAS.

    Raises:
        BackendError: when RAVE_MLX_BLAS names a library that cannot be used.
    """
    wanted = os.environ.get(VARIABLE, "").strip()
    if wanted.lower() == "none":
        return None, f"{VARIABLE}=none"
    try:
        slots = _slots()
    except (elf_import_table.ImportTableError, _Unusable) as error:
        if wanted:
            raise BackendError(f"{VARIABLE}: MLX's BLAS cannot be replaced here ({error}); unset it") from None
        return None, str(error)
    problems: list[str] = []
    for path in [wanted] if wanted else candidates():
        try:
            library = _open(path)
            binding = _redirect(library, slots, threads)
        except OSError as error:
            # A soname that the system does not have is no problem worth a line.
            problems += [str(error)] if wanted or os.sep in path else []
            continue
        except (elf_import_table.ImportTableError, _Unusable) as error:
            problems.append(f"{path}: {error}")
            continue
        return binding, f"{library.name} {library.version}"
    if wanted:
        raise BackendError(f"{VARIABLE}: {problems[0]}; name a CBLAS library with 32-bit integers, or unset it")
    return None, "; ".join(problems) or "no optimised BLAS was found"


def candidates() -> Iterator[str]:
    """Library files and sonames to try, best first: those of installed packages, then the system's."""
    folders = dict.fromkeys(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
    # An environment may see the packages of another one.
    folders |= dict.fromkeys(
        Path(place) for place in sys.path if Path(place).name in ("site-packages", "dist-packages")
    )
    for pattern in _WHEELS:
        for folder in folders:
            yield from (str(file) for file in sorted(folder.glob(pattern)) if "64_" not in file.name)
    yield from (str(file) for file in sorted((Path(sysconfig.get_path("data")) / "lib").glob("libmkl_rt.so.*")))
    yield from _SYSTEM


def _slots() -> dict[str, list[int]]:
    """The slots through which MLX calls its BLAS."""
    home = Path(str(mx.__file__)).resolve().parent
    for image in elf_import_table.loaded():
        if not image.path or not Path(image.path).resolve().is_relative_to(home):
            continue
        table = elf_import_table.ImportTable(image)
        slots = table.slots(set(_FUNCTIONS))
        if "cblas_sgemm" in slots:
            fast = next((name for name in table.needed if _OPTIMISED.search(name)), None)
            if fast:
                raise _Unusable(f"this MLX is built with {fast}")
            return slots
    raise _Unusable("this MLX imports no CBLAS functions")


def _open(path: str) -> Library:
    handle = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    path = _file_of(handle, path)
    for prefix in ("scipy_", ""):
        if hasattr(handle, f"{prefix}cblas_sgemm"):
            break
    else:
        raise _Unusable("no cblas_sgemm with 32-bit integers")
    if hasattr(handle, f"{prefix}openblas_get_config"):
        words = _text(handle, f"{prefix}openblas_get_config").split()
        if "USE64BITINT" in words:
            raise _Unusable("built for 64-bit integers")
        return Library("OpenBLAS", next((w for w in words if w[0].isdigit()), ""), path, prefix, handle)
    if hasattr(handle, "MKL_Set_Threading_Layer"):
        # Its own OpenMP runtime clashes with the one other packages load: GNU's where there is one, else none.
        gnu = ctypes.util.find_library("gomp") is not None
        handle.MKL_Set_Interface_Layer(0)
        handle.MKL_Set_Threading_Layer(3 if gnu else 1)
        buffer = ctypes.create_string_buffer(200)
        handle.MKL_Get_Version_String(buffer, len(buffer))
        version = re.search(r"Version ([\d.]+)", buffer.value.decode(errors="replace"))
        return Library("MKL", version[1] if version else "", path, prefix, handle)
    if hasattr(handle, "bli_info_get_version_str"):
        if handle.bli_info_get_blas_int_type_size() != 32:
            raise _Unusable("built for 64-bit integers")
        return Library("BLIS", _text(handle, "bli_info_get_version_str"), path, prefix, handle)
    return Library(Path(path).name, "", path, prefix, handle)


def _text(handle: ctypes.CDLL, function: str) -> str:
    call = handle[function]
    call.restype = ctypes.c_char_p
    return bytes(call() or b"").decode(errors="replace")


def _file_of(handle: ctypes.CDLL, name: str) -> str:
    """The file behind a soname."""
    if os.sep in name:
        return name
    return next((image.path for image in elf_import_table.loaded() if Path(image.path).name.startswith(name)), name)


def _redirect(library: Library, slots: dict[str, list[int]], threads: int) -> Binding:
    addresses = {name: library.address(name) for name in slots}
    compiler, gemv_note = system.compiler(), ""
    try:
        if compiler is None:
            raise gemv.CannotBuild("no g++")
        addresses["cblas_sgemm"] = gemv.matrix_product(
            compiler, addresses["cblas_sgemm"], library.address("cblas_sgemv")
        )
    except (gemv.CannotBuild, _Unusable) as problem:
        gemv_note = str(problem)
    after = {slot: addresses[name] for name, places in slots.items() for slot in places}
    if not any(os.environ.get(f"{name}_NUM_THREADS") for name in ("OPENBLAS", "OMP", "MKL", "BLIS", "GOTO")):
        library.set_threads(threads)
    before = elf_import_table.store(after)
    binding = Binding(library, before, after, gemv_note)
    if not _products_are_right():
        elf_import_table.store(before)
        raise _Unusable("gives wrong products")
    return binding


def _products_are_right() -> bool:
    """Whether MLX's matrix products, plain, transposed, batched and complex, agree with float64."""
    # Importing numpy.random would cost as much as all the rest.
    a = np.sin(np.arange(2 * 37 * 67.0) ** 2).reshape(2, 37, 67)
    b = np.cos(np.arange(2 * 67 * 29.0)).reshape(2, 67, 29)
    c, d = a[0] + 1j * a[1], b[0] - 1j * b[1]
    single, complex_ = mx.float32, mx.complex64
    cases = [
        (mx.array(a, single), mx.array(b, single), a @ b),
        (mx.array(a.swapaxes(1, 2), single).swapaxes(1, 2), mx.array(b, single), a @ b),
        (mx.array(a[0], single), mx.array(b[0].T, single).T, a[0] @ b[0]),
        (mx.array(a[0, :1], single), mx.array(b[0], single), a[0, :1] @ b[0]),
        (mx.array(a[:, :1], single), mx.array(b.swapaxes(1, 2), single).swapaxes(1, 2), a[:, :1] @ b),
        (
            mx.array(a[:, :, :1], single).swapaxes(1, 2),
            mx.array(b[:, :37], single),
            a[:, :, :1].swapaxes(1, 2) @ b[:, :37],
        ),
        (mx.array(a, single), mx.array(b, single)[:, :, 3:4], a @ b[:, :, 3:4]),
        (
            mx.array(b, single).swapaxes(1, 2),
            mx.array(a, single)[:, 5:6].swapaxes(1, 2),
            (a[:, 5:6] @ b).swapaxes(1, 2),
        ),
        (mx.array(c, complex_), mx.array(d, complex_), c @ d),
    ]
    # NaN compares false, so it counts as wrong.
    return all(np.abs(np.array(mx.matmul(x, y, stream=mx.cpu)) - z).max() < 1e-4 for x, y, z in cases)
