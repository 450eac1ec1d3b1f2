"""The training loss: its value, its gradients, its memory, and that batches change nothing about it."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from support import ask, picture, relative, tiny_config, tiny_model

from rave_mlx.checkpoint import adapters
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.config import GateConfig, RopeConfig, RopeScaling
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.models.decoder import Decoder
from rave_mlx.train.batch import collate
from rave_mlx.train.example import make_example
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.forward import hidden_states
from rave_mlx.train.loss import cross_entropy, loss

ROWS = [
    [ask("What?", picture(40, 24, 1)), {"role": "assistant", "content": "Tea."}],
    [
        ask("Which of them?", picture(64, 16, 2), picture(16, 16, 3)),
        {"role": "assistant", "content": "The first one."},
        ask("Why?", picture(40, 24, 1)),
        {"role": "assistant", "content": "It is bigger"},
    ],
    [{"role": "user", "content": "No image here, only words."}, {"role": "assistant", "content": "Indeed."}],
]
"""One image, several in two turns (one of them the first row's), none."""
GATE = GateConfig(rank=3)
MODULES = ("decoder.layers.0.attention.q_proj", "decoder.layers.1.mlp.down_proj", "decoder.layers.2.attention.v_proj")


def examples(lmm):
    return [make_example(lmm, read_messages(row, lmm.config.image), f"row {i}") for i, row in enumerate(ROWS)]


def expected_sum(lmm, example):
    """From the logits of inference, in float64."""
    scores = np.array(lmm.logits(example.prompt, gate=True), np.float64)[0]
    scores -= scores.max(axis=-1, keepdims=True)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    where = np.flatnonzero(example.loss_mask)
    return -log_probabilities[where - 1, example.prompt.ids[0, where]].sum()


def gradients(lmm, function):
    value, grads = nn.value_and_grad(lmm, function)(lmm)
    return value, dict(tree_flatten(grads))


def same(found, wanted, limit=2e-5):
    """The values agree, and every gradient does, relative to its size or that of the largest."""
    (value, grads), (right, others) = found, wanted
    assert relative(value, right) < limit
    assert grads.keys() == others.keys()
    largest = max(float(mx.abs(g).max()) for g in others.values())
    for name, grad in others.items():
        assert float(mx.abs(grad - grads[name]).max()) <= limit * largest, name


@pytest.mark.parametrize("path", [None, "train", "reference"])
def test_the_sum_over_a_batch_is_that_of_its_rows(path):
    lmm = tiny_model(GATE)
    rows = examples(lmm)
    total, count = loss(lmm, collate(rows), path=path)
    assert count == sum(len(a) + 1 for a in ("Tea.", "The first one.", "It is bigger", "Indeed."))
    assert total.dtype == mx.float32 and total.shape == ()
    assert relative(total, sum(expected_sum(lmm, row) for row in rows)) < 1e-5
    for row in rows:
        assert relative(loss(lmm, collate([row]), path=path)[0], expected_sum(lmm, row)) < 1e-5


def test_gradients_of_a_batch_are_those_of_batches_of_one():
    lmm = tiny_model(GATE)
    rows = examples(lmm)
    whole = gradients(lmm, lambda m: loss(m, collate(rows))[0])
    ones = [gradients(lmm, lambda m, row=row: loss(m, collate([row]))[0]) for row in rows]
    value = sum(v for v, _ in ones)
    same(whole, (value, {n: sum(g[n] for _, g in ones) for n in whole[1]}))


def test_padding_never_matters():
    lmm = tiny_model(GATE)
    rows = examples(lmm)
    batch = collate(rows)
    alone = gradients(lmm, lambda m: loss(m, batch)[0])
    rng = np.random.default_rng(0)
    padding = np.arange(batch.ids.shape[1]) >= batch.lengths[:, None]
    assert padding.any()
    other = replace(
        batch,
        ids=np.where(padding, rng.integers(0, 272, batch.ids.shape), batch.ids).astype(np.int32),
        positions=np.where(padding[:, None], 77, batch.positions).astype(np.int32),
    )
    same(gradients(lmm, lambda m: loss(m, other)[0]), alone, 1e-6)


def test_the_order_of_rows_and_shared_images():
    lmm = tiny_model(GATE)
    rows = examples(lmm)
    batch = collate(rows)
    assert len(batch.images) == 3, "the image that two rows show is read once"
    assert relative(loss(lmm, collate(rows[::-1]))[0], loss(lmm, batch)[0]) < 1e-6


def test_rotary_frequencies_that_follow_the_length_are_each_rows_own():
    scaling = RopeScaling("dynamic", factor=4.0, original_positions=60)
    lmm = tiny_model(rope=RopeConfig(theta=100.0, sections=(2, 3, 3), scaling=scaling))
    rows = examples(lmm)
    assert relative(loss(lmm, collate(rows))[0], sum(expected_sum(lmm, row) for row in rows)) < 1e-5


def test_a_batch_without_rows_has_no_loss_and_zero_gradients():
    lmm = tiny_model(GATE)
    batch = collate([])
    assert (len(batch), batch.count) == (0, 0)
    value, grads = gradients(lmm, lambda m: loss(m, batch)[0])
    assert value.item() == 0
    assert all(not mx.any(g).item() for g in grads.values())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_chunks_change_nothing(tied, chunk):
    lmm = tiny_model(tie_embeddings=tied)
    rng = np.random.default_rng(0)
    states = mx.array(rng.normal(size=(23, 48)).astype(np.float32))
    targets = mx.array(rng.integers(0, 272, 23).astype(np.int32))

    def whole(parameters, states):
        lmm.update(parameters)
        scores = lmm.decoder.logits(states)
        return 3 * nn.losses.cross_entropy(scores, targets, reduction="sum")

    def chunked(parameters, states):
        lmm.update(parameters)
        return 3 * cross_entropy(lmm.decoder, states, targets, chunk=chunk)

    parameters = lmm.trainable_parameters()
    (right, (by_weight, by_state)) = mx.value_and_grad(whole, (0, 1))(parameters, states)
    (found, (ours, ours_by_state)) = mx.value_and_grad(chunked, (0, 1))(parameters, states)
    name = "decoder.embed.weight" if tied else "decoder.head.weight"
    assert relative(found, right) < 1e-6
    assert relative(ours_by_state, by_state) < 1e-6
    assert relative(dict(tree_flatten(ours))[name], dict(tree_flatten(by_weight))[name]) < 1e-6


def test_a_quantized_head():
    config = tiny_config()
    tokens, text = replace(config.tokens, image=None), replace(config.text, hidden_size=64)
    decoder = Decoder(replace(config, tokens=tokens, text=text, vision=None, connector=None, image=None))
    nn.quantize(decoder, 32, 8, class_predicate=lambda name, _: name == "head")
    states = mx.array(np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32))
    targets = mx.arange(9)
    right = mx.grad(lambda s: nn.losses.cross_entropy(decoder.logits(s), targets, reduction="sum"))(states)
    found = mx.grad(lambda s: cross_entropy(decoder, s, targets, chunk=4))(states)
    assert relative(found, right) < 1e-5


