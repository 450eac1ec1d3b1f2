"""Answers on disk as they come: one JSON object a line, and a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rave_mlx.checkpoint.rows_file import RowsFile
from rave_mlx.errors import UsageError
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.result import Result


class AnswersFile:
    """A file of answers that grows (see `RowsFile`); a context manager.

    Attributes:
        done: the answers that it already had, in order.

    Args:
        file: where answers go.
        run: what the answers depend on, as plain JSON values.

    Raises:
        UsageError: for a file of another run, or one that holds something else, or cannot be written.
    """

    def __init__(self, file: Path, run: Mapping[str, Any]):
        self._file, self._rows = file, RowsFile(file, run, what="answers")
        try:
            self.done = [Result.from_row(row) for _, _, row in self._rows.lines()]
        except (TypeError, KeyError, ValueError, AttributeError):
            self._rows.close()
            raise UsageError(f"{file}: holds something else than answers; choose another --out") from None
        except UsageError:
            self._rows.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()

    def add(self, result: Result) -> None:
        """Write an answer; what is written survives the program.

        Raises:
            RaveError: when it cannot be written.
        """
        self._rows.add(asdict(result))

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
