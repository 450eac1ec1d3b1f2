"""Guidance on logits: PAI's formula, and answers against a loop that reads everything anew for every token."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import cases, write_checkpoint
from support import ask, picture, tiny_model

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig, RopeScaling
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import continued
from rave_mlx.generation.sampling import Sampling
from rave_mlx.look import collect
from rave_mlx.policies.methods.paint import PAI
from rave_mlx.policies.parse import steering
from rave_mlx.policies.rereading import auxiliary_pass
from rave_mlx.policies.rereading.guidance import Guidance, guided
from rave_mlx.policies.runtime import attach

STRONG = Guidance(gamma=3.0, cut=0.01)


@pytest.fixture(scope="module", params=[None, GateConfig(rank=4, kv_groups=0.5)], ids=["base", "gated"])
def lmm(request):
    return tiny_model(request.param)


def test_the_formula():
    """gamma 2: p^2 / q, and nothing for what is below a tenth of the largest p."""
    p, q = np.array([[0.6, 0.3, 0.06001, 0.03999]]), np.array([[0.3, 0.4, 0.2, 0.1]])
    found = np.exp(np.array(guided(mx.array(np.log(p) + 5), mx.array(np.log(q) - 3), 2.0, 0.1)))
    np.testing.assert_allclose(found, [[1.2, 0.225, 0.018006, 0]], rtol=1e-4)
    assert (found[0, 3], found.argmax()) == (0, 0)
    np.testing.assert_allclose(
        np.exp(np.array(guided(mx.array(np.log(p)), mx.array(np.log(q)), 1.0, 0.0))), p, rtol=1e-5
    )


def read_anew(lmm, messages, policy, count, *, steered=(), gate=None):
    """The greedy answer, every token from two whole readings."""
    answer: list[int] = []
    prompt, text = lmm.prepare(messages), lmm.prepare([{"role": "user", "content": messages[0]["content"][-1:]}])
    while len(answer) < count:
        p, q = (
            np.array(lmm.logits(x, **y)[0, -1]).astype(np.float64)
            for x, y in (
                (continued(prompt, answer), {"gate": gate, "hooks": attach(lmm, steered)}),
                (continued(text, answer), {"gate": False}),
            )
        )
        p, q = (x - np.log(np.exp(x - x.max()).sum()) - x.max() for x in (p, q))
        mixed = np.where(p < p.max() + np.log(policy.cut), -np.inf, policy.gamma * (p - q) + q)
        answer.append(int(mixed.argmax()))
        if answer[-1] in lmm.config.tokens.stop:
            break
    return answer


def test_answers_are_those_of_two_whole_readings_a_token(lmm):
    for seed in range(3):
        messages = [ask("What is the total?", picture(56, 40, seed))]
        found = [p.token for p in Session(lmm, policy=["rave", STRONG], max_tokens=6).answer(messages)]
        assert found == read_anew(lmm, messages, STRONG, 6)
        plain = [p.token for p in Session(lmm, max_tokens=6).answer(messages)]
        assert found != plain


def test_pai_in_full_is_both_halves(lmm):
    pai = PAI(alpha=1.0, first=0, last=2, of=3)
    messages = [ask("What is the total?", picture(56, 40))]
    found = [p.token for p in Session(lmm, policy=[pai, STRONG], max_tokens=5).answer(messages)]
    # The last row of every step is steered, so reading anew steers only the newest: compare the first token.
    assert found[0] == read_anew(lmm, messages, STRONG, 1, steered=[pai], gate=False)[0]


def test_without_strength_or_image_nothing_changes(lmm):
    messages = [ask("What is the total?", picture(56, 40))]
    text = [{"role": "user", "content": "How are you?"}]
    for policy, asked in ((Guidance(gamma=1.0), messages), (STRONG, text)):
        answers = [
            [p.token for p in Session(lmm, policy=["rave", *p], max_tokens=5).answer(asked)] for p in ([policy], [])
        ]
        assert answers[0] == answers[1]


def test_what_is_cut_is_never_drawn(lmm):
    messages = [ask("What is the total?", picture(56, 40))]
    policy = Guidance(gamma=1.5, cut=0.999)
    greedy = [p.token for p in Session(lmm, policy="none", max_tokens=4).answer(messages)]
    for seed in range(3):
        sampling = Sampling(temperature=1.5, seed=seed, repetition_penalty=1.0)
        drawn = [p.token for p in Session(lmm, policy=policy, max_tokens=4, sampling=sampling).answer(messages)]
        assert drawn[0] == greedy[0]


def test_conversations_go_on(lmm):
    session = Session(lmm, policy=STRONG, max_tokens=4)
    list(session.send("What is the total?", [picture(56, 40)]))
    again = [p.token for p in session.send("And the date?")]
    fresh = Session(lmm, policy=STRONG, max_tokens=4)
    fresh.resume(session.messages[:2])
    assert [p.token for p in fresh.send("And the date?")] == again
    assert session.stats.reused_tokens > 30


def test_the_second_run_is_read_again_where_frequencies_change(monkeypatch):
    """longrope turns with other factors beyond its original length; the run without images gets there on its own."""
    lmm = tiny_model()
    text = lmm.prepare([{"role": "user", "content": [{"type": "text", "text": "What is the total?"}]}])
    half = lmm.config.text.head_dim // 2
    factors = [tuple(np.linspace(1, 3, half) ** power) for power in (0.5, 1.5)]
    scaling = RopeScaling(
        kind="longrope",
        factor=4.0,
        original_positions=len(text) + 2,
        short_factors=factors[0],
        long_factors=factors[1],
    )
    rope = replace(lmm.config.text.rope, scaling=scaling)
    lmm.config = replace(lmm.config, text=replace(lmm.config.text, rope=rope))
    reading = auxiliary_pass.prefill
    messages = [ask("What is the total?", picture(56, 40))]
    read = []
    monkeypatch.setattr(auxiliary_pass, "prefill", lambda *a, **k: read.append(a) or reading(*a, **k))
    found = [p.token for p in Session(lmm, policy=STRONG, max_tokens=6).answer(messages)]
    assert len(read) == 2
    assert found == read_anew(lmm, messages, STRONG, 6)


@pytest.mark.parametrize("name", ["idefics3", "internvl", "llava", "llava_next", "qwen2_vl", "qwen3_vl", "qwen2"])
def test_every_family_is_guided_or_says_why_not(name, tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()[name], tmp_path))
    if lmm.config.vision is None:
        with pytest.raises(UsageError, match="^--attention guidance: this model reads text only"):
            Session(lmm, policy=STRONG)
        return
    messages = [ask("What is the total?", picture(100, 60))]
    assert [p.token for p in Session(lmm, policy=STRONG, max_tokens=3).answer(messages)] == read_anew(
        lmm, messages, STRONG, 3
    )


def test_settings():
    assert steering("pai+guidance").policies[1] == Guidance(1.1, 0.1)
    assert steering("guidance:paint,cut=0").policies == (Guidance(2.0, 0.0),)
    for wrong in ("guidance:gamma=-1", "guidance:cut=1"):
        with pytest.raises(UsageError, match=r"gamma .* must be 0 or more, cut .* in \[0, 1\)"):
            steering(wrong)
    with pytest.raises(UsageError, match="acts on the answer's logits"):
        collect(tiny_model(), [ask("What is the total?", picture(56, 40))], policy=STRONG)
