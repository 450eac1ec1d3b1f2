"""Several processes that do one piece of work, started together by `mlx.launch`: what they tell each other.

MLX's own engine carries it (the ring backend goes over TCP), as sums of numbers. In training, sums travel and not
means: `nn.average_gradients` divides by the number of processes, which is only right where all have as many trained
tokens.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import mlx.core as mx
import numpy as np

from rave_mlx.errors import RaveError, UsageError

_MOST_SENT = 1 << 23
"""Numbers sent at once: 32 MB."""
_LONGEST_REASON = 2000
"""Bytes of an error's message that the other processes are told."""
_WARN_AFTER = 300.0
"""Seconds after which a process that waits for the others says so. MLX's ring notices a lost connection by itself, but
not a machine that fell asleep or a cable that was pulled."""


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
        """float32 arrays added up over all processes.

        Raises:
            RaveError: when another process is gone.
        """
        if self.group is None:
            return dict(arrays)
        # Processes may have come by their arrays in different orders.
        ordered = sorted(arrays.items())
        flat = mx.concatenate([x.reshape(-1) for _, x in ordered])
        pieces = [flat[i : i + _MOST_SENT] for i in range(0, flat.size, _MOST_SENT)]
        whole = self._evaluate([mx.distributed.all_sum(piece, group=self.group) for piece in pieces])
        sums, first = dict(arrays), 0
        for name, x in ordered:
            sums[name] = whole[first : first + x.size].reshape(x.shape)
            first += x.size
        return sums

    def _evaluate(self, pieces: Sequence[mx.array]) -> mx.array:
        """The sums, computed: this is where a process waits for the others."""
        notice = threading.Timer(_WARN_AFTER, self._warn_if_waiting)
        notice.daemon = True
        notice.start()
        try:
            whole = mx.concatenate(list(pieces))
            mx.eval(whole)
        except RuntimeError as error:
            raise RaveError(
                f"process {self.rank}: another of the {self.size} processes is gone ({error}); start all of them again "
                "with --resume"
            ) from None
        finally:
            notice.cancel()
        return whole

    def _warn_if_waiting(self) -> None:
        """Say what is going on, where nothing has for long."""
        print(
            f"rave-mlx: process {self.rank} has waited {_WARN_AFTER / 60:.0f} minutes for the others; should one of "
            "them be gone, stop the rest and start all again with --resume",
            file=sys.stderr,
            flush=True,
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block in every process; when it fails in one, all of them raise its error.

        The block itself must not talk to the other processes: one that failed would not.

        Raises:
            RaveError: of the block, in every process.
        """
        failure: RaveError | None = None
        try:
            yield
        except RaveError as error:
            failure = error
        self.raise_together(failure)

    def raise_together(self, failure: RaveError | None) -> None:
        """Raise an error of this or another process; nothing happens where no process has one.

        Args:
            failure: this process' error; None when it goes on.

        Raises:
            RaveError: this process' own error, or the reason of the first process that has one.
        """
        if self.totals(failure is not None)[0]:
            self.raise_shared(failure)

    def raise_shared(self, failure: RaveError | None) -> NoReturn:
        """The same, where all processes know already that one of them has failed."""
        sent = np.zeros((self.size, _LONGEST_REASON + 1), np.float32)
        if failure is not None:
            text = str(failure).encode()[:_LONGEST_REASON]
            sent[self.rank, : len(text)] = list(text)
            sent[self.rank, -1] = failure.exit_code
        received = np.array(self.sum({"": mx.array(sent)})[""]).astype(np.uint8)
        if failure is not None:
            raise failure
        rank = next(rank for rank in range(self.size) if received[rank, -1])
        reason = bytes(received[rank, :-1]).rstrip(b"\0").decode(errors="ignore")
        kind = UsageError if received[rank, -1] == UsageError.exit_code else RaveError
        raise kind(f"process {rank}: {reason}")

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

    def broadcast(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """float32 arrays of process 0, in every process."""
        return self.sum(arrays if self.is_writer else {name: mx.zeros(x.shape) for name, x in arrays.items()})

    def broadcast_text(self, text: str, sender: int = 0) -> str:
        """The text of process `sender`, in every process; at most 16 million bytes."""
        data = text.encode() if self.rank == sender else b""
        length = round(self.totals(len(data))[0])
        if not length:
            return ""
        sent = np.zeros(length, np.float32)
        sent[: len(data)] = list(data)
        received = self.sum({"": mx.array(sent)})[""]
        return bytes(np.array(received).astype(np.uint8)).decode()


def join() -> World:
    """The processes that `mlx.launch` started together with this one."""
    group = mx.distributed.init()
    return World(group.rank(), group.size(), group) if group.size() > 1 else World()
