"""Policies that drop visual tokens: equal to hiding the dropped keys, and what they choose equal to float64 NumPy."""

from __future__ import annotations

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from policy_watch import LAYERS, Hide, Inputs, Outputs, answers, watch
from support import ask, model_rounding, picture, relative, tiny_config, tiny_model

from rave_mlx.chat.session import Session
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.policies.methods.debias import Debias, best, image_places, trend_weights
from rave_mlx.policies.methods.dyvte import DyVTE, Router
from rave_mlx.policies.methods.visiondrop import VisionDrop, merge_plan
from rave_mlx.policies.runtime import attach
from rave_mlx.train.dyvte_router import Example, RouterConfig, label, train_router

PRUNING = [
    (Debias(5, after=0, of=3), Debias(1000, after=0, of=3)),
    (Debias.preset("fastv", keep=3, after=1, of=3), Debias(1000)),
    (DyVTE(exit=0), DyVTE(exit=2)),
]
"""Pruning policies, and settings under which they keep every token."""


@pytest.fixture(scope="module")
def lmm():
    return tiny_model()


@pytest.fixture(scope="module")
def prompt(lmm):
    return lmm.prepare([ask("What is the total of this bill?", picture(56, 40))])


def test_debias_example():
    weights = trend_weights(np.arange(576) / 576, 1.8809635745)
    np.testing.assert_allclose(weights[[0, 1, 575]], [1, 0.99673976, 0.15294177], atol=1e-8)
    places = image_places(np.array([0, 0, 0, 0, 1, 1], np.int32))
    np.testing.assert_allclose(places, [0, 0.25, 0.5, 0.75, 0, 0.5])


@pytest.mark.parametrize(("sigma", "after"), [(0.0, 0), (1.88096, 0), (-4.0, 1)])
def test_debias_in_a_model(lmm, prompt, sigma, after):
    visual = np.flatnonzero(prompt.token_map.visual)
    last = watch(lmm, prompt)[after].plain[:, -1].mean(0)[visual]
    places = np.arange(len(visual)) / len(visual)
    dropped = visual[np.argsort(-last / np.exp(sigma * places), kind="stable")[6:]]
    policy = Debias(6, sigma=sigma, after=after, of=3)
    found, cache = answers(lmm, prompt, policy)
    hidden, _ = answers(lmm, prompt, Hide(tuple(dropped.tolist()), after))
    assert relative(found, hidden) < 1e-5
    sizes = [layer.length - len(prompt) - 3 for layer in cache.layers]
    assert sizes == [0 if index <= after else -len(dropped) for index in range(LAYERS)]


@pytest.mark.parametrize("chunk", [1, 7])
def test_pruning_keeps_the_invariants(lmm, chunk):
    """Those of test_policies.py, whose rows are compared one by one and here are fewer."""
    for prompt in (
        lmm.prepare([ask("What is the total?", picture(56, 40))]),
        lmm.prepare([ask("Compare the two.", picture(40, 48, 1), picture(24, 64, 2))]),
    ):
        plain, bound = lmm.logits(prompt)[:, -1], model_rounding(lmm, len(prompt))
        for policy, neutral in PRUNING:
            whole = lmm.logits(prompt, hooks=attach(lmm, [policy]))[:, -1]
            assert relative(whole, plain) > 1e-4
            assert (
                relative(prefill(lmm, prompt, lmm.make_cache(hooks=attach(lmm, [policy])), chunk=chunk), whole) < 1e-5
            )
            assert relative(lmm.logits(prompt, hooks=attach(lmm, [neutral]))[:, -1], plain) < bound


def test_a_pruned_conversation_goes_on_as_a_fresh_one(lmm):
    for policy, _ in PRUNING:
        session = Session(lmm, policy=policy, max_tokens=4)
        list(session.send("What is the total?", [picture(56, 40)]))
        tokens = [piece.token for piece in session.send("Why is that so?")]
        assert session.stats.reused_tokens == 0
        fresh = Session(lmm, policy=policy, max_tokens=4)
        fresh.resume(session.messages[:-2])
        assert [piece.token for piece in fresh.send("Why is that so?")] == tokens


def test_debias_never_prunes_after_the_last_layer():
    assert list(Debias().layers(32)) == [1]
    assert list(Debias(after=31).layers(32)) == [30]
    assert list(Debias(after=31).layers(2)) == [0]
    with pytest.raises(UsageError, match="one layer"):
        Debias().check(tiny_config(num_layers=1))


# VisionDrop


