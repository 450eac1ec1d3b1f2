"""The methods against their formulas in float64 NumPy: the numbers of the papers' examples, random cases, and whole
passes of the tiny model, of which every layer's queries and keys are known. The invariants are in test_policies.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import mlx.core as mx
import numpy as np
import pytest
from families import cases, write_checkpoint
from policy_watch import LAYERS, Outputs, Watch, layers_of, softmax, watch
from support import ask, picture, relative, tiny_config, tiny_model
from tower_reference import tower_attention

import rave_mlx
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.policies.methods.act import ACT, calibrate, find_sinks
from rave_mlx.policies.methods.aif import AIF, flow_entropy, gap, hidden_tokens
from rave_mlx.policies.methods.debias import Debias
from rave_mlx.policies.methods.dyvte import DyVTE
from rave_mlx.policies.methods.ee_mllm import EEMLLM
from rave_mlx.policies.methods.gift import GIFT, enhance, saliency_of
from rave_mlx.policies.methods.iri import IRI, Rates, inject, recovery_rates
from rave_mlx.policies.methods.paint import PAI, PAINT, class_attention, raised, strengths
from rave_mlx.policies.methods.vhr import VHR, select
from rave_mlx.policies.parse import steering
from rave_mlx.policies.policy import Policy
from rave_mlx.policies.profiling import content_words, depth, depths, question
from rave_mlx.policies.registry import POLICIES
from rave_mlx.policies.runtime import attach

ALL = {"first": 0, "last": 2, "of": 3}


@pytest.fixture(scope="module")
def lmm():
    return tiny_model()


@pytest.fixture(scope="module")
def prompt(lmm):
    return lmm.prepare([ask("What is the total of this bill?", picture(56, 40))])


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return rave_mlx.load(write_checkpoint(cases()["llava"], tmp_path_factory.mktemp("llava")))


# Layers by depth, words


def test_layers_stand_at_the_same_depth():
    assert [depth(i, 32, 32) for i in (0, 11, 31)] == [0, 11, 31]
    assert depth(11, 32, 28) == 9
    assert list(depths(12, 22, 32, 32)) == list(range(12, 23))
    assert list(depths(12, 22, 32, 3)) == [1]
    assert list(depths(31, 31, 32, 4)) == [3]
    for count in range(1, 60):
        assert depths(2, 31, 32, count).stop == count
        assert len(depths(14, 14, 40, count)) >= 1
    assert list(GIFT.preset("qwen2-vl-7b").layers(28)) == list(range(5, 19))
    assert list(GIFT.preset("llava-13b").layers(40)) == list(range(14, 21))
    assert list(ACT().layers(32)) == list(range(2, 31))
    assert list(PAI().layers(32)) == list(range(2, 32))
    assert list(VHR().layers(32)) == [1, *range(18, 32)]
    assert list(VHR.preset("instructblip").layers(32)) == list(range(14, 32))
    assert list(VHR().layers(3)) == [1, 2]
    assert list(VHR().layers(1)) == [0]


def test_the_question_is_what_the_user_wrote_last(lmm):
    messages = [
        ask("Where is it?", picture(40, 40)),
        {"role": "assistant", "content": "There."},
        {"role": "user", "content": "What's the café's total, please?"},
    ]
    prompt = lmm.prepare(messages)
    asked, words = question(prompt), content_words(lmm, prompt)
    assert lmm.tokenizer.decode(prompt.ids[0, asked].tolist()) == "What's the café's total, please?"
    assert lmm.tokenizer.decode(prompt.ids[0, words].tolist()) == "café'stotal"
    only_function_words = lmm.prepare([ask("What is this?", picture(40, 40))])
    np.testing.assert_array_equal(content_words(lmm, only_function_words), question(only_function_words))


# As written after --attention


def test_every_preset_can_be_named():
    for name, policy in POLICIES.items():
        for preset in policy.presets:
            assert steering(f"{name}:{preset}").policies == (policy.preset(preset),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gift:llava-7b,alpha=3", GIFT(alpha=3.0, source=11)),
        ("gift:qwen2-vl-7b,source=none", GIFT(alpha=4.0, first=5, last=18, of=28)),
        ("act:released,heads=3.0/12.7", ACT(threshold=0.1, answers=False, heads=("3.0", "12.7"))),
        ("vhr:instructblip", VHR(last=18, second=False)),
        ("pai:alpha=0.5", PAI(alpha=0.5)),
        ("paint:paper", PAINT(beta=0.4)),
        ("aif:shares=0.2/0.5", AIF(shares=(0.2, 0.5))),
        ("ee-mllm:first=4", EEMLLM(first=4)),
        ("iri:llava-next,mlp=0.1/0.2", IRI(mlp=(0.1, 0.2), attention_strength=0.15, mlp_strength=0.08)),
        ("dyvte:router=router.safetensors", DyVTE("router.safetensors")),
        ("debias:fastv,keep=64", Debias(64, sigma=0.0)),
    ],
)
def test_attention_strings(text, expected):
    assert steering(text).policies == (expected,)


# GIFT


def gift_saliency(rows):
    """rows (1 + words, V) of attention -> S."""
    mean = np.maximum(rows[1:] - rows[:-1], 0).mean(0)
    return saliency_of(mean)


def gift_row(weights, visual, asked, saliency, alpha, beta):
    """One row (H, K) of all heads -> the amplified row."""
    heads = max(1, len(weights) // 2)
    looks = np.argsort(-weights[:, visual].sum(1), kind="stable")[:heads]
    asks = np.argsort(-weights[:, asked].sum(1), kind="stable")[:heads]
    out = weights.copy()
    out[looks] *= np.exp(alpha * saliency)
    ratio = out[looks][:, visual].sum() / weights[looks][:, visual].sum()
    for head in asks:
        out[head, asked] *= beta * ratio
    return out / out.sum(1, keepdims=True)


def test_gift_example():
    saliency = gift_saliency(np.array([[0.10, 0.10, 0.05], [0.10, 0.30, 0.05], [0.12, 0.20, 0.25]]))
    np.testing.assert_allclose(saliency, [0, 1, 1], atol=1e-12)
    row = np.array([0.4, 0.05, 0.05, 0.02, 0.3, 0.18])
    visual, asked = np.array([0, 1, 1, 1, 0, 0], bool), np.array([0, 0, 0, 0, 1, 0], bool)
    spread = np.zeros(6, np.float32)
    spread[visual] = saliency
    weights = mx.array(row.astype(np.float32))[None, None, None]
    found = np.array(enhance(weights, mx.array(visual), mx.array(asked), mx.array(spread), 1.0, 1.0))[0, 0, 0]
    assert found[4] / row[4] == pytest.approx(2.002331, abs=1e-5)
    expected = [0.281496, 0.035187, 0.095648, 0.038259, 0.422736, 0.126673]
    np.testing.assert_allclose(found / found.sum(), expected, atol=2e-6)


def test_gift_clamps_outliers_and_leaves_constants():
    wide = np.append(np.tile([0.0, 0.1], 15), 1.0)
    top = wide.mean() + 3 * wide.std(ddof=1)
    assert top < 1
    np.testing.assert_allclose(saliency_of(wide)[1], 0.1 / top, rtol=1e-12)
    assert not saliency_of(np.full(5, 0.25)).any()
    assert not saliency_of(np.array([0.25])).any()


@pytest.mark.parametrize("seed", range(5))
def test_gift_on_random_rows(seed):
    rng = np.random.default_rng(seed)
    heads, keys = int(rng.integers(1, 8)), int(rng.integers(6, 40))
    weights = softmax(rng.normal(0, 2, (heads, keys)))
    kind = rng.permutation(np.arange(keys) % 3)
    visual, asked = kind == 0, kind == 1
    saliency = np.where(visual, rng.uniform(0, 1, keys), 0)
    alpha, beta = rng.uniform(0, 6), rng.uniform(0.5, 2)
    found = enhance(
        mx.array(weights.astype(np.float32))[None, :, None],
        *(mx.array(x) for x in (visual, asked, saliency.astype(np.float32))),
        alpha,
        beta,
    )
    found = np.array(found)[0, :, 0]
    expected = gift_row(weights, visual, asked, saliency, alpha, beta)
    assert relative(found / found.sum(1, keepdims=True), expected) < 1e-5


@pytest.mark.parametrize("source", [None, 1])
def test_gift_in_a_model(lmm, prompt, source):
    policy = GIFT(**ALL, alpha=3.0, beta=1.3, source=source)
    visual = prompt.token_map.visual
    words = np.flatnonzero(content_words(lmm, prompt))
    asked = question(prompt)
    rises = []
    for layer in watch(lmm, prompt):
        rise = np.maximum(layer.plain[:, words][..., visual] - layer.plain[:, words - 1][..., visual], 0)
        heads = np.argsort(-rise.sum((1, 2)), kind="stable")[:2]
        rises.append((rise.sum(), rise[heads].mean((0, 1))))
    chosen = int(np.argmax([total for total, _ in rises])) if source is None else source
    saliency = np.zeros(len(prompt))
    saliency[visual] = saliency_of(rises[chosen][1])
    np.testing.assert_allclose(policy.plan(lmm, prompt, {})["saliency"], saliency, atol=2e-5)

    for layer in watch(lmm, prompt, policy):
        expected = layer.plain
        expected[:, -1] = gift_row(expected[:, -1], visual, asked, saliency, 3.0, 1.3)
        np.testing.assert_allclose(layer.weights, expected, atol=2e-5)


def test_gift_steers_every_written_token(lmm, prompt):
    policy = GIFT(**ALL, alpha=3.0, source=1)
    cache = lmm.make_cache(hooks=attach(lmm, [policy, Watch()]))
    prefill(lmm, prompt, cache)
    layers_of(cache.hooks)
    mx.eval(step(lmm, cache, mx.array([65]), prompt.token_map.next_position))
    visual, asked = (np.append(x, False) for x in (prompt.token_map.visual, question(prompt)))
    saliency = np.append(np.array(policy.plan(lmm, prompt, {})["saliency"]), 0)
    for layer in layers_of(cache.hooks):
        expected = gift_row(layer.plain[:, -1], visual, asked, saliency, 3.0, 1.0)
        np.testing.assert_allclose(layer.weights[:, -1], expected, atol=2e-5)


# ACT

ACT_MATRIX = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.3, 0.5, 0.2, 0], [0.2, 0.6, 0.1, 0.1]])


def act(weights, threshold, beta, chosen=True):
    """Square causal weights (L, L) of one head -> calibrated ones."""
    length = len(weights)
    received = weights.sum(0) / np.arange(length, 0, -1)
    sinks = np.flatnonzero(received > threshold)[1:]
    if not chosen or not len(sinks):
        return weights
    rest = np.delete(np.arange(length), sinks)
    out = weights.copy()
    out[:, sinks] *= beta
    out[:, rest] *= 1 + (1 - beta) * weights[:, sinks].sum(1, keepdims=True) / weights[:, rest].sum(1, keepdims=True)
    return out


def test_act_example():
    weights = mx.array(ACT_MATRIX.astype(np.float32))[None, None]
    sinks = find_sinks(mx.sum(weights, axis=2), mx.ones((1, 1, 4), mx.bool_), 0.1)
    assert np.flatnonzero(np.array(sinks)[0, 0]).tolist() == [1, 2]
    expected = [[1, 0, 0, 0], [0.8, 0.2, 0, 0], [0.72, 0.2, 0.08, 0], [0.48, 0.24, 0.04, 0.24]]
    np.testing.assert_allclose(calibrate(weights, sinks[:, :, None], 0.4)[0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(act(ACT_MATRIX, 0.1, 0.4), expected, atol=1e-12)


def test_act_leaves_a_row_that_has_nothing_but_sinks():
    weights = mx.array([[[[0.0, 1.0, 0.0]]]])
    sinks = mx.array([False, True, False])[None, None, None]
    np.testing.assert_array_equal(np.array(calibrate(weights, sinks, 0.4))[0, 0, 0], [0, 1, 0])


@pytest.mark.parametrize(
    ("policy", "threshold"),
    [(ACT(**ALL, alpha=1.5), None), (ACT(**ALL, threshold=0.06, beta=0.1), 0.06), (ACT(heads=("0.1", "2.3")), None)],
    ids=["paper", "released", "heads"],
)
def test_act_in_a_model(lmm, prompt, policy, threshold):
    threshold = threshold or policy.alpha / len(prompt)
    calibrated = 0
    for index, layer in enumerate(watch(lmm, prompt, policy)):
        for head, (found, plain) in enumerate(zip(layer.weights, layer.plain, strict=True)):
            chosen = not policy.heads or f"{index}.{head}" in policy.heads
            expected = act(plain, threshold, policy.beta, chosen)
            calibrated += expected is not plain
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert calibrated > 0


@pytest.mark.parametrize("answers", [True, False])
def test_act_while_an_answer_is_written(lmm, prompt, answers):
    policy = ACT(**ALL, alpha=1.5, answers=answers)
    cache = lmm.make_cache(hooks=attach(lmm, [policy, Watch()]))
    prefill(lmm, prompt, cache)
    sinks = []
    for layer in layers_of(cache.hooks):
        received = layer.plain.sum(1) / np.arange(len(prompt), 0, -1)
        above = received > 1.5 / len(prompt)
        sinks.append(above & (np.cumsum(above, axis=1) > 1))
    mx.eval(step(lmm, cache, mx.array([65]), prompt.token_map.next_position))
    for layer, found in zip(layers_of(cache.hooks), sinks, strict=True):
        plain, marks = layer.plain[:, -1], np.pad(found, [(0, 0), (0, 1)])
        freed = 0.6 * (plain * marks).sum(1, keepdims=True)
        rest = np.where(marks, 0, plain)
        calibrated = np.where(marks, 0.4 * plain, plain) + freed * rest / rest.sum(1, keepdims=True)
        np.testing.assert_allclose(layer.weights[:, -1], calibrated if answers else plain, atol=1e-5)


def test_act_reads_text_models():
    lmm = tiny_model()
    prompt = lmm.prepare([{"role": "user", "content": "How are you?"}])
    policy = ACT(**ALL, alpha=2.0)
    run = attach(lmm, [policy])
    assert relative(lmm.logits(prompt, hooks=run), lmm.logits(prompt)) > 1e-3


# VHR


def test_vhr_example():
    divergence, text = np.array([0.1, 0.2, 0.9, 0.3, 5, 0.25]), np.array([1, 1, 1, 1, 40, 1.0])
    chosen = select(mx.array(divergence)[None], mx.array(text)[None])
    assert np.flatnonzero(np.array(chosen)[0]).tolist() == [2, 3, 5]
    # One of the two tests alone is not enough.
    assert np.flatnonzero(np.array(select(mx.array(divergence)[None], mx.ones((1, 6))))[0]).tolist() == [2, 3, 4]


@dataclass(frozen=True)
class Louder(Policy):
    """Head outputs times given factors, one tuple a layer."""

    name: ClassVar[str] = "factors"
    factors: tuple[tuple[float, ...], ...] = ()

    def head_output(self, ctx, output):
        return output * mx.array(self.factors[ctx.layer])[:, None, None]


def without_image(prompt):
    """The prompt with its visual tokens taken out."""
    tokens = prompt.token_map
    kept = ~tokens.visual
    positions = np.tile(np.arange(kept.sum(), dtype=np.int32), (3, 1))
    shorter = replace(
        tokens, role=tokens.role[kept], image=tokens.image[kept], positions=positions, message=tokens.message[kept]
    )
    return Prompt(prompt.ids[:, kept], (), shorter)


@pytest.mark.parametrize(
    "policy",
    [VHR(), VHR(alpha=3.0, last=32, second=False), VHR(last=10, second=True, alpha=0.5)],
    ids=["paper", "all layers", "last and second"],
)
def test_vhr_in_a_model(lmm, prompt, policy):
    """Head outputs against two whole passes a layer, with and without the image, under the factors found so far."""
    factors = [(1.0,) * 4] * LAYERS
    for index in policy.layers(LAYERS):
        seen, unseen = (
            watch(lmm, p, Louder(tuple(factors)))[index].out[:, -1].astype(np.float64)
            for p in (prompt, without_image(prompt))
        )
        divergence = np.sqrt(((seen - unseen) ** 2).sum(-1))
        text = (unseen**2).sum(-1)
        outlying = (divergence > divergence.mean() + divergence.std()) & (text > text.mean() + text.std())
        divergence[outlying] = 0
        chosen = divergence > np.median(divergence)
        assert chosen.any()
        factors[index] = tuple(np.where(chosen, policy.alpha, 1.0).tolist())
    run = attach(lmm, [policy])
    fixed = attach(lmm, [Louder(tuple(factors))])
    assert relative(lmm.logits(prompt, hooks=run), lmm.logits(prompt, hooks=fixed)) < 1e-5

    caches = [lmm.make_cache(hooks=attach(lmm, [p])) for p in (policy, Louder(tuple(factors)))]
    for cache in caches:
        prefill(lmm, prompt, cache)
    written = [step(lmm, cache, mx.array([65]), prompt.token_map.next_position) for cache in caches]
    assert relative(*written) < 1e-5


def test_vhr_without_an_image_changes_nothing(lmm):
    prompt = lmm.prepare([{"role": "user", "content": "How are you?"}])
    assert relative(lmm.logits(prompt, hooks=attach(lmm, [VHR()])), lmm.logits(prompt)) < 1e-6


# PAI and PAINT


def test_paint_example():
    found = raised(mx.array([2.0, -1.0, 0.5, -0.2]), mx.array([0.0, 0.7, 0.3, 0.0]))
    np.testing.assert_allclose(found, [2, -0.3, 0.65, -0.2], atol=1e-6)


def test_paint_marks():
    summary = np.r_[np.full(20, 0.01), 0.2, 0.3].astype(np.float32)
    local = np.linspace(1, 0, 22).astype(np.float32)
    local[[20, 21]] = [2.0, 0.5]
    marks = strengths(local, summary, 0.7, 0.3, 0.25)
    expected = np.zeros(22, np.float32)
    expected[:4] = 0.7  # int(22 / 4) = 5 local tokens: 20, then 0 to 3
    expected[20:] = 0.3
    np.testing.assert_array_equal(marks, expected)


def test_pai_in_a_model(lmm, prompt):
    visual = prompt.token_map.visual
    for layer in watch(lmm, prompt, PAI(**ALL, alpha=0.5)):
        scores = layer.scores.copy()
        scores[:, -1, visual] += 0.5 * np.abs(scores[:, -1, visual])
        np.testing.assert_allclose(layer.weights, softmax(scores), atol=1e-5)


def test_paint_in_a_model(llava):
    prompt = llava.prepare([ask("Read.", picture(64, 50))])
    policy = PAINT(**ALL, share=0.25)
    strength = np.array(policy.plan(llava, prompt, {})["strength"])
    visual = prompt.token_map.visual
    assert not strength[~visual].any()
    local, summary = class_attention(llava.vision, prompt.images[0], llava.config.vision.num_heads)
    np.testing.assert_array_equal(strength[visual], strengths(local, summary, 0.7, 0.3, 0.25))
    assert (strength > 0).sum() >= visual.sum() // 4
    for layer in watch(llava, prompt, policy):
        scores = layer.scores.copy()
        scores[:, -1] += strength * np.abs(scores[:, -1])
        np.testing.assert_allclose(layer.weights, softmax(scores), atol=2e-5)


def test_the_class_token_looks_as_in_the_tower(llava):
    """The class token's row of the whole attention matrices, computed from the tower's weights."""
    prompt = llava.prepare([ask("Read.", picture(64, 50))])
    image = prompt.images[0]
    config = llava.config.vision
    expected = [attention[:, 0, 1:].sum(0) for attention in tower_attention(llava, image.pixels)]
    found = class_attention(llava.vision, image, config.num_heads)
    assert relative(found[0], expected[0]) < 1e-5
    assert relative(found[1], expected[config.depth - 2]) < 1e-5


@pytest.mark.parametrize("chunk", [1, 7])
def test_paint_in_chunks_and_two_images(llava, chunk):
    prompt = llava.prepare([ask("Compare.", picture(64, 50), picture(50, 64, 1))])
    policy = PAINT(**ALL)
    plain = llava.logits(prompt)[:, -1]
    whole = llava.logits(prompt, hooks=attach(llava, [policy]))[:, -1]
    assert relative(whole, plain) > 1e-3
    assert relative(prefill(llava, prompt, llava.make_cache(hooks=attach(llava, [policy])), chunk=chunk), whole) < 1e-5
    neutral = PAINT(**ALL, alpha=0.0, beta=0.0)
    assert relative(llava.logits(prompt, hooks=attach(llava, [neutral]))[:, -1], plain) < 1e-5


# AIF


def test_aif_example():
    flow = np.array([[0.8, 0.05, 0.05, 0.1], [0.3, 0.3, 0.2, 0.2]])
    np.testing.assert_allclose(flow_entropy(flow), [0.708347, 1.366159], atol=1e-6)
    mean, entropy = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.2, 0.5, 0.9, 1.3])
    order = np.argsort(-entropy)
    found = [gap(mean, order, count) for count in (1, 2, 3)]
    np.testing.assert_allclose(found, [0.218997, 0.596946, 1.279854], atol=1e-6)
    assert hidden_tokens(flow, [0.5]).tolist() == [1]
    assert hidden_tokens(flow, [0.0]).tolist() == []


def test_aif_in_a_model(lmm, prompt):
    visual = np.flatnonzero(prompt.token_map.visual)
    text = np.flatnonzero(~prompt.token_map.visual)
    later = text[text > visual[0]]
    flow = np.stack([x.plain.mean(0)[later][:, visual].max(0) for x in watch(lmm, prompt)], axis=1)
    mean = flow.mean(1)
    shares = flow / flow.sum(1, keepdims=True)
    order = np.argsort((shares * np.log(shares)).sum(1), kind="stable")

    def total(kept):
        p = mean[kept] / mean[kept].sum()
        return -(p * np.log(p)).sum()

    counts = [round(len(visual) * tenth / 10) for tenth in range(1, 10)]
    count = max(counts, key=lambda n: abs(total(order[n:]) - total(order)))
    hidden = visual[order[:count]]
    policy = AIF()
    np.testing.assert_array_equal(np.flatnonzero(np.array(policy.plan(lmm, prompt, {})["hidden"])), np.sort(hidden))
    for layer in watch(lmm, prompt, policy):
        scores = layer.scores.copy()
        scores[:, text[:, None], hidden] = -np.inf
        np.testing.assert_allclose(layer.weights, softmax(scores), atol=1e-5)
    cache = lmm.make_cache(hooks=attach(lmm, [policy, Watch()]))
    prefill(lmm, prompt, cache)
    layers_of(cache.hooks)
    mx.eval(step(lmm, cache, mx.array([65]), prompt.token_map.next_position))
    for layer in layers_of(cache.hooks):
        assert not layer.weights[:, -1, hidden].any()
        np.testing.assert_allclose(layer.weights.sum(-1), 1, atol=1e-5)


# EE-MLLM


def test_a_visual_token_gets_its_own_value(lmm, prompt):
    visual = prompt.token_map.visual
    for layer in watch(lmm, prompt, EEMLLM()):
        np.testing.assert_allclose(layer.out[:, visual], layer.v[:, visual], rtol=1e-6)
        np.testing.assert_allclose(layer.weights[:, ~visual], layer.plain[:, ~visual], atol=1e-5)


def test_ee_mllm_begins_where_it_is_told(lmm, prompt):
    first, second, third = watch(lmm, prompt, EEMLLM(first=2))
    visual = prompt.token_map.visual
    for layer in (first, second):
        np.testing.assert_allclose(layer.weights, layer.plain, atol=1e-5)
    np.testing.assert_allclose(third.out[:, visual], third.v[:, visual], rtol=1e-6)


# IRI


def test_iri_example():
    found = inject(mx.array([3.0, 4.0]), [mx.array([1.0, 0.0])], [0.5], 0.26)
    np.testing.assert_allclose(found, [3.081276, 3.937733], atol=1e-6)
    assert float(mx.linalg.norm(found)) == pytest.approx(5, abs=1e-6)


def test_iri_in_a_model(lmm, prompt):
    rates = {"attention": (0.5, 0.8, 0.2), "mlp": (0.3, 0.1, 0.6)}
    policy = IRI(**rates, sources=2, targets=2, of=3)
    before, after = Outputs("before"), Outputs("after")
    run = attach(lmm, [before, policy, after])
    mx.eval(lmm.logits(prompt, hooks=run))
    expected_parts = {"attention": ({0, 1}, {0, 1}, 0.26), "mlp": ({0, 2}, {0, 2}, 0.16)}
    changed = 0
    for kind, (sources, targets, strength) in expected_parts.items():
        seen = [np.array(run.state(before, i)[kind])[0].astype(np.float64) for i in range(LAYERS)]
        for layer in range(LAYERS):
            expected = seen[layer].copy()
            if layer in targets:
                own = expected[-1]
                mixed = own + strength * sum(rates[kind][k] * seen[k][-1] for k in sources if k < layer)
                expected[-1] = mixed * np.linalg.norm(own) / np.linalg.norm(mixed)
            np.testing.assert_allclose(run.state(after, layer)[kind][0], expected, atol=1e-5)
            changed += not np.allclose(expected, seen[layer])
    assert changed == 2


@dataclass(frozen=True)
class Replace(Policy):
    """Puts a value in the place of one sublayer's output at the last position."""

    name: ClassVar[str] = "replace"
    layer: int = 0
    kind: str = ""
    value: tuple[float, ...] = ()

    def layers(self, count):
        return [self.layer]

    def sublayer_output(self, ctx, kind, output):
        if kind != self.kind:
            return output
        return mx.concatenate([output[:, :-1], mx.array(self.value)[None, None]], axis=1)


