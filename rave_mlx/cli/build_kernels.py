"""`rave-mlx build-kernels`: compile what multiplies with packed weights on a Linux CPU."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from rave_mlx.errors import UsageError


def build_kernels(
    compiler: Annotated[
        str | None,
        typer.Option("--compiler", metavar="PROGRAM", help="A g++ or clang++. Default: the first of them on the PATH."),
    ] = None,
) -> None:
    """Compile the kernels that let a CPU compute with packed weights as they are.

    [bold]rave-mlx build-kernels[/bold]

    On Linux without a GPU, quantized models and GGUF files then take less than
    half of the memory and answer faster. It takes a C++ compiler and half a
    minute, once; again after MLX was upgraded. The result lies in the user's
    cache folder and is used from then on; RAVE_MLX_KERNELS=none switches it off.
    """
    from rave_mlx.backend.cpu.kernel_library import CannotBuild, build

    if sys.platform != "linux":
        raise UsageError("build-kernels is for Linux; on a Mac the GPU computes with packed weights as they are")
    program = shutil.which(compiler) if compiler else shutil.which("g++") or shutil.which("clang++")
    if program is None:
        raise UsageError(f"there is no {compiler or 'g++ or clang++'} here; install one (apt-get install g++)")
    try:
        print(build(program))
    except CannotBuild as error:
        raise UsageError(str(error)) from None