def test_visiondrop_example():
    targets, joined = merge_plan(np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]), 2)
    assert targets.tolist() == [0, 2]
    assert joined.tolist() == [-1, 0, -1, 1]
    rows = np.array([[0.5, 0.3, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.3, 0.4]])
    assert best(rows.mean(0), 2).tolist() == [0, 1]
    assert best(rows.mean(0), 3).tolist() == [0, 1, 3]


@pytest.mark.parametrize("sections", [(2, 3, 3), None], ids=["two-dimensional", "plain"])
def test_visiondrop_in_a_model(sections):
    lmm = tiny_model(rope=replace(tiny_config().text.rope, sections=sections))
    prompt = lmm.prepare([ask("What is the total?", picture(72, 56))])
    visual = np.flatnonzero(prompt.token_map.visual)
    inputs, policy = Inputs(), VisionDrop((1,), (6,), (4,), of=3)
    run = attach(lmm, [inputs])
    mx.eval(lmm.logits(prompt, hooks=run))
    x = np.array(run.state(inputs, 1)["x"])[0].astype(np.float64)
    layer = watch(lmm, prompt)[1]
    scores = layer.plain[:, visual][..., visual].mean((0, 1))
    stay = np.sort(np.argsort(-scores, kind="stable")[:6])
    rest = np.setdiff1d(np.arange(len(visual)), stay)
    keys = layer.k[:, visual[rest]].mean(0)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    targets = np.arange(0, len(rest), len(rest) // 4)[:4]
    others = np.setdiff1d(np.arange(len(rest)), targets)
    nearest = (keys[others] @ keys[targets].T).argmax(1)
    for place, target in enumerate(targets):
        members = visual[rest[others[nearest == place]]]
        if len(members):
            x[visual[rest[target]]] += x[members].mean(0)
    before, after = np.arange(visual[0]), np.arange(visual[-1] + 1, len(prompt))
    order = np.concatenate([before, visual[stay], visual[rest[targets]], after])

    cache = lmm.make_cache(gate=False, hooks=attach(lmm, [policy, inputs]))
    prefill(lmm, prompt, cache)
    np.testing.assert_allclose(cache.hooks.state(inputs, 1)["x"][0], x[order], atol=1e-4)
    positions = cache.hooks.tokens_of(1).positions[0]
    np.testing.assert_array_equal(
        positions, np.tile(np.arange(len(order)), (3, 1)) if sections is None else prompt.token_map.positions[:, order]
    )
    mx.eval(step(lmm, cache, mx.array([40]), prompt.token_map.next_position))
    following = len(order) if sections is None else prompt.token_map.next_position
    assert cache.hooks.tokens_of(1).positions[0, :, -1].tolist() == [following] * 3
    assert [c.length for c in cache.layers] == [len(prompt) + 1, len(order) + 1, len(order) + 1]


def test_visiondrop_goes_through_its_stages(lmm, prompt):
    policy = VisionDrop((1, 2), (8, 3), (2, 2), of=3)
    _, cache = answers(lmm, prompt, policy)
    text = len(prompt) - prompt.visual_tokens + 3
    assert [c.length for c in cache.layers] == [text + prompt.visual_tokens, text + 10, text + 5]
    two = lmm.prepare([ask("Compare.", picture(56, 40), picture(40, 40, 1))])
    with pytest.raises(UsageError, match="one image a prompt"):
        lmm.logits(two, hooks=attach(lmm, [policy]))


@pytest.mark.parametrize("chunk", [1, 7])
def test_visiondrop_reads_in_one_piece(lmm, prompt, chunk):
    policy = VisionDrop((1,), (6,), (4,), of=3)
    whole = lmm.logits(prompt, hooks=attach(lmm, [policy]))[:, -1]
    assert relative(whole, lmm.logits(prompt)[:, -1]) > 1e-4
    assert relative(prefill(lmm, prompt, lmm.make_cache(hooks=attach(lmm, [policy])), chunk=chunk), whole) < 1e-5
    neutral = VisionDrop((1,), (1000,), (4,), of=3)
    unchanged = lmm.logits(prompt, hooks=attach(lmm, [neutral]))[:, -1]
    assert relative(unchanged, lmm.logits(prompt)[:, -1]) < model_rounding(lmm, len(prompt))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionDrop(before=(8,)), "lists of one length"),
        (lambda: VisionDrop((0,), (1,), (1,)), "give layers from 1 to 31"),
        (lambda: VisionDrop((8,), (0,), (1,)), "at least 1 dominant"),
        (lambda: VisionDrop().check(tiny_config(num_layers=1)), "one layer"),
    ],
)
def test_wrong_stages_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()


# DyVTE


