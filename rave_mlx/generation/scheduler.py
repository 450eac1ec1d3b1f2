"""Writing the answers to a pile of jobs, in the order of the jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx
import numpy as np

from rave_mlx.errors import ModelError, RaveError
from rave_mlx.generation.decode import decode
from rave_mlx.generation.job import Answer, Constraint, Failed, Job
from rave_mlx.generation.prefill import NOT_A_NUMBER, prefill
from rave_mlx.models.lmm import LMM


class Scheduler:
    """Writes the answers to jobs.

    Args:
        lmm: the model.
        rows: how many answers are written at a time.
    """

    def __init__(self, lmm: LMM, *, rows: int = 8):
        self.lmm = lmm
        self.rows = rows

    def run(self, jobs: Iterable[Job | Failed]) -> Iterator[Answer]:
        """Answers in the order of the jobs, which are taken one after the other as they are needed.

        An error of one job is in its answer; the others go on.
        """
        for job in jobs:
            if isinstance(job, Failed):
                yield Answer(job.key, ending="error", error=job.error)
                continue
            written = _Written(job)
            try:
                written.write(self.lmm)
            except RaveError as error:
                yield written.answer(self.lmm, error)
            else:
                yield written.answer(self.lmm)


class _Written:
    """What there is of an answer."""

    def __init__(self, job: Job):
        self.job = job
        self.ids: list[int] = []
        self.probabilities: list[float] = []
        self._scores: mx.array | None = None

    def write(self, lmm: LMM) -> None:
        job = self.job
        cache = lmm.make_cache(gate=job.gate, hooks=None if job.hooks is None else job.hooks())
        logits = prefill(lmm, job.prompt, cache)
        processors = [*job.processors, self._watch]
        if job.constraint is not None:
            processors.append(_Mask(job.constraint, len(job.prompt)))
        written = decode(
            lmm, job.prompt, cache, logits, job.sampling, max_tokens=job.max_tokens, processors=processors
        )
        for token in written:
            self.ids.append(token)
            if len(self.probabilities) < len(self.ids):
                self._close(token)
            if np.isnan(self.probabilities[-1]):
                raise ModelError(NOT_A_NUMBER)

    def answer(self, lmm: LMM, error: RaveError | None = None) -> Answer:
        stopped = bool(self.ids) and self.ids[-1] in lmm.config.tokens.stop
        text = lmm.tokenizer.decode(self.ids[:-1] if stopped else self.ids)
        ending = "error" if error is not None else "stop" if stopped else "length"
        probabilities = np.array(self.probabilities[: len(self.ids)], np.float32)
        return Answer(self.job.key, text, tuple(self.ids), probabilities, ending, error, steps=len(self.ids))

    def _watch(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._scores is not None:
            self._close(int(np.asarray(tokens[-1:])[0]))
        scores = logits.astype(mx.float32)
        self._scores = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
        return logits

    def _close(self, token: int) -> None:
        assert self._scores is not None
        self.probabilities.append(float(np.exp(np.asarray(self._scores)[0, token])))
        self._scores = None


class _Mask:
    """A constraint as a logits processor."""

    def __init__(self, constraint: Constraint, start: int):
        self._constraint, self._start = constraint, start

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if len(tokens) > self._start:
            self._constraint.accept(int(np.asarray(tokens[-1:])[0]))
        allowed = mx.array(self._constraint.mask())
        return mx.where(allowed[None, : logits.shape[-1]], logits, -mx.inf)
