"""Compile translated kernels. Libraries are kept by the hash of everything they are made of."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-O1", "-std=c++17", "-fPIC", "-pthread", "-w"]
if platform.machine() == "x86_64":
    FLAGS += ["-mf16c", "-mfma"]
FOLDER = Path(os.environ.get("RAVE_EMULATOR_CACHE", Path(tempfile.gettempdir()) / "rave-mlx-emulator"))


def why_not() -> str | None:
    """Why nothing can be built here; None when it can."""
    return (
        None if shutil.which(COMPILER) else f"{COMPILER} is not installed: the kernels cannot be compiled for the CPU"
    )


@cache
def library(source: str) -> ctypes.CDLL:
    """The compiled program."""
    headers = _precompiled()
    path = FOLDER / f"{_key(source)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            text, made = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            text.write_text(source)
            _compile(["-shared", "-I", str(headers), "-I", str(HERE), str(text)], made)
            made.replace(path)
    return ctypes.CDLL(str(path))


@cache
def _precompiled() -> Path:
    """Folder with the emulator's headers precompiled: they are most of the work of a small kernel."""
    folder = FOLDER / _key("headers")
    made = folder / "metal_emu.h.gch"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{os.getpid()}.gch"
        _compile(["-x", "c++-header", str(HERE / "metal_emu.h")], part)
        part.replace(made)
    return folder


def _key(source: str) -> str:
    headers = [p.read_text() for p in sorted(HERE.glob("*.h"))]
    return hashlib.sha256("\0".join([source, *headers, COMPILER, *FLAGS]).encode()).hexdigest()[:20]


def _compile(arguments: list[str], to: Path) -> None:
    subprocess.run([COMPILER, *FLAGS, *arguments, "-o", str(to)], check=True)
