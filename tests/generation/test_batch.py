"""Answers that are written together are those that are written one by one, for every family."""

from __future__ import annotations

import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.aki import write_released
from generation.writing import alone, ids_of, together
from policy_watch import softmax
from support import ask, model_rounding, picture, tiny_model

import rave_mlx
from rave_mlx.config import GateConfig, RopeConfig, RopeScaling
from rave_mlx.generation.decode import continued
from rave_mlx.generation.job import Job
from rave_mlx.models.rope_scaling import rope_bucket

CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_a_ragged_batch_gives_the_ids_of_one_by_one(name, tmp_path):
    case = CASES[name]
    lmm = rave_mlx.load(write_checkpoint(case, tmp_path / name))
    prompts = [lmm.prepare(CONVERSATIONS[c]) for c in case.conversations[-2:]]
    words = "One two three. " * 3
    prompts += [lmm.prepare([{"role": "user", "content": words[:n]}]) for n in (1, 40)]
    if len(case.conversations) > 1:
        prompts.append(lmm.prepare([ask("And this?", picture(90, 61, 7))]))
    jobs = [Job(prompt, max_tokens=3 + 3 * (i % 4), ends_loops=False) for i, prompt in enumerate(prompts)]
    expected = [alone(lmm, job) for job in jobs]
    order = np.random.default_rng(3).permutation(len(jobs))
    assert ids_of(together(lmm, [jobs[i] for i in order], rows=3)) == [expected[i] for i in order]


def test_mutual_attention_and_rotary_frequencies_that_change_in_the_answer(tmp_path):
    """AKI: an image sees the rest of its turn, and from 180 tokens on all keys turn otherwise (longrope)."""
    lmm = rave_mlx.load(write_released(tmp_path))
    rope = lmm.config.text.rope
    prompts = [lmm.prepare([ask("x" * n, *images)]) for n, images in (
        (1, [picture(50, 50, 1)]), (30, []), (18, [picture(30, 60, 2)]), (220, [picture(60, 60, 3)]), (260, []),
    )]  # fmt: skip
    jobs = [Job(prompt, max_tokens=12, ends_loops=False) for prompt in prompts]
    lengths = [prompt.token_map.next_position for prompt in prompts]
    buckets = [(rope_bucket(rope, n), rope_bucket(rope, n + 12)) for n in lengths]
    assert set(buckets) == {(0, 0), (0, 1), (1, 1)}, lengths
    assert ids_of(together(lmm, jobs, rows=5)) == [alone(lmm, job) for job in jobs]


def test_rotary_frequencies_that_follow_every_token():
    scaling = RopeScaling("dynamic", factor=2.0, original_positions=60)
    lmm = tiny_model(rope=RopeConfig(theta=10000.0, sections=(2, 3, 3), scaling=scaling))
    prompts = [lmm.prepare([{"role": "user", "content": "x" * n}]) for n in (1, 5, 30, 35, 70, 71)]
    jobs = [Job(prompt, max_tokens=8, ends_loops=False) for prompt in prompts]
    assert ids_of(together(lmm, jobs, rows=6)) == [alone(lmm, job) for job in jobs]


@pytest.mark.parametrize("seed", range(2))
def test_neither_company_nor_order_matters(seed):
    """Rows that come and go at different times, with gates, without, and with other sizes of page."""
    lmm = tiny_model(GateConfig(rank=4, kv_groups=0.5))
    rng = np.random.default_rng(seed)
    jobs = []
    for number in range(10):
        images = [picture(*rng.integers(3, 9, 2) * 8, seed=number) for _ in range(rng.integers(0, 3))]
        prompt = lmm.prepare([ask("word " * int(rng.integers(1, 30)), *images)])
        jobs.append(Job(prompt, max_tokens=int(rng.integers(1, 25)), gate=[None, False][rng.integers(2)], key=number))
    expected = {job.key: alone(lmm, job) for job in jobs}
    for rows in (3, 10):
        order = rng.permutation(len(jobs))
        answers = together(lmm, [jobs[i] for i in order], rows=rows)
        assert [answer.key for answer in answers] == order.tolist()
        assert {a.key: list(a.ids) for a in answers} == expected


def test_the_probabilities_are_those_of_one_pass_within_rounding():
    lmm = tiny_model(GateConfig(rank=4, kv_groups=0.5))
    prompts = [lmm.prepare([ask("word " * n, picture(8 * n + 16, 40, n))]) for n in range(1, 6)]
    answers = together(lmm, [Job(prompt, max_tokens=10) for prompt in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        whole = np.array(lmm.logits(continued(prompt, answer.ids)))[0].astype(np.float64)
        rows = softmax(whole[len(prompt) - 1 : -1])
        chances = rows[np.arange(len(answer.ids)), answer.ids]
        # The logits' largest is about 10: an error of one part of them is ten times as large in the logarithm.
        bound = 10 * model_rounding(lmm, len(prompt) + 10)
        assert np.allclose(np.log(answer.probabilities), np.log(chances), rtol=0, atol=bound)
        assert np.abs(whole).max() < 20
        assert answer.certainty == answer.probabilities.min()
