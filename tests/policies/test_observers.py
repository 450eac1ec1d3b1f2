"""Observers against the attention weights themselves, and the indices against literal numbers."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from support import ask, picture, tiny_model
from test_policies import Watch, watched

from rave_mlx.config import GateConfig
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.policies.methods.var import VAR
from rave_mlx.policies.observers import Entropies, Masses, dominance, dominance_by_depth, entropies, masses
from rave_mlx.policies.runtime import attach

STEERED = VAR(dims=(3, 14, 30), tau=2.2, rho=0.5, min_visual=0.1)


@pytest.fixture(scope="module")
def lmm():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5))


def test_masses_and_entropies_are_those_of_the_final_weights(lmm):
    prompt = lmm.prepare([ask("What is the total?", picture(56, 40))])
    policies = [Masses(), STEERED, Entropies(), Watch()]
    cache = lmm.make_cache(gate=True, hooks=attach(lmm, policies))
    prefill(lmm, prompt, cache, chunk=9)
    position = prompt.token_map.next_position
    for count, token in enumerate([40, 90, 133]):
        mx.eval(step(lmm, cache, mx.array([token]), position + count))
    keys = len(prompt) + 3
    visual = np.pad(prompt.token_map.visual, (0, 3))
    answer = np.arange(keys) >= len(prompt)
    found, spread = masses(cache.hooks, policies[0]), entropies(cache.hooks, policies[2])
    assert found.shape == (3, 1, 4, 4, 3)
    for layer in range(3):
        rows = [w[0, :, -1] for _, w in cache.hooks.state(Watch(), layer)["rows"]][-4:]
        for token, seen in enumerate(rows):
            row = np.pad(np.array(seen, np.float64), [(0, 0), (0, keys - seen.shape[-1])])
            expected = [row[:, marks].sum(-1) for marks in (visual, ~visual & ~answer, answer)]
            np.testing.assert_allclose(found[layer, 0, token].T, expected, atol=2e-6)
            share = row[:, visual] / row[:, visual].sum(-1, keepdims=True)
            expected = -(share * np.log(share)).sum(-1) / np.log(visual.sum())
            np.testing.assert_allclose(spread[layer, 0, token], expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=3e-6)
    depths = dominance_by_depth(cache.hooks, policies[0])
    text, image = found[:2, ..., 1].mean(), found[:2, ..., 0].mean()
    ratio = (text / (len(prompt) - visual.sum())) / (image / visual.sum())
    assert depths["early"].mdi == pytest.approx(ratio, rel=1e-5)


def test_observers_change_nothing(lmm):
    prompt = lmm.prepare([ask("What is the total?", picture(56, 40))])
    plain = np.array(lmm.logits(prompt))
    seen = np.array(lmm.logits(prompt, hooks=attach(lmm, [Masses(), Entropies()])))
    np.testing.assert_allclose(seen, plain, atol=3e-6 * np.abs(plain).max())


def test_watched_rows_are_whole(lmm):
    """The helper that other tests rely on sees every row of every layer once."""
    prompt = lmm.prepare([ask("What is the total?", picture(56, 40))])
    run = attach(lmm, [Watch()])
    lmm.logits(prompt, hooks=run)
    assert [w.shape for w in watched(run)] == [(1, 4, len(prompt), len(prompt))] * 3


def test_dominance():
    found = dominance(0.8, 0.2, 50, 576)
    assert (found.mdi, found.text, found.other) == pytest.approx((46.08, 10.016, 0.217361), rel=1e-5)
    share = 50 / 626
    assert found.text == pytest.approx(found.mdi / (share * found.mdi + 1 - share))
