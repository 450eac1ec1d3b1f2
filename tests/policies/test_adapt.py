"""ADAPT: its formulas in float64 NumPy, for every layer and head of a random model while an answer is written."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from policy_watch import Watch, layers_of, softmax
from support import ask, picture, relative, tiny_config, tiny_model

from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.images.token_boxes import locate_tokens
from rave_mlx.policies.methods.adapt import ADAPT, concentration, herfindahl, inner_shares
from rave_mlx.policies.parse import steering
from rave_mlx.policies.runtime import attach

ANSWER = (40, 90, 133, 41, 77)


@pytest.fixture(scope="module")
def lmm():
    return tiny_model()


@pytest.fixture(scope="module")
def prompt(lmm):
    return lmm.prepare([ask("What is the total?", picture(72, 56))])


def written(lmm, prompt, *policies, answer=ANSWER):
    """What a `Watch` saw of every written token, and the logits after it."""
    run = attach(lmm, [*policies, Watch()])
    cache = lmm.make_cache(hooks=run)
    prefill(lmm, prompt, cache)
    layers_of(run)
    seen, logits = [], []
    for place, token in enumerate(answer):
        logits.append(np.array(step(lmm, cache, mx.array([token]), prompt.token_map.next_position + place)))
        seen.append(layers_of(run))
    return seen, logits


def test_a_small_example():
    """By hand: S = .25 * .6 + .09 * .3 + .04 * .1 for any multiple of the attention."""
    a, w = mx.array([0.5, 0.3, 0.2]), mx.array([0.6, 0.3, 0.1])
    np.testing.assert_allclose(np.array(concentration(mx.stack([a, 2 * a]), w)), [0.181, 0.181], rtol=1e-6)
    # H with the last token at one edge and the first in a corner: .125^2 + .3^2 + .1^2.
    np.testing.assert_allclose(np.array(herfindahl(a, mx.array([0.25, 1.0, 0.5]))), 0.115625, rtol=1e-6)


def test_tokens_near_the_edge_count_half(lmm):
    image = lmm.prepare([ask("Read.", picture(72, 56))]).images[0]
    found = inner_shares(locate_tokens(image, lmm.config.image, lmm.config.connector), image.size).reshape(7, 9)
    expected = np.ones((7, 9))
    expected[:2] *= 0.5
    expected[-2:] *= 0.5
    expected[:, :2] *= 0.5
    expected[:, -2:] *= 0.5
    np.testing.assert_array_equal(found, expected)
    narrow = lmm.prepare([ask("Read.", picture(72, 32))]).images[0]
    found = inner_shares(locate_tokens(narrow, lmm.config.image, lmm.config.connector), narrow.size)
    assert found.tolist() == [1.0] * 36


@pytest.mark.parametrize("keep_image", [False, True])
@pytest.mark.parametrize("tau", [0.6, 0.005])
def test_steering_of_every_layer_and_head(lmm, prompt, tau, keep_image):
    seen, _ = written(lmm, prompt, ADAPT(tokens=2, tau=tau, alpha=0.7, keep_image=keep_image))
    visual = np.flatnonzero(prompt.token_map.visual)
    for token in seen[:2]:
        for layer in token:
            np.testing.assert_allclose(layer.weights, layer.plain, atol=2e-6)
    anchor = np.mean([layer.weights[:, -1, visual] for token in seen[:2] for layer in token], axis=(0, 1))
    steered = 0
    for token in seen[2:]:
        for layer in token:
            scores = layer.scores[:, -1].copy()
            for head in range(len(scores)):
                own = scores[head, visual]
                a = softmax(own)
                if (a**2 * anchor).sum() / a.sum() ** 2 < tau:
                    moved = own + 0.7 * np.log(anchor + 1e-9)
                    if keep_image:
                        moved += np.log(np.exp(own).sum() / np.exp(moved).sum())
                    scores[head, visual] = moved
                    steered += 1
            np.testing.assert_allclose(layer.weights[:, -1], softmax(scores), atol=3e-6)
    assert steered == 36 if tau == 0.6 else 0 < steered < 36


def test_mixing_of_every_layer_and_head(lmm, prompt):
    seen, _ = written(lmm, prompt, ADAPT.preset("released", tokens=2, strength=0.9))
    visual = np.flatnonzero(prompt.token_map.visual)
    inner = inner_shares(locate_tokens(prompt.images[0], lmm.config.image, lmm.config.connector), (72, 56))
    mixed = 0
    for index in range(3):
        stored = np.mean([token[index].weights[:, -1, visual] for token in seen[:2]], axis=0).astype(np.float64)
        bench = ((stored.mean(0) * inner) ** 2).sum()
        for token in seen[2:]:
            weights = token[index].plain[:, -1].copy()
            now = ((weights[:, visual].mean(0) * inner) ** 2).sum()
            share = 0.9 * np.clip(1 - now / bench, 0, 1)
            mixed += share > 0
            weights[:, visual] = (1 - share) * weights[:, visual] + share * stored
            weights /= weights.sum(-1, keepdims=True)
            np.testing.assert_allclose(token[index].weights[:, -1], weights, atol=3e-6)
    assert 0 < mixed < 9


def test_neutral_settings_change_nothing(lmm, prompt):
    plain = written(lmm, prompt)[1]
    for policy in (ADAPT(alpha=0.0, tokens=1), ADAPT.preset("released", strength=0.0, tokens=1), ADAPT(tokens=5)):
        assert relative(written(lmm, prompt, policy)[1], plain) < 3e-6
    assert relative(written(lmm, prompt, ADAPT(tokens=1))[1], plain) > 1e-3


def test_every_answer_has_its_own_anchor(lmm, prompt):
    policy = ADAPT(tokens=2)
    cache = lmm.make_cache(hooks=attach(lmm, [policy]))
    for turn in range(2):
        cache.trim(0)
        prefill(lmm, prompt, cache)
        for place, token in enumerate(ANSWER):
            found = step(lmm, cache, mx.array([token + turn]), prompt.token_map.next_position + place)
    expected = written(lmm, prompt, policy, answer=[token + 1 for token in ANSWER])[1][-1]
    assert relative(found, expected) < 3e-6


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="tokens is 0; the anchor needs at least 1 written token"):
        ADAPT(tokens=0)
    with pytest.raises(UsageError, match="there are: paper, released"):
        steering("adapt:quality")
    config = tiny_config()
    text = replace(config, vision=None, connector=None, image=None, tokens=replace(config.tokens, image=None))
    with pytest.raises(UsageError, match="--attention adapt: this model reads text only"):
        ADAPT().check(text)
