"""Progress on stderr: a bar on a terminal, a line every few updates anywhere else."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from rave_mlx.train.report import Update, Validation

_RECENT = 20
"""Updates over which speed and loss are averaged."""


class ProgressBar:
    """A bar with loss, learning rate, speed, memory and time left."""

    def __init__(self, steps: int, done: int):
        self._recent: deque[Update] = deque(maxlen=_RECENT)
        self._steps = steps
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task: TaskID = self._bar.add_task("train", total=steps, completed=done, figures="")
        self._bar.start()

    def update(self, update: Update) -> None:
        self._recent.append(update)
        self._bar.update(self._task, completed=update.step, figures=figures(self._recent, self._steps))

    def validation(self, validation: Validation) -> None:
        self.note(held_out(validation))

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)

    def saved(self, path: Path) -> None:
        """The bar goes on; checkpoints are to be seen in their folder."""

    def close(self) -> None:
        self._bar.stop()


class ProgressLines:
    """The same figures as plain lines."""

    def __init__(self, steps: int, every: int):
        self._recent: deque[Update] = deque(maxlen=_RECENT)
        self._steps, self._every = steps, every

    def update(self, update: Update) -> None:
        self._recent.append(update)
        if update.step % self._every == 0 or update.step == self._steps:
            self.note(f"step {update.step}/{self._steps}: {figures(self._recent, self._steps)}")

    def validation(self, validation: Validation) -> None:
        self.note(held_out(validation))

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def saved(self, path: Path) -> None:
        self.note(f"saved {path}")

    def close(self) -> None:
        """Lines are complete as they are."""


def figures(recent: deque[Update], steps: int) -> str:
    """The latest updates in one line."""
    seconds = max(sum(u.seconds for u in recent), 1e-9)
    trained = max(sum(u.trained_tokens for u in recent), 1)
    loss = sum(u.loss * u.trained_tokens for u in recent) / trained
    tokens, images = (sum(getattr(u, name) for u in recent) / seconds for name in ("tokens", "images"))
    last = recent[-1]
    left = (steps - last.step) * seconds / len(recent)
    rate = last.rates.get("adapter", max(last.rates.values()))
    sinks = [u.sink for u in recent if u.sink is not None]
    sink = f", sink {sum(sinks) / len(sinks):.4f}" if sinks else ""
    return (
        f"loss {loss:.4f}{sink}, lr {rate:.2e}, {tokens:,.0f} tokens/s, {images:.1f} images/s, "
        f"peak {last.peak_bytes / 1e9:.2f} GB, {clock(left)} left"
    )


def held_out(validation: Validation) -> str:
    """A validation in one line."""
    text = f"step {validation.step}: validation loss {validation.valid_loss:.4f}"
    if validation.exact is not None:
        text += f", {validation.exact:.1%} of {validation.answers} answers exact"
    return text


def clock(seconds: float) -> str:
    """A duration as h:mm:ss or m:ss."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Stopwatch:
    """Seconds between looks at it."""

    def __init__(self) -> None:
        self._then = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the lap before."""
        now = time.perf_counter()
        seconds, self._then = now - self._then, now
        return seconds
