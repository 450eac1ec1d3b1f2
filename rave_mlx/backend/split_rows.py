"""Row-parallel work on CPUs.

MLX runs a CPU stream on one thread, and everything but matrix products is single-threaded. Work that treats rows
(tokens, patches) independently is therefore cut into as many parts as there are streams, each on a stream of its own;
matrix products inside a part then use one BLAS thread (`backend.blas_threads`). On a GPU there is one stream and
nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from rave_mlx import backend

_MIN_ROWS = 32
"""Rows a part below which handing work to another thread costs more than it saves."""


def by_rows(function: Callable[..., Sequence[mx.array]], *arrays: mx.array, axis: int) -> list[mx.array]:
    """`function(*arrays)`, computed in parts along `axis` of every input and output.

    Args:
        function: treats rows independently and returns arrays with as many rows along `axis` as it was given.
        arrays: its inputs, all with the same number of rows along `axis`.
        axis: the rows' axis.
    """
    streams = backend.streams()
    rows = arrays[0].shape[axis]
    parts = min(len(streams), rows // _MIN_ROWS)
    if parts < 2:
        return list(function(*arrays))
    cuts = [rows * i // parts for i in range(1, parts)]
    split = zip(*(mx.split(x, cuts, axis=axis) for x in arrays), strict=True)
    outputs: list[Sequence[mx.array]] = []
    for stream, part in zip(streams, split, strict=False):
        with mx.stream(stream):
            outputs.append(function(*part))
    return [mx.concatenate(list(same), axis=axis) for same in zip(*outputs, strict=True)]