@pytest.mark.parametrize("frozen", [True, False])
def test_scores_of_all_tokens_never_exist_together(frozen):
    """Peak memory of the loss and its gradient above its inputs, beside that of the scores alone."""
    vocabulary, count = 8000, 512
    lmm = tiny_model(vocab_size=vocabulary)
    lmm.freeze()
    if not frozen:
        lmm.decoder.head.unfreeze()
    states = mx.random.normal((count, 48))
    targets = mx.random.randint(0, vocabulary, (count,))

    def peak(chunk):
        def run(parameters, states):
            lmm.update(parameters)
            return cross_entropy(lmm.decoder, states, targets, chunk=chunk)

        mx.eval(states, targets, lmm.parameters())
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(mx.value_and_grad(run, (0, 1))(lmm.trainable_parameters(), states))
        return mx.get_peak_memory() - before

    scores = count * vocabulary * 4
    gradient = 0 if frozen else vocabulary * 48 * 4
    assert peak(count) > 2 * scores
    assert peak(8) < 0.2 * scores + 9 * gradient


def adapted(dropout):
    """The tiny model with random updates on some projections; they and the gates train."""
    lmm = tiny_model(GATE)
    lmm.freeze()
    adapters.attach(lmm, AdapterConfig(rank=2, scale=2.0, modules=MODULES, dropout=dropout))
    rng = np.random.default_rng(3)
    names = [n for n in lmm.named_weights() if "lora" in n]
    weights = lmm.named_weights()
    lmm.load_weights(
        [(n, mx.array(rng.normal(0, 0.2, weights[n].shape).astype(np.float32))) for n in names], strict=False
    )
    lmm.unfreeze(keys=["lora_a", "lora_b", "U", "W", "a", "c", "beta"], strict=False)
    lmm.train()
    return lmm


