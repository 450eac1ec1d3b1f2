"""The compiled kernels for tests: built once for as long as their sources stay as they are."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rave_mlx import backend
from rave_mlx.backend.cpu import elf_import_table, kernel_library, packed_products

CPU = sys.platform == "linux" and backend.prepare().kind == "cpu"
COMMAND = [sys.executable, "-c", "from rave_mlx.cli.entry import run; run()", "build-kernels"]
VECTORS = {"x86_64": "AVX2", "aarch64": "NEON"}.get(platform.machine(), "portable")


def cache_folder(pytestconfig: pytest.Config) -> Path:
    """A folder for XDG_CACHE_HOME with the kernels; skips where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("needs a g++")
    place = Path(pytestconfig.cache.mkdir("kernels"))
    if not (place / "rave-mlx" / kernel_library.name()).exists():
        environment = {**os.environ, "XDG_CACHE_HOME": str(place)}
        done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.splitlines()[0]).is_file()
    return place


@contextmanager
def bound(place: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[packed_products.Kernels]:
    """The backend with kernels of one kind ("" for the processor's best); MLX's own functions are back afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    monkeypatch.setenv(packed_products.VARIABLE, kind)
    before = backend.current()
    sgemm = None if before.binding is None else before.binding.library.address("cblas_sgemm")
    found, note = packed_products.load(2, sgemm)
    if found is None and "no such kernels" in note:
        pytest.skip(note)
    assert found is not None, note
    monkeypatch.setattr(backend, "current", lambda: replace(before, kernels=found, kernels_note=""))
    try:
        yield found
    finally:
        elf_import_table.store(found.before)
