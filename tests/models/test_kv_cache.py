"""One layer's cache against plain arrays: growing, shrinking, features of text that are never written."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx.attention import PairGate
from rave_mlx.config import GateConfig, RopeConfig, TextConfig
from rave_mlx.models.kv_cache import Cache, LayerCache


def rows(rng, count, heads=2, width=4):
    return rng.normal(size=(1, heads, count, width)).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_random_histories_equal_plain_arrays(seed):
    """Images, text and forgetting in any order; what was visual before a cut must not shine through as text."""
    rng = np.random.default_rng(seed)
    cache = LayerCache()
    keys, values, features = rows(rng, 0), rows(rng, 0), rows(rng, 0, 1, 3)
    seen = False
    for _ in range(60):
        if rng.random() < 0.25 and cache.length:
            length = int(rng.integers(0, cache.length + 2))
            cache.trim(length)
            keys, values, features = (x[:, :, :length] for x in (keys, values, features))
            assert cache.length == keys.shape[2]
            continue
        count = int(rng.choice([1, 1, 3, 200]))
        visual = rng.random() < 0.4
        k, v = rows(rng, count), rows(rng, count)
        f = rows(rng, count, 1, 3) if visual else np.zeros((1, 1, count, 3), np.float32)
        keys, values, features = (np.concatenate(pair, axis=2) for pair in ((keys, k), (values, v), (features, f)))
        found = cache.append(mx.array(k), mx.array(v), mx.array(f) if visual else None)
        seen |= visual
        assert (found[2] is not None) == seen
        for expected, array in zip((keys, values, features), found[: 2 + seen], strict=False):
            np.testing.assert_array_equal(np.array(array), expected)


def test_a_gates_map_is_made_once():
    text = TextConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=4, num_kv_heads=2,
                      head_dim=8, rope=RopeConfig(theta=10.0), max_positions=8)  # fmt: skip
    gate, cache = PairGate(GateConfig(rank=3, kv_groups=1.0), text), LayerCache()
    kept = cache.map_of(gate)
    assert kept.project.shape == (4, 8, 5)
    assert kept.offset.shape == (4, 1, 5)
    assert cache.map_of(gate) is kept


def test_the_span_of_visual_tokens_grows_and_shrinks():
    cache = Cache(2, gated=True)
    assert cache.visual_span == (0, 0)
    spans = []
    for first, last in ((4, 9), (12, 15), (2, 3), (5, 6)):
        cache.extend_visual_span(first, last)
        spans.append(cache.visual_span)
    assert spans == [(4, 9), (4, 15), (2, 15), (2, 15)]
    for length, expected in ((20, (2, 15)), (15, (2, 15)), (10, (2, 10)), (3, (2, 3)), (2, (0, 0))):
        cache.trim(length)
        assert cache.visual_span == expected
    cache.extend_visual_span(7, 8)
    assert cache.visual_span == (7, 8), "a span that was forgotten does not count"


def test_trimming_reaches_every_layer():
    cache = Cache(3, gated=False)
    for layer in cache.layers:
        layer.append(mx.zeros((1, 2, 5, 4)), mx.zeros((1, 2, 5, 4)))
    assert cache.length == 5
    # Room for 128 rows of two heads of four float32 numbers, keys and values, in three layers.
    assert cache.nbytes == 3 * 2 * 128 * 2 * 4 * 4
    cache.trim(3)
    assert [layer.length for layer in cache.layers] == [3, 3, 3]
    for layer in cache.layers:
        layer.append(mx.zeros((1, 2, 254, 4)), mx.zeros((1, 2, 254, 4)))
    assert cache.nbytes == 3 * 2 * 384 * 2 * 4 * 4, "257 rows take three steps of 128"


def test_room_that_is_made_beforehand_is_not_made_again():
    cache, row = Cache(1, gated=False), mx.ones((1, 2, 5, 4))
    cache.reserve(300)
    for count in (1, 60):
        for _ in range(count):
            cache.layers[0].append(row, row)
        assert cache.layers[0].arrays[0].shape == (1, 2, 384, 4)
    cache.reserve(79)
    assert cache.layers[0].arrays[0].shape == (1, 2, 384, 4)
    cache.reserve(80)
    assert cache.layers[0].arrays[1].shape == (1, 2, 512, 4)
    assert mx.all(cache.layers[0].arrays[1][:, :, :305] == 1)
