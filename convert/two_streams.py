"""Two threads for a conversion on a CPU, where MLX computes whatever belongs to one stream on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import cycle

import mlx.core as mx

from rave_mlx.backend.system import cores


def spread(tensors: Iterator[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
    """The same lazy tensors, what computes them being put on two streams by turns; on a GPU on one."""
    streams = cycle(_streams())
    stream = next(streams)
    while True:
        with mx.stream(stream):
            named = next(tensors, None)
        if named is None:
            return
        if named[0].endswith(".weight"):
            # Scales and biases come out of the same computation as their weight.
            stream = next(streams)
        yield named


@cache
def _streams() -> tuple[mx.ThreadLocalStream, ...]:
    """Made once: the thread of a stream lives as long as the process."""
    device = mx.default_device()
    count = min(2, cores()) if device.type == mx.DeviceType.cpu else 1
    return tuple(mx.new_thread_local_stream(device) for _ in range(count))
