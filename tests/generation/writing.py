"""What tests of the scheduler compare with: answers written by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rave_mlx.generation.decode import decode
from rave_mlx.generation.job import Answer, Job
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.models.lmm import LMM


def alone(lmm: LMM, job: Job) -> list[int]:
    """The ids of a job by `prefill` and `decode`; constraints and drafts are left out."""
    cache = lmm.make_cache(gate=job.gate, hooks=None if job.hooks is None else job.hooks())
    logits = prefill(lmm, job.prompt, cache)
    written = decode(lmm, job.prompt, cache, logits, job.sampling, max_tokens=job.max_tokens, processors=job.processors)
    return list(written)


def together(lmm: LMM, jobs: Sequence[Job], **options) -> list[Answer]:
    """The answers of a scheduler."""
    return list(Scheduler(lmm, **options).run(jobs))


def ids_of(answers: Sequence[Answer]) -> list[list[int]]:
    for answer in answers:
        assert answer.error is None, answer.error
        assert answer.probabilities is not None
        assert len(answer.probabilities) == len(answer.ids)
        assert np.isfinite(answer.probabilities).all()
    return [list(answer.ids) for answer in answers]
