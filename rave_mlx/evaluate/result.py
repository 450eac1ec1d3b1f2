"""An answered question, in memory and as a row of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rave_mlx.evaluate.item import Tags

HALF = 0.5
"""Score from which an answer counts as right where right or wrong is asked for."""


@dataclass(frozen=True)
class Result:
    """One answered question.

    Attributes:
        question, truths, answer: texts.
        tags: the item's.
        exact, anls: see `metrics`.
        errors, length: character errors, and characters of the closest right answer.
        seconds: since the answer before it was there: their mean is what an answer takes.
        certainty: probability of the answer's least likely token.
        page: number of the image, from 0; questions that follow each other about one share it. -1 where not known.
        score: the benchmark's own, from 0 to 1; None for tasks without one.
        parts: as of `Score`; empty for one part.
    """

    question: str
    truths: tuple[str, ...]
    answer: str
    tags: Tags
    exact: bool
    anls: float
    errors: int
    length: int
    seconds: float
    certainty: float
    page: int = -1
    score: float | None = None
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether the answer counts as right: exactly, or with at least half of the benchmark's score."""
        return self.exact if self.score is None else self.score >= HALF

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """A result as a row of a file has it; rows of earlier versions lack what came later.

        Raises:
            KeyError, TypeError, ValueError: for something else.
        """
        parts = {name: (float(points), float(out_of)) for name, (points, out_of) in row.get("parts", {}).items()}
        return cls(**{**row, "truths": tuple(row["truths"]), "parts": parts})


def page_numbers(results: Sequence[Result]) -> list[int]:
    """The page of each answer; in files of earlier versions, where none is known, every question stands for itself."""
    return [result.page if result.page >= 0 else -1 - number for number, result in enumerate(results)]
