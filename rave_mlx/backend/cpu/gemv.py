"""Matrix-vector products for MLX on a Linux CPU: what a written token consists of.

MLX asks its BLAS for a matrix product (`cblas_sgemm`) even where one side is a single row. OpenBLAS then packs the
whole matrix before it multiplies, and reads memory at a third of the speed of its `cblas_sgemv`. The function built
here stands between them: it passes products of up to three rows or one column to `cblas_sgemv`, all others on. No
library does it, since it has to stand behind MLX's own call. It takes a g++, as `mx.compile` does, and half a second
once; the result is kept in the user's cache folder.

Loading a library runs its code, so what is kept is loaded only from a folder and a file that belong to this user and
that nobody else can write to (`own_file`). Otherwise it is built again, in place or for this process alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from rave_mlx.backend.cpu import own_file

_SOURCE = """
#include <cstring>
typedef void (*sgemm_t)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
typedef void (*sgemv_t)(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
static sgemm_t gemm;
static sgemv_t gemv;
enum { FEW = 3, ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

extern "C" void rave_bind(void* matrix, void* vector) { gemm = (sgemm_t)matrix; gemv = (sgemv_t)vector; }

// y += product: whether beta = 0 may meet NaN in y is not the same in all libraries.
static float prepared(float beta, float* y, int count, int step) {
    if (beta != 0.0f) return beta;
    if (step == 1) std::memset(y, 0, sizeof(float) * (size_t)count);
    else for (int i = 0; i < count; ++i) y[(size_t)i * step] = 0.0f;
    return 1.0f;
}

extern "C" void rave_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda,
                           const float* b, int ldb, float beta, float* c, int ldc) {
    bool plain = order == ROW_MAJOR && (ta == NO_TRANS || ta == TRANS) && (tb == NO_TRANS || tb == TRANS) && k > 0;
    if (plain && m <= FEW && n > FEW) {
        int step = ta == NO_TRANS ? 1 : lda, next = ta == NO_TRANS ? lda : 1;
        for (int i = 0; i < m; ++i) {
            const float* x = a + (size_t)i * next;
            float* y = c + (size_t)i * ldc;
            float rest = prepared(beta, y, n, 1);
            if (tb == TRANS) gemv(ROW_MAJOR, NO_TRANS, n, k, alpha, b, ldb, x, step, rest, y, 1);
            else gemv(ROW_MAJOR, TRANS, k, n, alpha, b, ldb, x, step, rest, y, 1);
        }
    } else if (plain && n == 1 && m > FEW) {
        float rest = prepared(beta, c, m, ldc);
        int step = tb == NO_TRANS ? ldb : 1;
        if (ta == NO_TRANS) gemv(ROW_MAJOR, NO_TRANS, m, k, alpha, a, lda, b, step, rest, c, ldc);
        else gemv(ROW_MAJOR, TRANS, k, m, alpha, a, lda, b, step, rest, c, ldc);
    } else {
        gemm(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    }
}
"""
_FLAGS = ("-O2", "-shared", "-fPIC")
_SECONDS = 60


class CannotBuild(Exception):
    """Why there is no function of our own."""


def matrix_product(compiler: str, sgemm: int, sgemv: int) -> int:
    """Address of a `cblas_sgemm` that leaves products of few rows or one column to `sgemv`.

    Args:
        compiler: path of a g++.
        sgemm, sgemv: addresses of CBLAS functions with 32-bit integers.

    Raises:
        CannotBuild: when it cannot be compiled or loaded, with the reason.
    """
    try:
        library = _load(compiler)
        library.rave_bind(ctypes.c_void_p(sgemm), ctypes.c_void_p(sgemv))
        address = ctypes.cast(library.rave_sgemm, ctypes.c_void_p).value
    except (OSError, AttributeError) as error:
        raise CannotBuild(str(error)) from None
    assert address is not None
    return address


def _load(compiler: str) -> ctypes.CDLL:
    digest = hashlib.sha256(f"{platform.machine()} {_FLAGS} {_SOURCE}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    try:
        return own_file.load(cache / "rave-mlx", f"gemv-{digest}.so", lambda: _compiled(compiler))
    except OSError:
        # No home, a full disk, a folder that others may write to or that nothing may be run from.
        with tempfile.TemporaryDirectory(prefix="rave-mlx-") as place:
            return ctypes.CDLL(str(_build(compiler, Path(place) / "gemv.so")))


def _compiled(compiler: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="rave-mlx-") as place:
        return _build(compiler, Path(place) / "gemv.so").read_bytes()


def _build(compiler: str, file: Path) -> Path:
    command = [compiler, *_FLAGS, "-x", "c++", "-", "-o", str(file)]
    try:
        done = subprocess.run(command, input=_SOURCE, text=True, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"{compiler} took longer than {_SECONDS} s") from None
    if done.returncode:
        raise CannotBuild(f"{compiler} failed: {done.stderr.strip().splitlines()[-1:]}")
    return file
