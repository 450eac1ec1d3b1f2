"""Several processes that train one model: each takes its share of every micro-batch, and sums travel, not means.

MLX's own engine carries them (`mlx.launch`; the ring backend goes over TCP). `nn.average_gradients` divides by the
number of processes, which is only right where all have as many trained tokens; here sums are added up and divided by
the tokens of all processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from rave_mlx.errors import UsageError

_PIECE = 1 << 23
"""Numbers sent at once: 32 MB."""


@dataclass(frozen=True)
class World:
    """The processes of a run: this is process `rank` of `size`; `group` is MLX's, None for a single process."""

    rank: int = 0
    size: int = 1
    group: mx.distributed.Group | None = None

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """float32 arrays added up over all processes."""
        if self.group is None:
            return dict(arrays)
        # Processes may have come by their arrays in different orders.
        ordered = sorted(arrays.items())
        flat = mx.concatenate([x.reshape(-1) for _, x in ordered])
        pieces = [flat[i : i + _PIECE] for i in range(0, flat.size, _PIECE)]
        whole = mx.concatenate([mx.distributed.all_sum(piece, group=self.group) for piece in pieces])
        sums, first = dict(arrays), 0
        for name, x in ordered:
            sums[name] = whole[first : first + x.size].reshape(x.shape)
            first += x.size
        return sums

    def totals(self, *numbers: float) -> list[float]:
        """Each number added up over all processes."""
        if self.group is None:
            return list(numbers)
        return list(map(float, np.array(self.sum({"": mx.array(numbers, mx.float32)})[""])))

    def check_same(self, what: str) -> None:
        """Refuse to go on unless this text is the same in every process; all of them notice.

        Raises:
            UsageError: when it is not.
        """
        digest = hashlib.sha256(what.encode()).digest()
        # 16 bits each: sums over many processes are exact in float32.
        numbers = [float(int.from_bytes(digest[i : i + 2], "big")) for i in range(0, 16, 2)]
        if self.totals(*numbers) != [n * self.size for n in numbers]:
            raise UsageError(
                f"process {self.rank}: data, model and options are not the same in all {self.size} processes; "
                "copy them to every machine and start again"
            )

    def from_first(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """float32 arrays of process 0, in every process."""
        return self.sum(arrays if self.is_writer else {name: mx.zeros(x.shape) for name, x in arrays.items()})


def join() -> World:
    """The processes that `mlx.launch` started together with this one."""
    group = mx.distributed.init()
    return World(group.rank(), group.size(), group) if group.size() > 1 else World()
