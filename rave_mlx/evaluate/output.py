"""What `rave-mlx evaluate` prints and writes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.report import SURE, Columns, as_interval, by_tags, summarize, table, when_sure
from rave_mlx.evaluate.result import Result

Breakdowns = Sequence[tuple[str, ...]]


def as_tables(
    results: Sequence[Result], breakdowns: Breakdowns, measure: str = "", columns: Columns | None = None
) -> str:
    """The figures for people: every breakdown, then all answers together.

    Args:
        results: the answers.
        breakdowns: tags by which there is a table each.
        measure: the name of a benchmark and of its score.
        columns: the benchmark's further figures.
    """
    whole = summarize(results, columns)
    parts = [table(results, tags, columns) for tags in breakdowns]
    if whole.score is None:
        parts.append(
            f"all: exact {whole.exact:.3f} ± {whole.error:.3f}, ANLS {whole.anls:.3f}, CER {whole.cer:.3f}, "
            f"{whole.seconds:.2f} s an answer, {whole.count} questions; "
            f"exact where the certainty is {SURE:g} or more: {when_sure(whole)}"
        )
        return "\n\n".join(parts)
    more = "".join(f", {name} {value:.3f}" for name, value in whole.columns.items() if name)
    parts.append(
        f"{measure or 'score'} {whole.score:.3f}, 95 % interval {as_interval(whole)}{more}; exact {whole.exact:.3f}, "
        f"{whole.seconds:.2f} s an answer, {whole.count} questions; "
        f"right where the certainty is {SURE:g} or more: {when_sure(whole)}"
    )
    return "\n\n".join(parts)


def as_json(results: Sequence[Result], breakdowns: Breakdowns, columns: Columns | None = None) -> str:
    """The figures for programs: {"all": {...}, "by": {"split / kind": {"values / title": {...}}}}.

    Args:
        results: the answers.
        breakdowns: tags by which there is a group of figures each.
        columns: a benchmark's further figures.
    """
    by = {
        " / ".join(tags): {" / ".join(key): asdict(figures) for key, figures in by_tags(results, tags, columns).items()}
        for tags in breakdowns
    }
    return json.dumps({"all": asdict(summarize(results, columns)), "by": by}, ensure_ascii=False)


class Progress:
    """Says how far a run is, on stderr: on a terminal in one line that is rewritten, elsewhere now and then a line."""

    _EVERY = 30.0
    """Seconds between two lines off a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._started = self._last_line = time.monotonic()
        self._first: float | None = None
        self._count, self._right, self._word = 0, 0.0, "exact"

    def __call__(self, item: Item, result: Result) -> None:
        """Count an answer."""
        right = result.exact if result.score is None else result.score
        self._count, self._right = self._count + 1, self._right + right
        self._word = "exact" if result.score is None else "of the score"
        now = time.monotonic()
        if self._first is None:
            self._first = item.progress
        if self._terminal or now - self._last_line >= self._EVERY:
            self._last_line = now
            end = "" if self._terminal else "\n"
            begin = "\r" if self._terminal else ""
            print(begin + self._line(item.progress, now) + end, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line of a terminal."""
        if self._terminal and self._count:
            print(file=sys.stderr)

    def _line(self, progress: float, now: float) -> str:
        """How far the run is, and how long it will take if it goes on as since its first answer."""
        line = f"{progress:4.0%} done, {self._count} answers, {self._right / self._count:.1%} {self._word}"
        # A run that goes on from a file of answers begins in the middle of the task.
        covered = progress - (self._first or 0.0)
        if 0 < progress < 1 and covered > 0:
            line += f", about {(now - self._started) / covered * (1 - progress) / 60:.0f} min left"
        return line
