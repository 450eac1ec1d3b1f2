"""Asking a model all questions of a task, each on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rave_mlx.chat.session import Session
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.metrics import anls, character_errors, exact
from rave_mlx.inputs.prompt.message import ImagePart
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import Attention


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


def answer_all(
    lmm: LMM,
    items: Iterable[Item],
    *,
    policy: Attention = None,
    image_tokens: int | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Iterator[Result]:
    """Answers, greedily. An image is encoded once for all questions that follow each other about it.

    Args:
        lmm: the model.
        items: the questions.
        policy: attention policy, as of `Session`.
        image_tokens: budget of visual tokens an image.
        progress: called with every result as it comes.

    Raises:
        ImageError, PromptError, MemoryLimitError: for an item that the model cannot take.
    """
    session = Session(lmm, policy=policy, image_tokens=image_tokens)
    shown: object = None
    part: ImagePart | None = None
    for item in items:
        if part is None or item.image is not shown:
            shown, part = item.image, session.read(item.image)
        session.reset()
        session.max_tokens = item.longest
        begun = time.perf_counter()
        answer = "".join(piece.text for piece in session.send(item.question, [part]))
        seconds = time.perf_counter() - begun
        result = _score(item, answer, seconds, 0.0 if session.stats is None else session.stats.certainty)
        if progress is not None:
            progress(result)
        yield result


def _score(item: Item, answer: str, seconds: float, certainty: float) -> Result:
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