def test_recomputing_layers_changes_nothing():
    lmm = adapted(0.0)
    batch = collate(examples(lmm))
    kept, again = (gradients(lmm, lambda m, c=c: loss(m, batch, checkpoint=c)[0]) for c in (False, True))
    assert {n.split(".")[-1] for n in kept[1]} == {"lora_a", "lora_b", "U", "W", "a", "c", "beta"}
    same(again, kept, 1e-6)


def test_the_gradient_through_dropout_is_that_of_the_loss_that_was_computed():
    """A recomputed layer has to leave out the same inputs twice. The slope is taken along the gradient."""
    lmm = adapted(0.4)
    batch = collate(examples(lmm)[:1])

    def run(parameters):
        lmm.update(parameters)
        mx.random.seed(5)
        return loss(lmm, batch, checkpoint=True)[0]

    start = lmm.trainable_parameters()
    value, grads = mx.value_and_grad(run)(start)
    lmm.eval()
    assert abs(float(loss(lmm, batch)[0]) / float(value) - 1) > 1e-3, "dropout does something"
    lmm.train()
    size = sum(float(mx.sum(mx.square(g))) for _, g in tree_flatten(grads))
    step = 3e-3 / size**0.5
    moved = [float(run(tree_map(lambda p, g, s=s: p + s * step * g, start, grads))) for s in (1, -1)]
    assert abs((moved[0] - moved[1]) / (2 * step) / size - 1) < 0.01


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_cached_features_are_those_of_the_tower(memory, tmp_path):
    lmm = tiny_model(GATE)
    batch = collate(examples(lmm))
    cache = FeatureCache(lmm, memory=memory, folder=tmp_path / "features")
    features = cache.read(batch.images)
    assert (np.array(hidden_states(lmm, batch, features)) == np.array(hidden_states(lmm, batch))).all()
    assert cache.computed == 3 and cache.nbytes <= memory
    assert len(list((tmp_path / "features").iterdir())) == 3
    cache.read(batch.images)
    again = FeatureCache(lmm, memory=memory, folder=tmp_path / "features")
    assert all(mx.array_equal(x, features[n]) for n, x in again.read(batch.images).items())
    assert (cache.computed, again.computed) == (3, 0)


def test_features_of_another_tower_and_damaged_files_are_not_used(tmp_path):
    lmm = tiny_model()
    batch = collate(examples(lmm))
    FeatureCache(lmm, folder=tmp_path).read(batch.images)
    other = FeatureCache(tiny_model(seed=1), folder=tmp_path)
    other.read(batch.images)
    assert other.computed == 3
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    again = FeatureCache(lmm, folder=tmp_path)
    assert again.read(batch.images).keys() == {image.digest for image in batch.images}
    assert again.computed == 3


def test_the_tower_and_the_connector_get_their_gradients():
    lmm = tiny_model(GATE)
    batch = collate(examples(lmm))
    _, grads = gradients(lmm, lambda m: loss(m, batch)[0])
    dead = [n for n, g in grads.items() if not mx.any(g != 0).item()]
    assert dead == []
