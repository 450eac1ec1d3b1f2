"""Certainty against the probabilities of one whole pass in float64."""

from __future__ import annotations

import numpy as np
import pytest
from policy_watch import softmax
from support import ask, picture, tiny_model

from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig
from rave_mlx.generation.confidence import TokenConfidence
from rave_mlx.generation.decode import continued, decode
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.policies.rereading.guidance import Guidance


@pytest.fixture(scope="module")
def lmm():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5))


def expected(lmm, question, ids):
    prompt = lmm.prepare([question])
    logits = np.array(lmm.logits(continued(prompt, ids)))[0].astype(np.float64)
    return min(softmax(logits[len(prompt) - 1 + i])[token] for i, token in enumerate(ids))


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=3.0, seed=1), Sampling(temperature=1.0, top_k=3, repetition_penalty=1.4, seed=2)],
    ids=["greedy", "hot", "penalty"],
)
@pytest.mark.parametrize("most", [1, 9])
def test_it_is_the_models_own_probability_of_what_was_drawn(lmm, sampling, most):
    session = Session(lmm, sampling=sampling, max_tokens=most)
    question = ask("What is the total?", picture(48, 40))
    ids = [piece.token for piece in session.answer([question])]
    assert session.stats.certainty == pytest.approx(expected(lmm, question, ids), rel=1e-3)


def test_with_guidance_it_is_the_probability_among_guided_logits(lmm):
    session = Session(lmm, policy=["rave", Guidance(gamma=4.0, cut=0.0)], max_tokens=6)
    question = ask("What is the total?", picture(48, 40))
    ids = [piece.token for piece in session.answer([question])]
    assert ids != [piece.token for piece in Session(lmm, policy="rave", max_tokens=6).answer([question])]
    text = lmm.prepare([{"role": "user", "content": question["content"][-1:]}])
    rows = [
        np.array(lmm.logits(continued(prompt, ids), gate=gate))[0].astype(np.float64)[len(prompt) - 1 :]
        for prompt, gate in ((lmm.prepare([question]), None), (text, False))
    ]
    chances = [softmax(4.0 * seen - 3.0 * unseen) for seen, unseen in zip(*rows, strict=True)]
    found = min(chance[token] for chance, token in zip(chances, ids, strict=False))
    assert session.stats.certainty == pytest.approx(found, rel=1e-3)


def test_an_answer_that_was_stopped_counts_what_was_heard(lmm):
    session = Session(lmm, max_tokens=9)
    question = ask("What is the total?", picture(48, 40))
    answer = session.answer([question])
    ids = [next(answer).token for _ in range(2)]
    answer.close()
    assert session.stats.certainty == pytest.approx(expected(lmm, question, ids), rel=1e-3)
    assert TokenConfidence().least([]) == 0.0


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_a_watch_draws_what_is_drawn_without_it(lmm, penalty):
    sampling = Sampling(temperature=1.5, top_p=0.9, min_p=0.01, repetition_penalty=penalty, seed=5)
    prompt = lmm.prepare([ask("What is the total?", picture(48, 40))])

    def drawn(how, *processors):
        cache = lmm.make_cache()
        logits = prefill(lmm, prompt, cache)
        return list(decode(lmm, prompt, cache, logits, how, max_tokens=8, processors=processors))

    assert drawn(sampling, TokenConfidence()) == drawn(sampling) != drawn(Sampling())
