"""A part of a tensor in a safetensors file, of which no other bytes are read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mlx.core as mx
import numpy as np

from rave_mlx.checkpoint.safetensors_reader import Tensors
from rave_mlx.errors import ModelError

_SAME_SIZE = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies on disk as it is used.

    Attributes:
        tensors: of the files.
        name: of the tensor there.
        rows: the part [first, end) of the first axis that it is; None: all of it.
    """

    tensors: Tensors
    name: str
    rows: tuple[int, int] | None = None


def read_part(place: Place, axis: int, spans: Sequence[tuple[int, int]]) -> mx.array:
    """Read a part of a tensor, now.

    Args:
        place: of the tensor.
        axis: along which it is cut; negative ones count from the last.
        spans: [first, end) along the axis; those of an array one after the other.

    Raises:
        ModelError: where the file does not hold what its header says.
    """
    entry = place.tensors.entries[place.name]
    size = entry.dtype.size
    first, end = place.rows or (0, entry.shape[0])
    shape = (end - first, *entry.shape[1:])
    start = _offsets(entry.file)[place.name] + first * math.prod(shape[1:]) * size
    axis %= len(shape)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :]) * size
    widths = [(last - low) * inner for low, last in spans]
    found = np.empty((outer, sum(widths)), np.uint8)
    descriptor = os.open(entry.file, os.O_RDONLY)
    try:
        for row in range(outer):
            at = 0
            for (low, _), width in zip(spans, widths, strict=True):
                _fill(descriptor, found[row, at : at + width].data, start + row * shape[axis] * inner + low * inner)
                at += width
    except EOFError:
        raise ModelError(f"{entry.file}: ends within {place.name}; download or convert the model again") from None
    finally:
        os.close(descriptor)
    cut = sum(last - low for low, last in spans)
    plain = found.view(_SAME_SIZE[size]).reshape(*shape[:axis], cut, *shape[axis + 1 :])
    return mx.array(plain).view(entry.dtype)


def _fill(descriptor: int, view: memoryview, offset: int) -> None:
    """Read until a buffer is full: one call gives 2 GB at most."""
    while len(view):
        count = os.preadv(descriptor, [view[: 1 << 30]], offset)
        if not count:
            raise EOFError
        view, offset = view[count:], offset + count


@lru_cache(maxsize=256)
def _offsets(file: Path) -> dict[str, int]:
    """Where each tensor of a file begins; the header has been checked before."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return {name: 8 + length + value["data_offsets"][0] for name, value in header.items() if name != "__metadata__"}