def test_recovery_rates_are_those_of_whole_patched_passes(lmm, prompt):
    token, noise = int(np.argmax(lmm.logits(prompt)[0, -1])), np.random.default_rng(3)
    found = recovery_rates(lmm, [prompt], noise=2.0, seed=3)
    named = recovery_rates(lmm, [prompt], token, noise=2.0, seed=3)
    np.testing.assert_allclose(named.attention + named.mlp, found.attention + found.mlp, atol=1e-4)
    image = prompt.images[0]
    pixels = image.pixels + noise.normal(0, 2.0, image.pixels.shape).astype(np.float32)
    noisy = replace(prompt, images=(replace(image, pixels=pixels, digest="noisy"),))

    def chance(p, *policies):
        run = attach(lmm, policies) if policies else None
        return softmax(np.array(lmm.logits(p, hooks=run)[0, -1]).astype(np.float64))[token], run

    clean, run = chance(prompt, Outputs())
    base, _ = chance(noisy)
    for kind, rates in (("attention", found.attention), ("mlp", found.mlp)):
        for layer in range(LAYERS):
            value = tuple(np.array(run.state(Outputs(), layer)[kind])[0, -1].tolist())
            patched, _ = chance(noisy, Replace(layer, kind, value))
            assert rates[layer] == pytest.approx((patched - base) / (clean - base), abs=2e-4)
    assert isinstance(found, Rates)
    IRI(found.attention, found.mlp, sources=3, targets=3, of=3).check(lmm.config)
    with pytest.raises(UsageError, match="does not lower"):
        recovery_rates(lmm, [prompt], token, noise=0.0)


