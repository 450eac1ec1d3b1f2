"""Products of few rows take the library's function for vectors: right for every layout, and only where it is built."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx import backend
from rave_mlx.backend import system
from rave_mlx.backend.cpu import gemv

CPU = backend.prepare().kind == "cpu"
BOUND = CPU and backend.current().binding is not None and not backend.current().binding.gemv_note
needs_binding = pytest.mark.skipif(not BOUND, reason="MLX keeps its BLAS here, or there is no g++")
FUNCTION = ctypes.CFUNCTYPE(
    None, *[ctypes.c_int] * 6, ctypes.c_float, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int,
    ctypes.c_float, ctypes.c_void_p, ctypes.c_int,
)  # fmt: skip
VECTOR = ctypes.CFUNCTYPE(
    None, *[ctypes.c_int] * 4, ctypes.c_float, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int,
    ctypes.c_float, ctypes.c_void_p, ctypes.c_int,
)  # fmt: skip


@pytest.fixture(scope="module")
def product():
    """The function, and a record of how often the two behind it were called."""
    library, calls = backend.current().blas, []
    addresses = {}
    kept = []
    for name, kind in (("cblas_sgemm", FUNCTION), ("cblas_sgemv", VECTOR)):
        real = kind(library.address(name))
        watched = kind(lambda *given, name=name, real=real: (calls.append(name), real(*given))[1] and None)
        kept += [real, watched]
        addresses[name] = ctypes.cast(watched, ctypes.c_void_p).value
    found = FUNCTION(gemv.matrix_product(system.compiler(), addresses["cblas_sgemm"], addresses["cblas_sgemv"]))
    yield found, calls
    # The library is one for the process: MLX gets back what it had.
    gemv.matrix_product(system.compiler(), library.address("cblas_sgemm"), library.address("cblas_sgemv"))
    del kept


@needs_binding
@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("transposed", [(a, b) for a in (False, True) for b in (False, True)])
@pytest.mark.parametrize("shape", [(1, 17, 5), (1, 5, 300), (2, 40, 7), (3, 9, 64), (4, 40, 7), (40, 1, 6), (3, 3, 8),
                                   (5, 1, 1), (1, 1, 9), (2, 1, 30), (7, 6, 5)])  # fmt: skip
def test_every_layout_against_float64(product, shape, transposed, beta):
    """Rows longer than they need to be, as of a view; an output full of NaN where it is not to be read."""
    call, calls = product
    m, n, k = shape
    rng = np.random.default_rng(m * 1000 + n)

    def stored(rows: int, columns: int, turned: bool) -> tuple[np.ndarray, np.ndarray, int]:
        wide = rng.normal(size=(columns if turned else rows, (rows if turned else columns) + 3)).astype(np.float32)
        view = wide[:, : rows if turned else columns]
        return wide, view.T if turned else view, wide.shape[1]

    a, a_view, lda = stored(m, k, transposed[0])
    b, b_view, ldb = stored(k, n, transposed[1])
    c = rng.normal(size=(m, n + 2)).astype(np.float32) if beta else np.full((m, n + 2), np.nan, np.float32)
    expected = 1.5 * a_view.astype(np.float64) @ b_view.astype(np.float64)
    expected += beta * c[:, :n].astype(np.float64) if beta else 0
    beyond = c[:, n:].copy()
    calls.clear()
    flags = [112 if turned else 111 for turned in transposed]
    call(101, *flags, m, n, k, 1.5, a.ctypes.data, lda, b.ctypes.data, ldb, beta, c.ctypes.data, n + 2)
    np.testing.assert_allclose(c[:, :n], expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(c[:, n:], beyond)
    few = (m <= 3 and n > 3) or (n == 1 and m > 3)
    assert set(calls) == {"cblas_sgemv" if few else "cblas_sgemm"}


@needs_binding
def test_mlx_products_of_one_row():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(96, 200)).astype(np.float32), rng.normal(size=(2, 5, 1, 200)).astype(np.float32)
    bias = rng.normal(size=96).astype(np.float32)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    np.testing.assert_allclose(np.array(mx.array(x) @ mx.array(w).T), exact, rtol=1e-4, atol=1e-4)
    found = mx.addmm(mx.array(bias), mx.array(x), mx.array(w).T, alpha=0.5, beta=2.0)
    np.testing.assert_allclose(np.array(found), 0.5 * exact + 2.0 * bias, rtol=1e-4, atol=1e-4)
    found = mx.array(w)[::2, 3:] @ mx.array(x)[0, 0, :, 3:].T
    np.testing.assert_allclose(np.array(found), w[::2, 3:] @ x[0, 0, :, 3:].T, rtol=1e-4, atol=1e-4)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


NOTE = "from rave_mlx import backend; print(repr(backend.prepare().binding.gemv_note))"


@needs_binding
def test_it_is_built_once_and_kept(tmp_path):
    for _ in range(2):
        assert run(NOTE, XDG_CACHE_HOME=str(tmp_path)).stdout == "''\n"
        (file,) = (tmp_path / "rave-mlx").iterdir()
        written = file.stat().st_mtime_ns
    assert file.stat().st_mtime_ns == written
    assert file.stat().st_size < 100_000


@needs_binding
def test_where_nothing_can_be_kept_it_is_built_for_the_process(tmp_path):
    (tmp_path / "rave-mlx").write_text("a file where the folder should be")
    assert run(NOTE, XDG_CACHE_HOME=str(tmp_path)).stdout == "''\n"
    broken = tmp_path / "other" / "rave-mlx"
    broken.mkdir(parents=True)
    run(NOTE, XDG_CACHE_HOME=str(broken.parent))
    (file,) = broken.iterdir()
    file.write_bytes(b"not a library")
    assert run(NOTE, XDG_CACHE_HOME=str(broken.parent)).stdout == "''\n"


PLANTED = """
#include <cstdio>
#include <cstdlib>
__attribute__((constructor)) static void run() { std::fclose(std::fopen(std::getenv("MARKER"), "w")); }
extern "C" void rave_bind(void*, void*) {}
extern "C" void rave_sgemm() {}
"""


def as_link(file: Path) -> None:
    file.rename(file.parent.parent / "elsewhere.so")
    file.symlink_to(file.parent.parent / "elsewhere.so")


def as_linked_folder(file: Path) -> None:
    folder = file.parent
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere", target_is_directory=True)


FOREIGN = {
    "a file that its group may write": lambda file: file.chmod(0o770),
    "a file that all may write": lambda file: file.chmod(0o666),
    "a file of another user": lambda file: os.chown(file, 12345, 12345),
    "a link": as_link,
    "a folder that its group may write": lambda file: file.parent.chmod(0o770),
    "a folder that all may write": lambda file: file.parent.chmod(0o1777),
    "a folder of another user": lambda file: os.chown(file.parent, 12345, 12345),
    "a linked folder": as_linked_folder,
}


@needs_binding
@pytest.mark.parametrize("how", [None, *FOREIGN])
def test_what_others_may_have_written_is_not_loaded(tmp_path, how):
    """A planted library runs as soon as it is loaded; the first case shows that the test can see that."""
    if how is not None and "another user" in how and os.getuid():
        pytest.skip("only root can give files away")
    cache, marker = tmp_path / "cache", tmp_path / "ran"
    assert run(NOTE, XDG_CACHE_HOME=str(cache)).stdout == "''\n"
    (file,) = (cache / "rave-mlx").iterdir()
    file.unlink()
    command = [system.compiler(), "-shared", "-fPIC", "-x", "c++", "-", "-o", file]
    subprocess.run(command, input=PLANTED.encode(), check=True)
    file.chmod(0o700)
    if how is not None:
        FOREIGN[how](file)
    done = run(NOTE, XDG_CACHE_HOME=str(cache), MARKER=str(marker))
    assert marker.exists() == (how is None), done.stderr
    if how is not None:
        assert done.stdout == "''\n", "a library of our own is built instead"
    if how is not None and "folder" not in how:
        (kept,) = (cache / "rave-mlx").iterdir()
        assert not kept.is_symlink()
        assert (kept.stat().st_uid, kept.stat().st_mode & 0o777) == (os.geteuid(), 0o600)


@needs_binding
def test_a_umask_that_lets_others_write_does_not_reach_the_cache(tmp_path):
    code = "import os; os.umask(0); " + NOTE
    for _ in range(2):
        assert run(code, XDG_CACHE_HOME=str(tmp_path)).stdout == "''\n"
        (file,) = (tmp_path / "rave-mlx").iterdir()
        built = file.stat().st_mtime_ns
    assert file.stat().st_mtime_ns == built
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@needs_binding
def test_without_a_compiler_products_stay_with_the_library(tmp_path):
    code = NOTE + "; import mlx.core as mx; print(float((mx.ones((1, 40)) @ mx.ones((40, 8))).sum()))"
    assert run(code, PATH="", XDG_CACHE_HOME=str(tmp_path)).stdout == "'no g++'\n320.0\n"
    failing = tmp_path / "g++"
    failing.write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    failing.chmod(0o755)
    found = run(code, PATH=f"{tmp_path}:/usr/bin:/bin", XDG_CACHE_HOME=str(tmp_path / "cache")).stdout
    assert "no space left" in found
    assert found.endswith("320.0\n")


def test_a_compiler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(gemv.CannotBuild, match="nowhere"):
        gemv.matrix_product("/nowhere/g++", 0, 0)


KERNEL = "import sys; from rave_mlx import backend; found = backend.prepare(); print(repr(found.jit_note))"


@pytest.mark.skipif(not CPU or system.compiler() is None, reason="MLX compiles kernels with g++ on a CPU only")
@pytest.mark.parametrize("how", [None, "writable", "link", "another user"])
def test_kernels_that_mlx_kept_are_loaded_only_from_a_folder_of_ones_own(tmp_path, how):
    """MLX loads what lies under a kernel's name in the folder of temporary files, which all users share."""
    if how == "another user" and os.getuid():
        pytest.skip("only root can give files away")
    marker, folder = tmp_path / "ran", tmp_path / "mlx"
    assert run(KERNEL, TMPDIR=str(tmp_path)).stdout == "''\n"
    assert folder.stat().st_mode & 0o777 == 0o700
    (kept,) = folder.rglob("*.so")
    kept.unlink()
    command = [system.compiler(), "-shared", "-fPIC", "-x", "c++", "-", "-o", kept]
    subprocess.run(command, input=PLANTED.encode(), check=True)
    if how == "writable":
        folder.chmod(0o1777)
    elif how == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    elif how:
        os.chown(folder, 12345, 12345)
    done = run(KERNEL, TMPDIR=str(tmp_path), MARKER=str(marker))
    assert marker.exists() == (how is None), "the first case shows that the test can see it"
    if how is not None:
        reason = f"{folder} is not this user's alone, set TMPDIR to a folder that is"
        assert reason in done.stdout
        assert f"no kernels are compiled: {reason}" in done.stderr
