"""Answers on disk as they come: one JSON object a line, and a run that was stopped goes on where it was.

Beside `answers.jsonl` stands `answers.jsonl.run.json`, which says of what run the answers are: model, policy, task. A
file of another run is never added to and never replaced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.runner import Result


class AnswersFile:
    """A file of answers that grows; a context manager.

    Attributes:
        done: the answers that it already had, in order.

    Args:
        file: where answers go.
        run: what the answers depend on, as plain JSON values.

    Raises:
        UsageError: for a file of another run, or one that holds something else, or cannot be written.
    """

    def __init__(self, file: Path, run: Mapping[str, Any]):
        self._file, self._settings = file, file.with_name(f"{file.name}.run.json")
        self.done: list[Result] = []
        try:
            if file.exists():
                self._check(run)
                self.done = self._read()
            else:
                self._settings.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
            self._out: IO[str] = file.open("a", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}; choose another --out") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()

    def add(self, result: Result) -> None:
        """Write an answer; what is written survives the program."""
        self._out.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
        self._out.flush()
        os.fsync(self._out.fileno())

    def check(self, item: Item, number: int) -> None:
        """See that answer `number` (from 0) is one to this question.

        Raises:
            UsageError: where the task has changed since.
        """
        known = self.done[number]
        if (known.question, known.truths) != (item.question, item.answers):
            raise UsageError(
                f"{self._file}, line {number + 1}: answers {known.question!r}, where the task now asks "
                f"{item.question!r}; the task has changed, choose another --out"
            )

    def _check(self, run: Mapping[str, Any]) -> None:
        """Refuse a file that has the answers of another run."""
        remedy = "choose another --out, or remove it"
        if not self._settings.is_file():
            raise UsageError(f"{self._file}: is there already, and not from a run that can be gone on with; {remedy}")
        known = json.loads(self._settings.read_text(encoding="utf-8"))
        for key in sorted({*known, *run}):
            if known.get(key) != run.get(key):
                raise UsageError(
                    f"{self._file}: has the answers of another run ({key} {known.get(key)!r}, now {run.get(key)!r}); "
                    f"{remedy}"
                )

    def _read(self) -> list[Result]:
        """Whole lines; a last one without its end was being written when the program was killed, and is cut off."""
        text = self._file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(self._file, len(whole))
        try:
            rows = [json.loads(line) for line in whole.decode("utf-8").split("\n") if line]
            return [Result(**{**row, "truths": tuple(row["truths"])}) for row in rows]
        except (ValueError, TypeError, KeyError):
            raise UsageError(f"{self._file}: holds something else than answers; choose another --out") from None
