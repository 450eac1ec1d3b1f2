"""What a task is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rave_mlx.inputs.images.preprocess import ImageSource


@dataclass(frozen=True, eq=False)
class Item:
    """A question about an image.

    Attributes:
        image: what to look at; items that follow each other with the same object are asked about one reading of it.
        question: what to ask.
        answers: every answer that counts as right.
        tags: by what the figures are broken down ("split", "kind", "layout", "font").
        longest: tokens an answer may take.
        progress: share of the task that is done with this question, from 0 to 1; 0 where that is not known.
    """

    image: ImageSource
    question: str
    answers: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    longest: int = 64
    progress: float = 0.0
