"""The compiled kernels of `kernels/`: built by a command, kept in the user's cache folder, opened when they are there.

The file's name has a hash of the sources, of MLX's version and of the compiler's flags, so an MLX that was upgraded
finds none and says so. Which instructions are used is decided when it is opened: one file serves every processor of
its architecture.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx

from rave_mlx.backend.cpu import own_file

SOURCES = Path(__file__).parent / "kernels"
_UNITS = (
    "mlx_products", "mlx_layers", "mlx_attention", "attention", "layer", "matrix", "portable", "avx2", "avx512", "neon",
)  # fmt: skip
_X86 = {"avx2": ["-mavx2", "-mfma", "-mf16c"], "avx512": ["-mavx512f"]}
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-w", "-fvisibility=hidden")
_EXPORTED = ("-std=c++20", "-O2", "-fPIC", "-w")
"""Of the files that MLX's headers are in: types must be MLX's own, which hidden names would change."""
_SECONDS = 900


class CannotBuild(Exception):
    """Why there are no kernels, in one line."""


def folder() -> Path:
    """Where kernels are kept: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "rave-mlx"


def name() -> str:
    """File name of the kernels for these sources, this MLX and this kind of processor."""
    digest = hashlib.sha256()
    for text in (importlib.metadata.version("mlx"), platform.machine(), f"{_FLAGS} {_EXPORTED} {_X86}"):
        digest.update(text.encode() + b"\0")
    for file in sorted(SOURCES.iterdir()):
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"kernels-{digest.hexdigest()[:16]}.so"


def stale() -> bool:
    """Whether there are kernels, but of another MLX or another version of this package."""
    return any(file.name != name() for file in folder().glob("kernels-*.so"))


def open_kept() -> ctypes.CDLL | None:
    """The kernels that were built; None where there are none.

    Raises:
        OSError: when the file cannot be loaded, or others may have written it.
    """
    if not (folder() / name()).exists():
        return None
    return own_file.load(folder(), name(), _refuse)


def build(compiler: str) -> Path:
    """Compile the kernels and keep them, in the place of older ones.

    Args:
        compiler: path of a g++ or clang++.

    Raises:
        CannotBuild: when they cannot be compiled, kept or loaded, with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="rave-mlx-") as place:
        made = compile_to(compiler, Path(place)).read_bytes()
    try:
        for old in folder().glob("kernels-*.so"):
            old.unlink()
        own_file.load(folder(), name(), lambda: made)
    except OSError as error:
        raise CannotBuild(f"{folder()}: {error}") from None
    _try(folder() / name())
    return folder() / name()


def _try(file: Path) -> None:
    """Use the kernels in a process of their own, which may crash, before every process takes them."""
    code = "from rave_mlx import backend; raise SystemExit(backend.prepare().kernels_note or 0)"
    environment = {key: value for key, value in os.environ.items() if key != "RAVE_MLX_KERNELS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        file.unlink(missing_ok=True)
        lines = done.stderr.strip().splitlines()
        raise CannotBuild(f"the kernels do not work here: {lines[-1] if lines else f'exit code {done.returncode}'}")


def compile_to(compiler: str, place: Path) -> Path:
    """Compile the kernels into a folder and return the library's file.

    Raises:
        CannotBuild: when the compiler fails.
    """
    home = Path(str(mx.__file__)).parent
    if not (home / "include" / "mlx" / "mlx.h").is_file():
        raise CannotBuild(f"{home}: this MLX comes without its C++ headers")
    special = _X86 if platform.machine() == "x86_64" else {}

    def unit(stem: str) -> str:
        out = str(place / f"{stem}.o")
        flags = [*(_EXPORTED if stem.startswith("mlx_") else _FLAGS), *special.get(stem, [])]
        _run([compiler, *flags, f"-I{home / 'include'}", "-c", str(SOURCES / f"{stem}.cpp"), "-o", out])
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(unit, _UNITS))
    file = place / name()
    libraries = home / "lib"
    _run(
        [
            compiler,
            "-shared",
            *objects,
            f"-L{libraries}",
            "-lmlx",
            f"-Wl,-rpath,{libraries}",
            "-pthread",
            "-o",
            str(file),
        ]
    )
    return file


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"{command[0]} took longer than {_SECONDS} s") from None
    except OSError as error:
        raise CannotBuild(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.strip().splitlines()
        raise CannotBuild(f"{command[0]} failed: {lines[0] if lines else f'exit code {done.returncode}'}")


def _refuse() -> bytes:
    raise OSError("cannot be loaded")
