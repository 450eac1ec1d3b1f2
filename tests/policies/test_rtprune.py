"""RTPrune: its transport against float64 NumPy and POT, what it drops and merges against loops, pruned prompts against
whole ones in which the dropped tokens are hidden, and families with line breaks, grids, DeepStack and two masks."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import cases, write_checkpoint
from policy_watch import Hide
from support import ask, model_rounding, picture, relative, tiny_config, tiny_model

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.errors import UsageError
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.look import collect
from rave_mlx.policies.parse import steering
from rave_mlx.policies.rereading.rtprune import RTPrune, fixed_tokens, merge, split, transport, without_runs
from rave_mlx.policies.runtime import attach

NAMES = ["llava_next", "qwen3_vl", "hunyuan_vl", "gemma3"]


@pytest.fixture(scope="module")
def lmm():
    return tiny_model()


def revised(lmm, policy, *pictures, text="What is the total?"):
    """The prompt with pruned images."""
    return lmm.prompt(policy.revise(lmm, read_messages([ask(text, *pictures)], lmm.config.image), None, {}))


def logsumexp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    return top + np.log(np.exp(x - top).sum(axis=axis, keepdims=True))


def exact_transport(similarity, iterations=100):
    """The released iteration in float64."""
    m, p = similarity.shape
    z = np.ones((m + 1, p + 1))
    z[:m, :p] = similarity
    norm = -np.log(m + p)
    mu, nu = np.full((m + 1, 1), norm), np.full((1, p + 1), norm)
    mu[-1], nu[:, -1] = np.log(p) + norm, np.log(m) + norm
    u, v = np.zeros_like(mu), np.zeros_like(nu)
    for _ in range(iterations):
        u = mu - logsumexp(z + v, 1)
        v = nu - logsumexp(z + u, 0)
    return np.exp(z + u + v - norm)[:m, :p]


# The arithmetic


def test_transport_in_float64_and_by_another_program():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (2, 5), (30, 10)):
        similarity = rng.uniform(-1, 1, shape)
        found = np.array(transport(mx.array(similarity.astype(np.float32)), 100))
        np.testing.assert_allclose(found, exact_transport(similarity), rtol=2e-5)
        # No more than the mass of a token leaves or reaches it.
        assert found.sum(axis=0).max() < 1
        assert found.sum(axis=1).max() < 1
    # One token each: sinkhorn of [[s, 1], [1, 1]] has T / (1 - T) = exp((s - 1) / 2).
    half = np.exp((0.2 - 1) / 2)
    np.testing.assert_allclose(np.array(transport(mx.array([[0.2]]), 100)), [[half / (1 + half)]], rtol=1e-5)
    ot = pytest.importorskip("ot")
    m, p = similarity.shape
    cost = -np.pad(similarity, [(0, 1), (0, 1)], constant_values=1.0)
    plan = ot.bregman.sinkhorn_log([*[1] * m, p], [*[1] * p, m], cost, reg=1.0, numItermax=2000, stopThr=1e-12)
    np.testing.assert_allclose(found, plan[:m, :p], rtol=1e-4)


def test_the_most_relevant_stay_and_fixed_ones_do_not_count():
    relevance = np.array([0.1, 0.9, 5.0, 0.4, 0.2, 0.8])
    free = np.array([True, True, False, True, True, True])
    stay, dropped = split(relevance, free, 0.75)
    assert stay.tolist() == [1, 3, 5]
    assert dropped.tolist() == [0, 4]
    assert split(np.ones(4), np.ones(4, bool), 0.5)[0].tolist() == [0, 1]
    x = np.array([[1.0], [7], [2], [7], [7], [8], [7]], np.float32)
    free = np.array([True, False, True, False, False, False, False])
    assert without_runs(np.array([0, 1, 3, 4, 5, 6]), free, x).tolist() == [0, 1, 5, 6]
    assert without_runs(np.array([0, 1, 2, 3]), free, x).tolist() == [0, 1, 2, 3]


def test_what_is_dropped_is_merged(lmm):
    prompt = lmm.prepare([ask("What is the total?", picture(72, 56))])
    image, visual = prompt.images[0], prompt.token_map.visual
    x = np.array(lmm.features(image), np.float64)
    after = prompt.ids[0, np.flatnonzero(visual)[-1] + 1 :]
    text = np.array(lmm.decoder.embed.weight, np.float64)[after]
    relevance = np.array([[row @ t for t in text] for row in x]).mean(axis=1)
    count = int(len(x) * 0.6)
    stay = np.sort(np.argsort(-relevance)[:count])
    rest = np.setdiff1d(np.arange(len(x)), stay)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = x[stay] + 0.1 * exact_transport(unit[stay] @ unit[rest].T) @ x[rest]
    pruned = revised(lmm, RTPrune(keep=0.6), picture(72, 56))
    assert pruned.images[0].kept.tolist() == stay.tolist()
    np.testing.assert_allclose(pruned.images[0].features, expected, rtol=1e-4, atol=1e-5)
    assert relative(expected, x[stay]) > 1e-3
    np.testing.assert_allclose(np.array(merge(mx.array(x[stay]), mx.array(x[rest]), 0.0, 5)), x[stay], rtol=1e-6)


# Prompts


def test_all_tokens_are_the_whole_prompt_to_the_bit(lmm):
    messages = read_messages([ask("What is the total?", picture(72, 56))], lmm.config.image)
    assert RTPrune(keep=1.0).revise(lmm, messages, None, {}) == messages


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_pruned_prompt_is_the_whole_one_with_tokens_hidden(lmm, pictures):
    """Positions stay, so without merging only the keys of dropped tokens are missing."""
    shown = [picture(72, 56), picture(40, 48, 1)][:pictures]
    prompt = lmm.prepare([ask("What is the total?", *shown)])
    pruned = revised(lmm, RTPrune(keep=0.6, merge=0.0), *shown)
    hidden = np.zeros(len(prompt), bool)
    for index, image in enumerate(pruned.images):
        own = np.flatnonzero(prompt.token_map.image == index)
        hidden[np.delete(own, image.kept)] = True
        assert len(image.kept) == int(len(own) * 0.6)
    np.testing.assert_array_equal(pruned.token_map.positions, prompt.token_map.positions[:, ~hidden])
    assert pruned.token_map.next_position == prompt.token_map.next_position
    found = prefill(lmm, pruned, lmm.make_cache(), chunk=7)
    assert relative(lmm.logits([pruned, prompt])[0, -1:], found) < model_rounding(lmm, len(prompt))
    expected = lmm.logits(prompt, hooks=attach(lmm, [Hide(tuple(np.flatnonzero(hidden).tolist()), after=-1)]))[:, -1]
    assert relative(found, expected) < model_rounding(lmm, len(prompt))


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_family(name, tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()[name], tmp_path))
    question = ask("What is the total?", picture(100, 60))
    whole = lmm.prepare([question])
    prompt = revised(lmm, RTPrune(keep=0.5), picture(100, 60))
    image = prompt.images[0]
    fixed = np.flatnonzero(fixed_tokens(lmm, image))
    assert bool(fixed.size) == (name in ("llava_next", "hunyuan_vl"))
    free = image.tokens - fixed.size
    assert free // 2 <= len(image.kept) <= free // 2 + fixed.size
    assert np.isin(image.kept, fixed).sum() > 0 or not fixed.size
    assert image.features.shape[0] == len(image.kept) == prompt.visual_tokens
    assert len(prompt) == len(whole) - whole.visual_tokens + prompt.visual_tokens
    session = Session(lmm, policy=RTPrune(keep=0.5), max_tokens=3)
    first = list(session.answer([question]))
    assert 1 <= len(first) <= 3
    session.send("And the name?")


def test_what_cannot_be_is_refused(lmm):
    with pytest.raises(UsageError, match="keep is 0; it is a share above 0"):
        RTPrune(keep=0.0)
    with pytest.raises(UsageError, match="rtprune and debias both drop visual tokens"):
        steering("rtprune+debias")
    with pytest.raises(UsageError, match="rtprune and carve both choose what is read"):
        steering("rtprune+carve")
    with pytest.raises(UsageError, match="--attention rtprune drops tokens on the way"):
        collect(lmm, [ask("What?", picture())], policy="rtprune")
    with pytest.raises(UsageError, match="--attention rtprune: this model reads text only"):
        RTPrune().check(tiny_config_without_images())


def tiny_config_without_images():
    config = tiny_config()
    return replace(config, vision=None, connector=None, image=None, tokens=replace(config.tokens, image=None))
