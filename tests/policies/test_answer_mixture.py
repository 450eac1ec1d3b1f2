"""Known answers against what the model would write: every text of a small vocabulary, in float64."""

from __future__ import annotations

from itertools import product

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx.policies.rereading.answer_mixture import AnswerMixture, KnownAnswer

STOP, VOCABULARY = 3, 4
PROMPT = [9, 9, 2, 9]


def markov(seed):
    """Probabilities (before, after) of a model that looks at one token back; row 4 begins the answer."""
    return np.random.default_rng(seed).dirichlet(np.full(VOCABULARY, 1.5), VOCABULARY + 1)


def next_token(model, prefix):
    """The model's distribution after a prefix."""
    return model[prefix[-1] if prefix else VOCABULARY]


def probability(model, tokens):
    """P of tokens as a beginning of an answer."""
    return float(np.prod([next_token(model, tokens[:i])[tokens[i]] for i in range(len(tokens))]))


def mixed(model, known, prefix):
    """The distribution after a prefix, by the formula of the module."""

    def weight(tokens):
        rest = 1 - sum(w for _, w in known)
        return sum(w for ids, w in known if ids[: len(tokens)] == tokens) + rest * probability(model, tokens)

    return np.array([weight((*prefix, token)) for token in range(VOCABULARY)]) / weight(prefix)


def follow(model, known, prefix, seen=None, **settings):
    """Distributions that the processor leaves after each beginning of a prefix."""
    mixture = AnswerMixture(lambda: [KnownAnswer(ids, w) for ids, w in known], **settings)
    out = []
    for length in range(len(prefix) + 1):
        own = mx.array(np.log(next_token(model, prefix[:length])).astype(np.float32))[None] + 3.0
        scores = mixture(mx.array([*PROMPT, *prefix[:length]]), own)
        assert scores.shape == (1, VOCABULARY)
        out.append(np.array(mx.softmax(scores.astype(mx.float32), axis=-1), np.float64)[0])
        if seen is not None:
            seen.append((own, scores))
    return out


