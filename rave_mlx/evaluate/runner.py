"""Asking a model all questions of a task, several at a time, each as if it were the only one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from rave_mlx.chat.jobs import make_job
from rave_mlx.errors import RaveError
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.metrics import anls, character_errors, exact
from rave_mlx.evaluate.result import Result
from rave_mlx.generation.job import Failed, Job
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_image
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import steering
from rave_mlx.policies.policy import Attention


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
    batch_size: int = 8,
    pages: PageStore | None = None,
) -> Iterator[Result]:
    """Answer every question greedily. An image is encoded once for all questions that follow each other about it.

    Args:
        lmm: the model.
        items: the questions; they are taken in a thread of their own, a few ahead.
        policy: attention policy, as of `Session`.
        image_tokens: budget of visual tokens an image.
        answers: where results are kept; those that it has are not asked again.
        progress: called with every question that was asked and its result.
        batch_size: how many answers are written at a time.
        pages: where what was read of pages is kept on disk, and found again; None: nowhere.

    Raises:
        ImageError, PromptError, MemoryLimitError: for an item that the model cannot take.
        UsageError: where `answers` holds answers to other questions.
    """
    left = _numbered(items)
    if answers is not None:
        # Zipped this way round, no item is taken that has no answer yet.
        for number, (result, (item, _)) in enumerate(zip(tuple(answers.done), left)):  # noqa: B905
            answers.check(item, number)
            yield result
    scheduler = Scheduler(lmm, rows=batch_size, pages=pages)
    asked: deque[tuple[Item, int]] = deque()
    before = time.perf_counter()
    for answer in scheduler.run(_jobs(scheduler, left, asked, policy, image_tokens)):
        item, page = asked.popleft()
        if answer.error is not None:
            raise type(answer.error)(f"{answer.error} (question {item.question!r})") from answer.error
        now = time.perf_counter()
        result = _score(item, answer.text, now - before, answer.certainty, page)
        before = now
        if answers is not None:
            answers.add(result)
        if progress is not None:
            progress(item, result)
        yield result


def _numbered(items: Iterable[Item]) -> Iterator[tuple[Item, int]]:
    """Items with the number of their image."""
    number, image = -1, None
    for item in items:
        if number < 0 or not _is_same(item.image, image):
            number, image = number + 1, item.image
        yield item, number


def _is_same(image: object, other: object) -> bool:
    """Whether two items are about one image: the same object, or the same path."""
    return image is other or (isinstance(image, (str, Path)) and image == other)


def _jobs(
    scheduler: Scheduler,
    items: Iterable[tuple[Item, int]],
    asked: deque[tuple[Item, int]],
    policy: Attention,
    image_tokens: int | None,
) -> Iterator[Job | Failed]:
    """A job for each question, which goes to `asked` before."""
    lmm = scheduler.lmm
    chosen = steering(lmm.config.attention if policy is None else policy)
    originals = any(each.originals for each in chosen.policies)
    read = partial(read_image, config=lmm.config.image, image_tokens=image_tokens, original=originals)
    image: object = None
    part: ImagePart | None = None
    for item, number in items:
        asked.append((item, number))
        try:
            if part is None or not _is_same(item.image, image):
                image = item.image
                part = read(item.image)
            yield make_job(
                lmm,
                [Message("user", (part, *map(read, item.more), TextPart(item.question)))],
                policy=policy,
                max_tokens=item.longest,
                features=scheduler.features,
                prefixes=scheduler.prefixes,
                ends_loops=False,
            )
        except RaveError as error:
            part = None
            yield Failed(error)


def _score(item: Item, answer: str, seconds: float, certainty: float, page: int) -> Result:
    """An answer measured against the right ones."""
    errors, length = character_errors(answer, item.answers)
    score = None if item.score is None else item.score(answer)
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
        page=page,
        score=None if score is None else score.value,
        parts=dict((score.parts if score else None) or {}),
    )
