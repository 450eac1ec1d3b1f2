"""Asking a model all questions of a task, each on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from rave_mlx.chat.session import Session
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.metrics import anls, character_errors, exact
from rave_mlx.inputs.prompt.message import ImagePart
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Attention


@dataclass(frozen=True)
class Result:
    """One answered question.

    Attributes:
        question, truths, answer: texts.
        tags: the item's.
        exact, anls: see `metrics`.
        errors, length: character errors, and characters of the closest right answer.
        seconds: from the question to the last token.
        certainty: probability of the answer's least likely token.
    """

    question: str
    truths: tuple[str, ...]
    answer: str
    tags: Mapping[str, str]
    exact: bool
    anls: float
    errors: int
    length: int
    seconds: float
    certainty: float


class AnswersKept(Protocol):
    """What keeps results (`answers_file.AnswersFile`)."""

    done: list[Result]

    def check(self, item: Item, number: int) -> None:
        """Refuse an item that is not what result `number` answered."""

    def add(self, result: Result) -> None:
        """Keep a result."""


def answer_all(
    lmm: LMM,
    items: Iterable[Item],
    *,
    policy: Attention = None,
    image_tokens: int | None = None,
    answers: AnswersKept | None = None,
    progress: Callable[[Item, Result], None] | None = None,
) -> Iterator[Result]:
    """Answer every question greedily. An image is encoded once for all questions that follow each other about it.

    Args:
        lmm: the model.
        items: the questions.
        policy: attention policy, as of `Session`.
        image_tokens: budget of visual tokens an image.
        answers: where results are kept; those that it has are not asked again.
        progress: called with every question that was asked and its result.

    Raises:
        ImageError, PromptError, MemoryLimitError: for an item that the model cannot take.
        UsageError: where `answers` holds answers to other questions.
    """
    session = Session(lmm, policy=policy, image_tokens=image_tokens)
    current: object = None
    part: ImagePart | None = None
    for number, item in enumerate(items):
        if answers is not None and number < len(answers.done):
            answers.check(item, number)
            yield answers.done[number]
            continue
        if part is None or item.image is not current:
            current, part = item.image, session.read(item.image)
        session.reset()
        session.max_tokens = item.longest
        start = time.perf_counter()
        answer = "".join(piece.text for piece in session.send(item.question, [part]))
        seconds = time.perf_counter() - start
        result = _score(item, answer, seconds, 0.0 if session.stats is None else session.stats.certainty)
        if answers is not None:
            answers.add(result)
        if progress is not None:
            progress(item, result)
        yield result


def _score(item: Item, answer: str, seconds: float, certainty: float) -> Result:
    """An answer measured against the right ones."""
    errors, length = character_errors(answer, item.answers)
    return Result(
        question=item.question,
        truths=item.answers,
        answer=answer,
        tags=dict(item.tags),
        exact=exact(answer, item.answers),
        anls=anls(answer, item.answers),
        errors=errors,
        length=length,
        seconds=seconds,
        certainty=certainty,
    )
