"""Whether `mx.compile` can build kernels on this CPU, found out before anything relies on it."""

from __future__ import annotations

import os

import mlx.core as mx


def problem(compiler: str | None) -> str:
    """Why `mx.compile` builds no kernels, or "" where it does.

    MLX runs operations one by one where it finds no g++, but fails where the one it finds cannot build (no
    headers, no place for temporary files); compilation is then switched off for the whole process. The trial takes
    a second once, afterwards MLX finds the result in its folder of temporary files.

    Args:
        compiler: path of the g++ that MLX will call, or None.
    """
    if compiler is None:
        return "no g++"
    if "MLX_DISABLE_COMPILE" in os.environ:
        return "MLX_DISABLE_COMPILE is set"
    try:
        right = mx.array_equal(mx.compile(lambda x: x * 2.0 + 1.0)(mx.arange(16.0)), mx.arange(1.0, 33.0, 2.0)).item()
    except RuntimeError as error:
        mx.disable_compile()
        return f"g++ failed: {str(error).splitlines()[-1][-200:]}"
    return "" if right else "g++ builds wrong kernels"