def some(seed):
    """Two to four known answers, with a share left for the model."""
    rng = np.random.default_rng(seed)
    texts = [(*map(int, rng.integers(0, 3, rng.integers(0, 4))), STOP) for _ in range(rng.integers(2, 5))]
    return list(zip(texts, rng.dirichlet(np.ones(len(texts))) * rng.uniform(0.2, 0.95), strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_every_next_token_has_the_probability_of_the_formula(seed):
    model, known = markov(seed), some(seed)
    for prefix in product(range(3), repeat=4):
        for length, found in enumerate(follow(model, known, prefix)):
            np.testing.assert_allclose(found, mixed(model, known, prefix[:length]), rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("doubted", [(), (0,), (0, 1, 2, 3)])
def test_a_sure_model_writes_alone_up_to_its_first_doubt(seed, doubted):
    """From there on the formula holds for all that is written; `doubted` matter for the first token only."""
    model, known, sure, alone = markov(seed), some(seed), 0.55, 0
    for prefix in product(range(3), repeat=3):
        doubt = False
        for length, found in enumerate(follow(model, known, prefix, sure=sure, doubted=doubted)):
            own = next_token(model, prefix[:length])
            doubt = doubt or own.max() < sure or (length == 0 and int(own.argmax()) in doubted)
            alone += not doubt
            expected = mixed(model, known, prefix[:length]) if doubt else own
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-8)
    if len(doubted) == VOCABULARY:
        assert not alone


def test_nothing_is_looked_for_while_the_model_is_sure():
    model = np.array([[0.96, 0.02, 0.01, 0.01]] * (VOCABULARY + 1))
    asked = []
    mixture = AnswerMixture(lambda: asked.append(1) or [], sure=0.95)
    for tokens in (PROMPT, [*PROMPT, 0], [*PROMPT, 0, 0]):
        mixture(mx.array(tokens), mx.array(np.log(model[0]).astype(np.float32))[None])
    assert not asked


@pytest.mark.parametrize("seed", range(3))
def test_whole_answers_have_the_probability_of_the_mixture(seed):
    """p(y) = sum_c w_c [y = c] + w_0 P(y), from the products of what the processor leaves."""
    model, known = markov(seed), some(seed)
    answers = [(*text, STOP) for length in range(4) for text in product(range(3), repeat=length)]
    rest = 1 - sum(w for _, w in known)
    for answer in answers:
        found = np.prod([step[token] for step, token in zip(follow(model, known, answer), answer, strict=False)])
        expected = sum(w for ids, w in known if ids == answer) + rest * probability(model, answer)
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_text_that_the_model_writes_too_gains_from_both():
    """Of three tokens the model likes the first one best (0.5); a known answer of 0.4 begins with it."""
    model = np.tile([0.5, 0.3, 0.1, 0.1], (5, 1))
    (found,) = follow(model, [((0, STOP), 0.4), ((1, STOP), 0.1)], ())
    np.testing.assert_allclose(found, [0.4 + 0.5 * 0.5, 0.1 + 0.5 * 0.3, 0.05, 0.05], rtol=1e-6)


def test_another_answer_leaves_the_model_to_itself():
    model, seen = markov(0), []
    follow(model, [((0, 1, 2, STOP), 0.6), ((0, 2, STOP), 0.3)], (0, 1, 1, 0, 2), seen)
    for number, (own, scores) in enumerate(seen):
        assert (scores is own) == (number >= 3)


def test_the_finder_is_asked_once_when_the_first_token_is_drawn():
    asked = []
    mixture = AnswerMixture(lambda: asked.append(1) or [KnownAnswer((0, STOP), 0.5)])
    assert asked == []
    for length in range(4):
        mixture(mx.array([*PROMPT, *[0, 0, 0][:length]]), mx.zeros((1, VOCABULARY)))
    assert asked == [1]


@pytest.mark.parametrize("known", [[], [((0, STOP), 0.0)]])
def test_nothing_known_changes_nothing(known):
    seen = []
    follow(markov(1), known, (0, 1, STOP), seen)
    assert all(scores is own for own, scores in seen)


@pytest.mark.parametrize("known", [[((0, STOP), 0.5)], [((STOP,), 0.5)], [((0, STOP), 0.5), ((0, STOP, 1, STOP), 0.2)]])
def test_what_follows_a_stop_token_is_asked_for_in_vain(known):
    """The next step is prepared before a token is looked at: the processor is called after the stop token as well."""
    begun = known[0][0][:-1]
    for more in ((STOP,), (STOP, 1), (STOP, 1, STOP, 2)):
        assert all(np.isfinite(found).all() for found in follow(markov(2), known, (*begun, *more)))


def test_a_long_answer_that_the_model_would_never_write():
    """The model's share falls below what a float holds; the answer ends, or turns away from what is known."""
    model = np.full((5, VOCABULARY), 1e-6)
    model[:, 2] = 1 - 3e-6
    known = [((*[0] * 80, STOP), 0.9)]
    for last in (STOP, 1):
        found = follow(model, known, (*[0] * 80, last, 2))
        assert all(step[0] == pytest.approx(1, abs=1e-3) for step in found[1:80])
        assert found[80][STOP] == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(found[81], model[last], atol=1e-6)


def test_known_answers_without_a_doubt():
    """Their probabilities may sum to 1, or by rounding to a little more."""
    for weight in (0.5, 0.5 + 1e-12):
        first, second = follow(markov(3), [((0, STOP), weight), ((1, STOP), 0.5)], (1,))
        np.testing.assert_allclose(first, [0.5, 0.5, 0, 0], atol=1e-6)
        np.testing.assert_allclose(second, [0, 0, 0, 1], atol=1e-6)
