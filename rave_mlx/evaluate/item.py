"""What a task is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rave_mlx.inputs.images.preprocess import ImageSource

Tags = Mapping[str, str | Sequence[str]]
"""By what figures are broken down; a question may belong to several groups of one tag."""


def tag_values(tags: Tags, name: str) -> tuple[str, ...]:
    """The groups that a question belongs to under a tag; none where it has no such tag."""
    value = tags.get(name, ())
    return (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class Score:
    """What a benchmark gives for one answer.

    Attributes:
        value: from 0 to 1; higher is better.
        parts: points and of how many, by part of the benchmark. Its figure is the mean over parts of points reached
            by points possible, each summed over all questions. None: one part, with `value` of 1.
    """

    value: float
    parts: Mapping[str, tuple[float, float]] | None = None


@dataclass(frozen=True, eq=False)
class Item:
    """A question about an image, or about several.

    Attributes:
        image: what to look at; items that follow each other with the same object are asked about one reading of it.
        question: what to ask.
        answers: every answer that counts as right.
        tags: by what the figures are broken down ("split", "kind", "layout", "font").
        longest: tokens an answer may take.
        progress: share of the task that is done with this question, from 0 to 1; 0 where that is not known.
        score: what the task's own measure gives for an answer; None where it has none.
        more: further images, which stand behind the first and before the question.
    """

    image: ImageSource
    question: str
    answers: tuple[str, ...]
    tags: Tags = field(default_factory=dict)
    longest: int = 64
    progress: float = 0.0
    score: Callable[[str], Score] | None = None
    more: tuple[ImageSource, ...] = ()
