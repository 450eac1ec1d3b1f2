"""Views: which sizes are read, and answers against a loop that reads every size anew for every token."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import cases, write_checkpoint
from PIL import Image
from support import ask, picture, tiny_model

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig, ImageConfig, RopeScaling
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import continued
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart
from rave_mlx.look import collect
from rave_mlx.models.kv_cache import LayerCache
from rave_mlx.policies.methods.paint import PAI
from rave_mlx.policies.parse import Steering, steering
from rave_mlx.policies.rereading import auxiliary_pass
from rave_mlx.policies.rereading.carve import CARVE
from rave_mlx.policies.rereading.funnel import VisualFunnel
from rave_mlx.policies.rereading.guidance import Guidance
from rave_mlx.policies.rereading.multi_scale import MultiScale, mean_log_probabilities
from rave_mlx.policies.rereading.page_sizes import page_sizes
from rave_mlx.policies.rereading.tiled_crops import TiledCrops
from rave_mlx.policies.runtime import attach

ALWAYS = MultiScale(sure=2.0)
QUESTION = "What is the total?"


@pytest.fixture(scope="module", params=[None, GateConfig(rank=4, kv_groups=0.5)], ids=["base", "gated"])
def lmm(request):
    return tiny_model(request.param)


def read(lmm, page, tokens=None):
    return Session(lmm, policy=ALWAYS, image_tokens=tokens).read(page)


# Which sizes


@pytest.mark.parametrize("seed", range(12))
def test_views_are_the_page_at_other_sizes_in_whole_cells(lmm, seed):
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(40, 120, 2))
    part, config = read(lmm, picture(width, height, seed)), lmm.config.image
    found = page_sizes(part, part.original, config, (0.7, 1.3, 2.0))
    assert len(found) == 3
    _, rows, columns = part.patches.grid
    for view, scale in zip(found, (0.7, 1.3, 2.0), strict=True):
        _, high, wide = view.patches.grid
        assert abs(wide / columns - scale) * columns * 4 <= config.cell / 2 + 1
        assert abs(high / rows - scale) * rows * 4 <= config.cell / 2 + 1
        # Resampled once, from the original.
        sides = wide * config.patch_size, high * config.patch_size
        once = part.original.picture.resize(sides, Image.Resampling.BICUBIC)
        assert view.patches.digest == read(lmm, once).patches.digest


def test_a_page_at_its_budget_is_read_smaller_instead_of_larger(lmm):
    part = read(lmm, picture(300, 260), tokens=100)
    found = page_sizes(part, part.original, lmm.config.image, (1.25,))
    assert [view.patches.tokens for view in found] == [pytest.approx(100 / 1.25**2, abs=12)]
    assert all(
        view.patches.tokens <= 100 for view in page_sizes(part, part.original, lmm.config.image, (0.9, 1.05, 4.0))
    )


def test_sizes_that_come_out_alike_are_read_once(lmm):
    part = read(lmm, picture(64, 48))
    assert page_sizes(part, part.original, lmm.config.image, (1.0, 1.01, 0.99)) == []
    assert len(page_sizes(part, part.original, lmm.config.image, (0.5, 0.501, 1.0))) == 1


# What they decide


def test_the_formula():
    p, q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.6, 0.3]])
    found = np.array(mean_log_probabilities([mx.array(np.log(p) + 3), mx.array(np.log(q) - 2)]))
    np.testing.assert_allclose(np.exp(found), np.sqrt(p * q), rtol=1e-5)
    assert found.argmax() == 1
    np.testing.assert_allclose(np.exp(np.array(mean_log_probabilities([mx.array(np.log(p) + 3)]))), p, rtol=1e-5)


def log_softmax(x):
    x = np.array(x).astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def read_anew(lmm, part, policy, count, *, gate=None):
    """The greedy answer and its least probability, every token from whole readings of as many sizes as it takes."""
    answer, least = [], 1.0
    sizes = [part, *page_sizes(part, part.original, lmm.config.image, policy.scales)]
    prompts = [lmm.prompt([Message("user", (size, TextPart(QUESTION)))]) for size in sizes]
    while len(answer) < count:
        scores = []
        for prompt in prompts:
            scores.append(log_softmax(lmm.logits(continued(prompt, answer), gate=gate)[0, -1]))
            mixed = log_softmax(np.mean(scores, axis=0))
            if np.exp(mixed.max()) >= policy.sure:
                break
        answer.append(int(mixed.argmax()))
        least = min(least, float(np.exp(mixed.max())))
        if answer[-1] in lmm.config.tokens.stop:
            break
    return answer, least


@pytest.mark.parametrize("sure", [2.0, 0.02, 0.012])
def test_answers_are_those_of_whole_readings_of_every_size(lmm, sure):
    """The small model gives its best token 0.01 to 0.04: with these bounds all, some and few tokens are in doubt."""
    changed = 0
    for seed in range(4):
        part, policy = read(lmm, picture(64, 48, seed)), MultiScale(scales=(0.7, 1.4), sure=sure)
        session = Session(lmm, policy=["rave", policy], max_tokens=7)
        found = [piece.token for piece in session.send(QUESTION, [part])]
        expected, least = read_anew(lmm, part, policy, 7, gate=True)
        assert found == expected
        assert session.stats.certainty == pytest.approx(least, rel=1e-3)
        plain = Session(lmm, policy="rave", max_tokens=7)
        changed += found != [piece.token for piece in plain.send(QUESTION, [part])]
    assert changed >= (sure > 1)


def test_a_sure_page_is_read_once_and_a_doubtful_one_at_every_size(lmm):
    for sure, images in ((0.0, 1), (2.0, 4)):
        session = Session(lmm, policy=MultiScale(sure=sure), max_tokens=4)
        list(session.send(QUESTION, [picture(120, 100)]))
        assert session.stats.images_encoded == images


def test_a_size_is_read_when_those_before_it_leave_doubt(lmm):
    """Bounds below what the page says, between it and two sizes together, and above both."""
    scales, message = (0.7, 1.4), TextPart(QUESTION)
    for seed in range(20):
        part = read(lmm, picture(96, 70, seed))
        sizes = [part, *page_sizes(part, part.original, lmm.config.image, scales)]
        prompts = [lmm.prompt([Message("user", (size, message))]) for size in sizes]
        scores = [log_softmax(lmm.logits(prompt, gate=False)[0, -1]) for prompt in prompts]
        alone, two = (np.exp(log_softmax(np.mean(scores[:n], axis=0)).max()) for n in (1, 2))
        if alone < 0.99 * two:
            break
    assert alone < 0.99 * two
    for sure, images in ((0.999 * alone, 1), (0.999 * two, 2), (1.001 * two, 3)):
        session = Session(lmm, policy=MultiScale(scales, sure=sure), max_tokens=1)
        list(session.send(QUESTION, [part]))
        assert session.stats.images_encoded == images


@pytest.mark.parametrize("sure", [0.05, 0.03, 0.02, 0.015])
def test_a_size_that_one_question_did_not_need_serves_the_next(lmm, sure):
    def session():
        return Session(lmm, policy=MultiScale((0.7, 1.4), sure=sure), max_tokens=5)

    first = session()
    answers = [
        [piece.token for piece in first.send(q, [picture(96, 70)] if not i else [])] for i, q in enumerate("abc")
    ]
    for asked in (1, 2):
        fresh = session()
        fresh.resume(first.messages[: 2 * asked])
        assert [piece.token for piece in fresh.send("abc"[asked])] == answers[asked]


def test_the_next_question_reads_no_page_anew(lmm, monkeypatch):
    session = Session(lmm, policy=ALWAYS, max_tokens=4)
    lengths = []
    reading = auxiliary_pass.prefill

    def watched(lmm, prompt, cache, **options):
        lengths.append((cache.length, len(prompt)))
        return reading(lmm, prompt, cache, **options)

    monkeypatch.setattr(auxiliary_pass, "prefill", watched)
    list(session.send(QUESTION, [picture(120, 100)]))
    assert [start for start, _ in lengths] == [0, 0, 0]
    lengths.clear()
    again = [piece.token for piece in session.send("And the date?")]
    assert session.stats.images_encoded == 0
    assert len(lengths) == 3
    assert all(length - start < 40 < start for start, length in lengths)
    fresh = Session(lmm, policy=ALWAYS, max_tokens=4)
    fresh.resume(session.messages[:2])
    assert [piece.token for piece in fresh.send("And the date?")] == again


@pytest.mark.parametrize("closer", [TiledCrops(sure=2.0, tokens=3), CARVE.preset("document"), VisualFunnel(size=64)])
def test_parts_of_a_page_have_views_too(lmm, closer):
    part = read(lmm, picture(300, 260), tokens=100)
    session = Session(lmm, policy=[closer, ALWAYS], image_tokens=100, max_tokens=2)
    (message,) = closer.revise(lmm, [Message("user", (part, TextPart(QUESTION)))], False, {})
    shown = [each for each in message.parts if isinstance(each, ImagePart)]
    assert [each.patches.digest for each in shown] != [part.patches.digest]
    assert all(page_sizes(each, each.original, lmm.config.image, (0.8,)) for each in shown)
    plain = Session(lmm, policy=[closer], image_tokens=100, max_tokens=2)
    for each in (session, plain):
        list(each.send(QUESTION, [part]))
    assert session.stats.images_encoded > plain.stats.images_encoded
    assert session.stats.certainty != plain.stats.certainty


def test_an_interrupted_reading_starts_again(lmm, monkeypatch):
    session, reading = Session(lmm, policy=ALWAYS, max_tokens=4), auxiliary_pass.prefill

    def interrupted(lmm, prompt, cache, **options):
        reading(lmm, prompt, cache, **options)
        cache.layers[-1] = LayerCache()  # had not come to the last layer
        raise KeyboardInterrupt

    monkeypatch.setattr(auxiliary_pass, "prefill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(session.send(QUESTION, [picture(120, 100)]))
    monkeypatch.setattr(auxiliary_pass, "prefill", reading)
    session.reset()
    found = [piece.token for piece in session.send(QUESTION, [picture(120, 100)])]
    fresh = Session(lmm, policy=ALWAYS, max_tokens=4)
    assert found == [piece.token for piece in fresh.send(QUESTION, [picture(120, 100)])]
    assert session.stats.certainty == pytest.approx(fresh.stats.certainty, rel=1e-5)


def test_nothing_is_asked_after_the_end(monkeypatch):
    """One token more than the answer has is prepared; it must not cost a reading of every size."""
    lmm = tiny_model()
    part = read(lmm, picture(96, 70))
    first = next(Session(lmm, max_tokens=1).send(QUESTION, [part])).token
    lmm.config = replace(lmm.config, tokens=replace(lmm.config.tokens, stop=frozenset({first})))
    asked = []
    reading = auxiliary_pass.prefill
    monkeypatch.setattr(auxiliary_pass, "prefill", lambda *a, **k: asked.append(1) or reading(*a, **k))
    chances = np.exp(log_softmax(lmm.logits(lmm.prompt([Message("user", (part, TextPart(QUESTION)))]))[0, -1]))
    session = Session(lmm, policy=MultiScale(sure=0.999 * float(chances.max())), max_tokens=5)
    assert [piece.token for piece in session.send(QUESTION, [part])] == [first]
    assert asked == []


def test_several_images_change_size_together_and_those_without_original_stay(lmm):
    session = Session(lmm, policy=ALWAYS, max_tokens=3)
    first, second = session.read(picture(90, 60, 1)), session.read(picture(70, 90, 2))
    list(session.send("Which is it?", [first, second]))
    assert session.stats.images_encoded == 8
    session.reset()
    list(session.send("Which is it?", [replace(first, original=None), second]))
    assert session.stats.images_encoded == 0
    session.reset()
    plain = Session(lmm, policy="none", max_tokens=3)
    bare = replace(first, original=None)
    assert [p.token for p in session.send("Which?", [bare])] == [p.token for p in plain.send("Which?", [bare])]
    assert [p.token for p in session.send("Hello?")]


def test_it_goes_with_other_policies_and_with_sampling(lmm):
    part = read(lmm, picture(96, 70))
    pai, chances = PAI(alpha=1.0, first=0, last=2, of=3), []
    sizes = [part, *page_sizes(part, part.original, lmm.config.image, ALWAYS.scales)]
    for steered in ([pai], []):
        session = Session(lmm, policy=[*steered, ALWAYS], max_tokens=1)
        list(session.send(QUESTION, [part]))
        prompts = [lmm.prompt([Message("user", (size, TextPart(QUESTION)))]) for size in sizes]
        scores = [lmm.logits(p, gate=False, hooks=attach(lmm, steered))[0, -1] for p in prompts]
        mixed = log_softmax(np.mean([log_softmax(score) for score in scores], axis=0))
        assert session.stats.certainty == pytest.approx(np.exp(mixed.max()), rel=1e-4)
        chances.append(session.stats.certainty)
    assert abs(chances[0] / chances[1] - 1) > 1e-3
    hot = Sampling(temperature=2.0, seed=3)
    drawn = [
        [p.token for p in Session(lmm, policy=policy, max_tokens=6, sampling=hot).send(QUESTION, [part])]
        for policy in (ALWAYS, ALWAYS, "none")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_policies_act_on_logits_in_the_order_in_which_they_are_written(lmm):
    """Sharpening a mean is not the mean of what was sharpened."""
    part, guidance = read(lmm, picture(96, 70)), Guidance(gamma=4.0, cut=0.0)
    sizes = [part, *page_sizes(part, part.original, lmm.config.image, ALWAYS.scales)]
    seen = [
        log_softmax(lmm.logits(lmm.prompt([Message("user", (size, TextPart(QUESTION)))]), gate=False)[0, -1])
        for size in sizes
    ]
    text = log_softmax(lmm.logits(lmm.prompt([Message("user", (TextPart(QUESTION),))]), gate=False)[0, -1])

    def sharpened(scores):
        return log_softmax(4.0 * log_softmax(scores) - 3.0 * text)

    first = sharpened(np.mean(seen, axis=0))
    last = log_softmax(np.mean([sharpened(seen[0]), *seen[1:]], axis=0))
    for policies, expected in (([ALWAYS, guidance], first), ([guidance, ALWAYS], last)):
        session = Session(lmm, policy=policies, max_tokens=1)
        (piece,) = session.send(QUESTION, [part])
        assert piece.token == expected.argmax()
        assert session.stats.certainty == pytest.approx(np.exp(expected.max()), rel=1e-3)


def test_a_size_that_is_longer_than_the_context_is_left_out():
    part = read(tiny_model(), picture(96, 70))
    scales = (0.7, 1.4)
    lengths = [
        len(tiny_model().prompt([Message("user", (size, TextPart(QUESTION)))]))
        for size in (part, *page_sizes(part, part.original, tiny_model().config.image, scales))
    ]
    lmm = tiny_model(max_positions=lengths[0] + 20)
    assert lengths[1] < lengths[0] + 20 < lengths[2]
    session = Session(lmm, policy=MultiScale(scales, sure=2.0), max_tokens=6)
    assert [p.token for p in session.send(QUESTION, [part])] == read_anew(lmm, part, MultiScale((0.7,), sure=2.0), 6)[0]


def test_readings_start_again_where_frequencies_change():
    """longrope turns with other factors beyond its original length, and larger views get there first."""
    lmm = tiny_model()
    part, policy = read(lmm, picture(96, 70)), MultiScale(scales=(0.7, 1.4), sure=2.0)
    larger = page_sizes(part, part.original, lmm.config.image, (1.4,))[0]
    longest = lmm.prompt([Message("user", (larger, TextPart(QUESTION)))]).token_map.next_position
    half = lmm.config.text.head_dim // 2
    factors = [tuple(np.linspace(1, 3, half) ** power) for power in (0.5, 1.5)]
    scaling = RopeScaling(
        kind="longrope", factor=4.0, original_positions=longest + 2, short_factors=factors[0], long_factors=factors[1]
    )
    rope = replace(lmm.config.text.rope, scaling=scaling)
    lmm.config = replace(lmm.config, text=replace(lmm.config.text, rope=rope))
    session = Session(lmm, policy=policy, max_tokens=7)
    assert [p.token for p in session.send(QUESTION, [part])] == read_anew(lmm, part, policy, 7)[0]


@pytest.mark.parametrize("name", ["idefics3", "internvl", "llava", "llava_next", "qwen2_vl", "qwen3_vl", "qwen2"])
def test_every_family_has_views_or_says_why_not(name, tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()[name], tmp_path))
    if lmm.config.vision is None:
        with pytest.raises(UsageError, match="^--attention views: this model reads text only"):
            Session(lmm, policy=ALWAYS)
        return
    part = read(lmm, picture(200, 120))
    found = page_sizes(part, part.original, lmm.config.image, ALWAYS.scales)
    assert found
    if not isinstance(lmm.config.image, ImageConfig):
        # The page on larger sheets of its own colour, never larger than it is.
        assert [view.patches.size[0] for view in found] == [218, 240, 267]
    tokens = [piece.token for piece in Session(lmm, policy=ALWAYS, max_tokens=3).send(QUESTION, [part])]
    assert tokens == read_anew(lmm, part, ALWAYS, 3)[0]


def test_settings():
    assert steering("rave+views:scales=0.8/1.25,sure=0.5") == Steering(True, (MultiScale((0.8, 1.25), 0.5),))
    for wrong in ("views:scales=", "views:scales=0", "views:scales=1.1/20", "views:sure=-1"):
        with pytest.raises(UsageError, match=r"--attention views: scales .* must be one or more from 0.1 to 10, sure"):
            steering(wrong)
    with pytest.raises(UsageError, match="acts on the answer's logits"):
        collect(tiny_model(), [ask(QUESTION, picture(56, 40))], policy=ALWAYS)
