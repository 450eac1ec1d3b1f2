"""How well the model does on held-out rows: mean loss of their trained tokens, and answers that are exactly right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from rave_mlx import backend
from rave_mlx.backend.distributed import World
from rave_mlx.errors import RaveError
from rave_mlx.evaluate.metrics import exact
from rave_mlx.generation.decode import decode
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.prompt.message import Message
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.train.batch_sampler import BatchSampler
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.dataset import Dataset
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.loader import Loader
from rave_mlx.train.loss import loss
from rave_mlx.train.report import Validation

_NAMED = 8
"""Rows named in a message."""
_SLACK = 4
"""Tokens that an answer may be longer than the right one before it is given up."""


class NotFiniteError(RaveError):
    """A loss or a gradient that is NaN or infinite; all processes raise it together."""


def row_names(names: Iterable[str]) -> str:
    """Rows for a message: the first few by name, the rest counted."""
    found = list(names) or ["those of another process"]
    return "; ".join(found[:_NAMED]) + (f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else "")


class Validator:
    """Measures loss and exact answers on held-out rows, the same ones every time; processes share the work.

    Args:
        lmm: the model that trains.
        rows: the held-out rows.
        config: how many rows to look at and to ask about.
        features: of images, where the tower does not train; None where it does.
        world: this process among those of the run.
    """

    def __init__(self, lmm: LMM, rows: Dataset, config: TrainConfig, features: FeatureCache | None, world: World):
        self._lmm, self._rows, self._config = lmm, rows, config
        self._features, self._world = features, world
        self._sampler = BatchSampler(rows.lengths, max(config.batch_size, world.size), 0, world.rank, world.size)

    def validate(self, step: int, check: Callable[[], None]) -> Validation:
        """Loss and exact match after an update.

        Args:
            step: updates done.
            check: called now and then; may raise to stop.

        Raises:
            NotFiniteError: when the loss is no number, naming rows.
            RaveError: for a row that cannot be read, in every process.
        """
        failure: RaveError | None = None
        total = count = right = asked = 0.0
        broken: list[str] = []
        self._lmm.eval()
        try:
            total, count, broken = self._loss(check)
            if not broken:
                right, asked = self._answers(check)
        except RaveError as error:
            failure = error
        finally:
            self._lmm.train()
        total, count, right, asked, failed = self._world.totals(total, count, right, asked, failure is not None)
        if failed:
            self._world.raise_shared(failure)
        if not math.isfinite(total):
            raise NotFiniteError(f"the validation loss after step {step} is {total}; rows: {row_names(broken)}")
        return Validation(step, total / max(count, 1), right / asked if asked else None, round(asked))

    def prompts(self, most: int) -> list[Prompt]:
        """Held-out conversations with images."""
        indices = [i for i, row in enumerate(self._rows.stats) if row.images][:most]
        return [self._rows[i].prompt for i in indices]

    def _loss(self, check: Callable[[], None]) -> tuple[float, float, list[str]]:
        """Sum of losses, trained tokens, and the rows whose loss is not finite."""
        total, count = 0.0, 0
        broken: list[str] = []
        with Loader(self._rows, self._sampler, 0, workers=self._config.workers) as batches:
            for number, batch in enumerate(batches):
                if number == self._config.eval_batches:
                    break
                check()
                known = None if self._features is None else self._features.read(batch.images)
                with backend.row_parallel():
                    part, tokens = loss(self._lmm, batch, known)
                    value = float(np.asarray(part))
                total += value
                count += tokens
                broken += [] if math.isfinite(value) else batch.where
        return total, count, broken

    def _answers(self, check: Callable[[], None]) -> tuple[float, float]:
        right = asked = 0
        most = min(self._config.eval_answers, len(self._rows))
        for index in range(self._world.rank, most, self._world.size):
            check()
            messages, truth = self._rows.question(index)
            said = answer(self._lmm, messages, self._rows.stats[index].trained_tokens + _SLACK, self._features)
            right += exact(said, [truth])
            asked += 1
        return right, asked


def answer(lmm: LMM, messages: list[Message], longest: int, features: FeatureCache | None = None) -> str:
    """The greedy answer to a conversation whose images are decoded."""
    prompt = lmm.prompt(messages)
    cache = lmm.make_cache()
    known = None if features is None else features.read(prompt.images)
    logits = prefill(lmm, prompt, cache, features=known)
    room = lmm.config.text.max_positions - len(prompt)
    ids = list(decode(lmm, prompt, cache, logits, Sampling(), max_tokens=min(longest, room), features=known))
    return lmm.tokenizer.decode([i for i in ids if i not in lmm.config.tokens.stop])
