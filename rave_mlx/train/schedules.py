"""Learning rates over a run: a linear warm-up, then a cosine, a straight line or a constant."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx.optimizers import cosine_decay, join_schedules, linear_schedule

from rave_mlx.train.config import ScheduleName

Schedule = Callable[[mx.array], mx.array]


def warmup_steps(warmup: float, steps: int) -> int:
    """Updates of the warm-up: `warmup` itself from 1 on, a share of all updates below; never all of them."""
    return min(round(warmup if warmup >= 1 else warmup * steps), steps - 1)


def build_schedule(name: ScheduleName, peak: float, steps: int, warmup: float) -> Schedule:
    """The learning rate of update 0, 1, ... of `steps`.

    The warm-up rises from peak / n to the peak in n updates, so that no update is wasted on a rate of zero. Cosine
    and linear fall to zero just after the last update.
    """
    rising = warmup_steps(warmup, steps)
    falling = max(1, steps - rising)
    after: Schedule = {
        "cosine": lambda: cosine_decay(peak, falling),
        "linear": lambda: linear_schedule(peak, 0.0, falling),
        "constant": lambda: linear_schedule(peak, peak, 1),
    }[name]()
    if not rising:
        return after
    first = peak / rising
    # n values from the first to the peak are n - 1 steps apart; one value is the peak itself.
    before = linear_schedule(first, peak, max(1, rising - 1))
    joined: Schedule = join_schedules([before, after], [rising])
    return joined