def text_after(lmm, prompt, layer):
    """The block's output after a layer, of the text that follows the image, from the layer's sublayers in float64."""
    outputs, inputs = Outputs(), Inputs()
    run = attach(lmm, [outputs, inputs])
    mx.eval(lmm.logits(prompt, hooks=run))
    x = np.array(run.state(inputs, layer)["x"])[0].astype(np.float64)
    x = x + sum(np.array(run.state(outputs, layer)[kind])[0] for kind in ("attention", "mlp"))
    return x[np.flatnonzero(prompt.token_map.visual)[-1] + 1 :]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_router_leaves_where_its_scores_say(lmm, prompt, layer, tmp_path):
    """A router that reads the true features, shifted so that `layer` is the first at which leaving wins."""
    mx.random.seed(layer)
    router = Router(LAYERS, 48, 8)
    margins = []
    for index in range(LAYERS):
        states = text_after(lmm, prompt, index)
        read = np.concatenate([states[:-1].mean(0), states[-1]])
        scores = np.array(router.w2[index]).astype(np.float64) @ gelu(np.array(router.w1[index]) @ read)
        np.testing.assert_allclose(router(index, mx.array(read.astype(np.float32))), scores, rtol=1e-4, atol=1e-5)
        margins.append(scores[1] - scores[0])
    w2 = np.array(router.w2)
    for index in range(LAYERS):
        if (margins[index] > 0) != (index >= layer):
            w2[index] = w2[index, ::-1]
    router.w2 = mx.array(w2)
    router.save(tmp_path / "router.safetensors")
    policy = DyVTE(str(tmp_path / "router.safetensors"))
    policy.check(lmm.config)
    found, cache = answers(lmm, prompt, policy)
    hidden, _ = answers(lmm, prompt, Hide(tuple(np.flatnonzero(prompt.token_map.visual).tolist()), layer))
    assert relative(found, hidden) < 1e-5
    short = len(prompt) + 3 - prompt.visual_tokens
    assert [c.length for c in cache.layers] == [len(prompt) + 3 if i <= layer else short for i in range(LAYERS)]


def test_labels_say_whether_the_image_was_still_needed(lmm, prompt):
    example = Example(prompt, (40, 90, 133, 41))
    full, _ = answers(lmm, prompt)
    early, _ = answers(lmm, prompt, DyVTE(exit=0))

    def loss(scores):
        return np.mean(
            [np.log(np.exp(s.astype(np.float64)).sum()) - s[t] for s, t in zip(scores, example.answer, strict=True)]
        )

    same = (full.argmax(-1) == early.argmax(-1)).mean()
    ratio = loss(early) / loss(full)
    states = text_after(lmm, prompt, 0)
    expected = np.concatenate([states[:-1].mean(0), states[-1]])
    for agreement, tolerance in ((-1, ratio * 1.01), (-1, ratio * 0.99), (same + 0.01, 9.0), (same - 0.01, 9.0)):
        found, leave = label(lmm, example, 0, RouterConfig(agreement=agreement, tolerance=tolerance))
        assert leave == (same > agreement and ratio < tolerance)
        assert relative(found, expected) < 1e-5


def test_a_router_learns_its_labels(lmm):
    prompts = [lmm.prepare([ask("What is it?", picture(40, 40, seed))]) for seed in range(3)]
    examples = [Example(p, (40 + i, 90)) for i, p in enumerate(prompts)]
    config = RouterConfig(steps=35, batch_size=4, learning_rate=1e-3, agreement=0.4, tolerance=9.0, width=64)
    losses = []
    router = train_router(lmm, examples, config, lambda _, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    right = [
        bool(scores[1] > scores[0]) == bool(leave)
        for example in examples
        for layer in range(LAYERS - 1)
        for found, leave in [label(lmm, example, layer, config)]
        for scores in [np.array(router(layer, found))]
    ]
    assert np.mean(right) > 0.8
    with pytest.raises(UsageError, match="each with an image and an answer"):
        train_router(lmm, [Example(prompts[0], ())], config)


def test_routers_of_other_models_are_refused(lmm, tmp_path):
    file = tmp_path / "router.safetensors"
    Router(4, 48, 8).save(file)
    with pytest.raises(UsageError, match="4 layers and hidden size 48, this one has 3 and 48"):
        DyVTE(str(file)).check(lmm.config)
    with pytest.raises(UsageError, match="does not exist"):
        DyVTE(str(tmp_path / "none")).check(lmm.config)
    file.write_bytes(b"no router")
    with pytest.raises(UsageError, match="is not a router file"):
        DyVTE(str(file)).check(lmm.config)
    mx.save_safetensors(str(file), {"w": mx.zeros((1,))})
    with pytest.raises(UsageError, match="it holds w"):
        DyVTE(str(file)).check(lmm.config)
