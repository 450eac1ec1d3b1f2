"""VFlowOpt: its importance map against towers in float64 NumPy and Pillow, recycling against loops, and pruning in the
decoder against hiding the dropped keys."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import cases, write_checkpoint
from policy_watch import Hide, softmax
from support import ask, model_rounding, picture, relative, tiny_config
from tower_reference import tower_attention

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.config import ResamplerConfig
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.images.preprocess import cut_patches
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.policies.methods.dyvte import DyVTE
from rave_mlx.policies.methods.vflowopt import VFlowOpt
from rave_mlx.policies.methods.vflowopt_map import Places, patch_entropies, recycle, tile_importance
from rave_mlx.policies.runtime import attach

NAMES = ["llava", "llava_next", "llava_onevision", "llava_onevision-scaled", "llava-full", "idefics3", "internvl"]
WHOLE = VFlowOpt(keep=1.0, later=(1.0, 1.0))
"""Settings under which nothing is dropped."""
SMALL = VFlowOpt(threshold=1.1, cell=2.5, keep=0.6, later=(0.7, 0.5))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {
        name: rave_mlx.load(write_checkpoint(cases()[name], tmp_path_factory.mktemp(name)))
        for name in [*NAMES, "qwen2_vl"]
    }


def revised(lmm, policy, *pictures, text="What is the total?"):
    """The prompt with pruned images, and their features."""
    features = {}
    messages = policy.revise(lmm, read_messages([ask(text, *pictures)], lmm.config.image), None, features)
    return lmm.prompt(messages), features


# The map


def test_the_published_example():
    weights = np.tile(np.array([0.2, 0.2, 0.4, 0.2], np.float32), (4, 1))
    np.testing.assert_allclose(tile_importance(weights, 1.2, None, 0.0), weights[2], atol=1e-6)
    found = tile_importance(weights, 1.2, np.array([1.0, 2, 3, 4]), 0.5)
    np.testing.assert_allclose(found, [0.216029, 0.243572, 0.518441, 0.521957], atol=1e-6)


def test_global_tokens_are_chosen_by_what_they_receive():
    rng = np.random.default_rng(0)
    weights = softmax(rng.normal(0, 2, (9, 9))).astype(np.float32)
    received = weights.mean(0)
    for threshold in (0.5, 1.0, 1.6, 99.0):
        rows = weights[received > threshold * received.mean()]
        expected = rows.mean(0) if len(rows) else received
        np.testing.assert_allclose(tile_importance(weights, threshold, None, 0.0), expected, atol=1e-6)


def test_entropy_is_that_of_the_grey_patches(models):
    config = models["llava_onevision"].config.image
    image = cut_patches(picture(44, 44, 3), replace(config, plan="single", pinpoints=()))
    grey = picture(44, 44, 3).convert("L")
    side, patch = image.grid[1], config.patch_size
    boxes = [(c * patch, r * patch, (c + 1) * patch, (r + 1) * patch) for r in range(side) for c in range(side)]
    np.testing.assert_allclose(patch_entropies(image, config)[0], [grey.crop(b).entropy() for b in boxes], atol=0.1)
    flat = replace(image, pixels=np.zeros_like(image.pixels))
    assert not patch_entropies(flat, config).any()


def tile_attention(lmm, image):
    """Attention (patches, patches) of every tile in the last layer that features pass, mean over heads, in float64."""
    config = lmm.config.vision
    last = config.depth if -1 in config.feature_layers else max(config.feature_layers)
    first = int(config.class_token)
    tiles = np.split(image.pixels, image.grid[0])
    return [tower_attention(lmm, tile)[last - 1].mean(0)[first:, first:] for tile in tiles]


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "idefics3"])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_importance_as_in_the_tower(models, name, alpha):
    """Of every visual token that stands for patches, with the layout walked by hand."""
    lmm = models[name]
    image = lmm.prepare([ask("Read.", picture(88, 70))]).images[0]
    policy = VFlowOpt(threshold=1.05, alpha=alpha)
    maps = []
    entropies = patch_entropies(image, lmm.config.image)
    for weights, bits in zip(tile_attention(lmm, image), entropies, strict=True):
        received = weights.mean(0)
        maps.append(weights[received > 1.05 * received.mean()].mean(0) + alpha * softmax(bits))
    maps = np.array(maps).reshape(image.grid)
    tokens, found = policy.rank_tokens(lmm, image)
    assert relative(tokens, lmm.features(image)) < 1e-6
    if name == "idefics3":
        tiles, rows, columns = image.grid
        expected = maps.reshape(tiles, rows // 2, 2, columns // 2, 2).mean((2, 4)).reshape(-1)
    elif name == "llava":
        expected = maps.reshape(-1)
    else:
        (down, across), side, region = image.arrangement, image.grid[1], image.region
        whole = maps[1:].reshape(down, across, side, side).swapaxes(1, 2).reshape(down * side, across * side)
        whole = whole[region.top : region.top + region.height, region.left : region.left + region.width]
        assert (region.rows, region.columns) == whole.shape
        whole = np.pad(whole, [(0, 0), (0, 1)], constant_values=np.inf)
        expected = np.concatenate([maps[0].reshape(-1), whole.reshape(-1)])
    np.testing.assert_array_equal(np.isinf(found.importance), np.isinf(expected))
    finite = np.isfinite(expected)
    assert relative(found.importance[finite], expected[finite]) < 1e-5
    assert np.ptp(expected[finite]) > 0.1 * expected[finite].mean()


@pytest.mark.parametrize("name", NAMES)
def test_every_token_has_a_place(models, name):
    lmm = models[name]
    for size in ((88, 70), (44, 44), (30, 140)):
        image = lmm.prepare([ask("Read.", picture(*size))]).images[0]
        tokens, found = VFlowOpt().rank_tokens(lmm, image)
        assert len(tokens) == image.tokens == found.importance.size
        for grid in set(found.grid.tolist()) - {-1}:
            own = found.grid == grid
            assert len(set(zip(found.row[own], found.column[own], strict=True))) == own.sum()


# Recycling


@pytest.mark.parametrize(("keep", "cell"), [(0.7233, 3.3), (0.2651, 4.0), (0.1166, 2.5), (0.5, 99.0)])
@pytest.mark.parametrize("seed", range(3))
def test_recycling(keep, cell, seed):
    rng = np.random.default_rng(seed)
    one, two = (Places.of(rng.random(shape), grid) for grid, shape in enumerate(((7, 9), (5, 5))))
    found = Places.joined([one, Places.extra(1), two, Places.extra(2)])
    index, merged, shares = recycle(found, keep, cell)
    expected, means = set(np.flatnonzero(np.isinf(found.importance)).tolist()), {}
    for grid, count in ((0, 63), (1, 25)):
        own = sorted(np.flatnonzero(found.grid == grid), key=lambda i: found.importance[i])
        dropped = min(count - 1, round(count * (1 - keep)) + int(count / cell**2))
        expected |= set(own[dropped:])
        cells = {}
        for token in own[:dropped]:
            cells.setdefault((int(found.row[token] / cell), int(found.column[token] / cell)), []).append(token)
        for members in cells.values():
            weights = found.importance[members]
            means[max(members, key=lambda i: found.importance[i])] = dict(
                zip(members, weights / weights.sum(), strict=True)
            )
    assert sorted(index.tolist()) == index.tolist() == sorted(expected | set(means))
    assert set(merged.tolist()) == set(means)
    for token, share in zip(merged, shares, strict=True):
        assert set(np.flatnonzero(share)) == set(means[token])
        np.testing.assert_allclose(share[list(means[token])], list(means[token].values()), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_images_become_fewer_tokens(models, name):
    lmm = models[name]
    plain = lmm.prepare([ask("What is the total?", picture(88, 70))])
    prompt, features = revised(lmm, SMALL, picture(88, 70))
    image = prompt.images[0]
    assert len(plain) - len(prompt) == plain.visual_tokens - prompt.visual_tokens > 0
    assert list(features) == [image.digest]
    assert image.digest != plain.images[0].digest
    np.testing.assert_array_equal(prompt.ids[0][~prompt.token_map.visual], plain.ids[0][~plain.token_map.visual])
    _, found = SMALL.rank_tokens(lmm, plain.images[0])
    index, merged, shares = recycle(found, SMALL.keep, SMALL.cell)
    every = np.array(lmm.features(plain.images[0])).astype(np.float64)
    expected = every.copy()
    expected[merged] = shares.astype(np.float64) @ every
    assert relative(features[image.digest], expected[index]) < 1e-5
    assert image.tokens == len(index) < found.importance.size
    np.testing.assert_array_equal(image.importance, found.importance[index])


# The decoder


@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl"])
def test_pruning_is_hiding(models, name):
    lmm = models[name]
    prompt, features = revised(lmm, SMALL, picture(88, 70))
    stages = VFlowOpt(threshold=1.1, cell=2.5, keep=0.6, later=(0.7, 0.5), before=(1, 2), of=3)
    visual = np.flatnonzero(prompt.token_map.visual)
    importance = prompt.images[0].importance
    ranked = np.flatnonzero(np.isfinite(importance))
    order = ranked[np.argsort(-importance[ranked], kind="stable")]
    first = round(order.size * 0.7)
    second = round(first * 0.5)
    sizes = [len(prompt), len(prompt) - order.size + first, len(prompt) - order.size + second]

    def answer(*policies):
        cache = lmm.make_cache(gate=False, hooks=attach(lmm, policies))
        rows = [prefill(lmm, prompt, cache, features=features)]
        for count, token in enumerate((40, 90)):
            rows.append(step(lmm, cache, mx.array([token]), prompt.token_map.next_position + count))
        return mx.concatenate(rows), [layer.length - 2 for layer in cache.layers]

    hide = [
        replace(Hide(), keys=tuple(visual[order[count:]].tolist()), after=at)
        for at, count in enumerate((first, second))
    ]
    found, lengths = answer(stages)
    assert lengths == sizes
    assert relative(found, answer(hide[0])[0]) > 1e-4
    assert relative(found, both(lmm, prompt, features, hide)) < 1e-5


def both(lmm, prompt, features, hide):
    """Two stages of hiding: the second one as a policy of its own name."""

    class Later(Hide):
        name = "later"

    cache = lmm.make_cache(gate=False, hooks=attach(lmm, [hide[0], Later(hide[1].keys, hide[1].after)]))
    rows = [prefill(lmm, prompt, cache, features=features)]
    for count, token in enumerate((40, 90)):
        rows.append(step(lmm, cache, mx.array([token]), prompt.token_map.next_position + count))
    return mx.concatenate(rows)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_when_all_tokens_stay(models, name):
    lmm = models[name]
    prompt, features = revised(lmm, WHOLE, picture(88, 70), picture(50, 60, 1))
    plain = lmm.prepare([ask("What is the total?", picture(88, 70), picture(50, 60, 1))])
    np.testing.assert_array_equal(prompt.ids, plain.ids)
    found = prefill(lmm, prompt, lmm.make_cache(hooks=attach(lmm, [WHOLE])), features=features)
    assert relative(found, lmm.logits(plain)[:, -1]) < model_rounding(lmm, len(plain))


@pytest.mark.parametrize("chunk", [1, 7])
def test_prompts_are_read_in_one_piece(models, chunk):
    lmm = models["llava_onevision"]
    prompt, features = revised(lmm, SMALL, picture(88, 70), picture(50, 60, 1))
    whole = prefill(lmm, prompt, lmm.make_cache(hooks=attach(lmm, [SMALL])), features=features)
    assert relative(whole, prefill(lmm, prompt, lmm.make_cache(), features=features)) > 1e-4
    assert (
        relative(
            prefill(lmm, prompt, lmm.make_cache(hooks=attach(lmm, [SMALL])), features=features, chunk=chunk), whole
        )
        < 1e-5
    )


def test_a_conversation_goes_on_as_a_fresh_one(models):
    lmm = models["llava_onevision"]
    session = Session(lmm, policy="vflowopt:10", max_tokens=4)
    list(session.send("What is the total?", [picture(88, 70)]))
    tokens = [piece.token for piece in session.send("Why is that so?")]
    assert session.stats.reused_tokens == 0
    fresh = Session(lmm, policy="vflowopt:10", max_tokens=4)
    fresh.resume(session.messages[:-2])
    assert [piece.token for piece in fresh.send("Why is that so?")] == tokens
    full = Session(lmm, max_tokens=4)
    full.resume(session.messages[:-2])
    list(full.send("Why is that so?"))
    assert session.stats.prompt_tokens < full.stats.prompt_tokens


def test_presets_keep_what_they_are_called():
    """Visual tokens on average over 28 layers, in segments of 9, 9 and 10."""
    for name, share in (("50", 0.5), ("25", 0.25), ("10", 0.1)):
        policy = VFlowOpt.preset(name)
        assert sorted(policy.layers(28)) == [8, 17]
        first, second = policy.later
        average = policy.keep * (9 + 9 * first + 10 * first * second) / 28
        assert average == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"later": (0.5,)}, "lists of one length"),
        ({"keep": 0.0}, "shares above 0"),
        ({"later": (0.5, 1.1)}, "shares above 0"),
        ({"before": (0, 9)}, "give layers from 1 to 27"),
        ({"cell": 0.5}, "at least 1 token wide"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(UsageError, match=message):
        VFlowOpt(**fields)


def test_models_that_cannot_take_it_are_named(models):
    with pytest.raises(UsageError, match="qwen2_vl model is no plain transformer over square tiles"):
        Session(models["qwen2_vl"], policy="vflowopt")
    with pytest.raises(UsageError, match="no plain transformer over square tiles"):
        VFlowOpt().check(tiny_config())
    lmm = models["llava"]
    latents = ResamplerConfig(48, 64, latents=9, depth=1, num_heads=2, head_dim=8)
    with pytest.raises(UsageError, match="learned queries"):
        VFlowOpt().check(replace(lmm.config, connector=latents))
    with pytest.raises(UsageError, match="one prompt at a time, not 2"):
        lmm.logits([lmm.prepare([ask("Read.", picture(40, 40))])] * 2, hooks=attach(lmm, [VFlowOpt()]))
    prompt = lmm.prepare([ask("Read.", picture(40, 40))])
    with pytest.raises(UsageError, match="another method that drops"):
        lmm.logits(prompt, hooks=attach(lmm, [DyVTE(exit=0), VFlowOpt(later=(0.5,), before=(2,), of=3)]))