# Refusals


@pytest.mark.parametrize(
    "policy", [GIFT(), VHR(), PAI(), PAINT(), AIF(), EEMLLM(), Debias(), DyVTE(exit=0)], ids=lambda p: p.name
)
def test_a_text_model_has_nothing_to_look_at(policy):
    config = tiny_config()
    text = replace(config, vision=None, connector=None, image=None, tokens=replace(config.tokens, image=None))
    with pytest.raises(UsageError, match=f"--attention {policy.name}: this model reads text only") as caught:
        policy.check(text)
    assert "\n" not in str(caught.value)


def test_paint_needs_a_class_token(lmm, llava):
    with pytest.raises(UsageError, match=r"no class token.*use pai"):
        PAINT().check(lmm.config)
    PAINT().check(llava.config)
    tower = replace(llava.config.vision, keep_class_token=True)
    with pytest.raises(UsageError, match="one visual token of each patch"):
        PAINT().check(replace(llava.config, vision=tower))


@pytest.mark.parametrize("policy", [GIFT(**ALL), VHR(), AIF(), Debias(5), DyVTE(exit=0)], ids=lambda p: p.name)
def test_methods_that_plan_read_one_prompt_at_a_time(lmm, prompt, policy):
    with pytest.raises(UsageError, match="one prompt at a time"):
        mx.eval(lmm.logits([prompt, prompt], hooks=attach(lmm, [policy])))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GIFT(first=5, last=4), "layers 5 to 4 are not layers 0 to 31"),
        (lambda: GIFT(source=32), "source 32 is not one of layers 0 to 31"),
        (lambda: GIFT(beta=0.0), "beta is 0"),
        (lambda: ACT(beta=1.5), "beta is 1.5; it is a fraction"),
        (lambda: ACT(last=32), "layers 2 to 32 are not layers 0 to 31"),
        (lambda: ACT(heads=("3",)), "heads '3' is not layer.head"),
        (lambda: ACT(heads=("3.1", "3.7")).check(tiny_config()), "layers 0 to 2 with heads 0 to 3"),
        (lambda: VHR(last=0), "last is 0"),
        (lambda: PAI(first=-1), "--attention pai: layers -1 to 31"),
        (lambda: AIF(shares=(1.0,)), "shares from 0 to below 1"),
        (lambda: EEMLLM(first=-1), "layers count from 0"),
        (lambda: Debias(0), "keep is 0"),
        (lambda: Debias(after=40), "layer 40 is not one of layers 0 to 31"),
        (DyVTE, "give either router=FILE or exit=LAYER"),
        (lambda: DyVTE(exit=3).check(tiny_config()), "exit 3: the model has layers 0 to 2"),
        (lambda: IRI(targets=0), "sources and targets are numbers of layers from 1 to 32"),
        (lambda: IRI().check(tiny_config()), "needs the model's recovery rates"),
        (lambda: IRI((0.1, 0.2, 0.3)).check(tiny_config()), "no source layer comes before a target layer"),
        (lambda: IRI((0.1, 0.2)).check(tiny_config()), "attention has 2 rates; the model has 3 layers"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(UsageError) as caught:
        make()
    assert message in str(caught.value)
