"""Answers that are written together are those that are written one by one, for every family."""

from __future__ import annotations

import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from generation.writing import alone, ids_of, together
from support import ask, picture

import rave_mlx
from rave_mlx.generation.job import Job

CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_a_ragged_batch_gives_the_ids_of_one_by_one(name, tmp_path):
    case = CASES[name]
    lmm = rave_mlx.load(write_checkpoint(case, tmp_path / name))
    prompts = [lmm.prepare(CONVERSATIONS[c]) for c in case.conversations]
    words = "One two three. " * 3
    prompts += [lmm.prepare([{"role": "user", "content": words[:n]}]) for n in (1, 40, 11)]
    if len(case.conversations) > 1:
        prompts.append(lmm.prepare([ask("And this?", picture(90, 61, 7))]))
    jobs = [Job(prompt, max_tokens=4 + 5 * (i % 4), ends_loops=False) for i, prompt in enumerate(prompts)]
    expected = [alone(lmm, job) for job in jobs]
    assert ids_of(together(lmm, jobs, rows=4)) == expected
    order = np.random.default_rng(3).permutation(len(jobs))
    assert ids_of(together(lmm, [jobs[i] for i in order], rows=3)) == [expected[i] for i in order]
