"""The gated delta rule against its definition, and a state's cache against reading everything again."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from support import relative

from rave_mlx.config import LinearAttentionConfig, RopeConfig, TextConfig
from rave_mlx.errors import ConfigError
from rave_mlx.models.delta_rule import Updates, empty_state, run, run_chunks, run_trained, unit_heads
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.linear_attention import LinearAttention
from rave_mlx.models.state_cache import StateCache

SHAPE = LinearAttentionConfig((0,), key_heads=2, value_heads=4, key_dim=8, value_dim=12)
TEXT = TextConfig(vocab_size=8, hidden_size=16, intermediate_size=8, num_layers=2, num_heads=4, num_kv_heads=2,
                  head_dim=8, rope=RopeConfig(theta=10.0), max_positions=8, linear=SHAPE)  # fmt: skip


def updates(rng, length, batch=2, keys=None):
    """Random ones, or with equal keys."""
    q, k = rng.normal(size=(2, batch, length, 2, 8)).astype(np.float32)
    q, k = unit_heads(mx.array(q), mx.array(k if keys is None else np.full_like(k, keys)))
    decay, strength = rng.exponential(0.3, (batch, length, 4)), rng.uniform(size=(batch, length, 4))
    values = rng.normal(size=(batch, length, 4, 12))
    return Updates(q, k, *(mx.array(x.astype(np.float32)) for x in (values, -decay, strength)))


def defined(made, state):
    """Token by token as the paper writes it, in float64."""
    q, k, v, decay, strength = (np.array(x).astype(np.float64) for x in made.arrays)
    q, k, state = np.repeat(q, 2, axis=2), np.repeat(k, 2, axis=2), np.array(state).astype(np.float64)
    out = []
    for t in range(made.length):
        state = np.exp(decay[:, t])[..., None, None] * state
        missing = v[:, t] - np.einsum("bhvk,bhk->bhv", state, k[:, t])
        state = state + strength[:, t, :, None, None] * missing[..., None] * k[:, t, :, None, :]
        out.append(np.einsum("bhvk,bhk->bhv", state, q[:, t]))
    return np.stack(out, axis=1), state


@pytest.mark.parametrize("length", [1, 3, 5, 16, 33, 100])
def test_the_rule_is_its_definition(length):
    rng = np.random.default_rng(length)
    made, state = updates(rng, length), mx.array(rng.normal(size=(2, 4, 12, 8)).astype(np.float32))
    expected = defined(made, state)
    for found in (run(made, state), run_chunks(made, state), run_chunks(made, state, chunk=8)):
        for ours, right in zip(found, expected, strict=True):
            assert relative(ours, right) <= 2e-6
    assert relative(run_trained(made), defined(made, empty_state(made))[0]) <= 2e-6


def test_chunks_stay_exact_where_all_keys_are_alike():
    """Powers of the triangular system then grow beyond all bounds; its inverse does not."""
    rng = np.random.default_rng(0)
    made = updates(rng, 128, keys=1.0)
    made = Updates(made.queries, made.keys, made.values, 0 * made.decay, mx.full(made.strength.shape, 0.99))
    expected, _ = defined(made, empty_state(made))
    assert relative(run_chunks(made, empty_state(made), chunk=64)[0], expected) <= 1e-5


@pytest.mark.parametrize("length", [3, 40])
def test_padding_leaves_the_state_as_it_is(length):
    rng = np.random.default_rng(1)
    made = updates(rng, length)
    real = mx.array(np.arange(length) < np.array([[length - 2], [0]]))
    start = mx.array(rng.normal(size=(2, 4, 12, 8)).astype(np.float32))
    _, state = run(made.only(real), start)
    assert relative(state[:1], defined(made.map(lambda x: x[:1, : length - 2]), start[:1])[1]) <= 2e-6
    assert mx.array_equal(state[1], start[1]).item()


@pytest.fixture(scope="module")
def layer():
    mx.random.seed(0)
    made = LinearAttention(TEXT, SHAPE)
    made.decay_log = mx.random.normal((4,))
    return made


def read(layer, x, cache, real=None):
    return layer(*layer.heads(x), real, cache)


@pytest.mark.parametrize("seed", range(4))
def test_random_histories_equal_reading_again(layer, seed):
    """Passes of any size, states kept and gone back to, among them lengths inside of the newest pass."""
    rng = np.random.default_rng(seed)
    cache, seen, kept = StateCache(), np.zeros((1, 0, 16), np.float32), set()
    for _ in range(40):
        if rng.random() < 0.3 and cache.length:
            length = int(rng.integers(0, cache.length + 3))
            reached = cache.reach(length)
            assert reached <= max(length, 0) or length >= cache.length
            before = cache.fork(reached)
            cache.trim(reached)
            assert before.length == cache.length == reached
            assert [mx.array_equal(*pair).item() for pair in zip(before._now, cache._now, strict=True)] in (
                [],
                [True] * 2,
            )
            seen, kept = seen[:, :reached], {n for n in kept if n <= reached}
            continue
        count = int(rng.choice([1, 1, 2, 7, 70]))
        x = rng.normal(size=(1, count, 16)).astype(np.float32)
        found = read(layer, mx.array(x), cache)
        seen = np.concatenate([seen, x], axis=1)
        fresh = StateCache()
        whole = read(layer, mx.array(seen), fresh)
        assert relative(found, whole[:, -count:]) <= 1e-5
        assert all(relative(*pair) <= 1e-5 for pair in zip(cache._now, fresh._now, strict=True))
        if count <= 64:
            assert cache.reach(cache.length - count) == cache.length - count
        if rng.random() < 0.4:
            cache.keep()
            kept = set(sorted({*kept, cache.length})[-4:])
        assert all(cache.reach(n) == n for n in kept)


def test_lengths_that_cannot_be_gone_back_to_are_refused(layer):
    cache = StateCache()
    read(layer, mx.zeros((1, 100, 16)), cache)
    read(layer, mx.zeros((1, 5, 16)), cache)
    assert [cache.reach(n) for n in (200, 105, 104, 100, 99, 1, 0)] == [105, 105, 104, 100, 0, 0, 0]
    with pytest.raises(ValueError, match="cannot go back to 99"):
        cache.trim(99)
    cache.trim(100)
    assert [cache.reach(n) for n in (100, 99)] == [100, 0], "the newest pass is gone"


def test_rows_keep_different_parts_of_a_pass(layer):
    """As guesses that were right for one row and wrong for another; a row may be padded as well."""
    rng = np.random.default_rng(5)
    x = mx.array(rng.normal(size=(2, 9, 16)).astype(np.float32))
    alone = []
    for row, (first, then) in enumerate(((4, 3), (2, 0))):
        cache = StateCache()
        tokens = mx.concatenate([x[row : row + 1, :first], x[row : row + 1, 5 : 5 + then]], axis=1)
        read(layer, tokens, cache)
        alone.append(cache)
    singles = []
    for row, first in enumerate((4, 2)):
        cache = StateCache()
        read(layer, x[row : row + 1, :first], cache)
        singles.append((cache, 0))
    batch = StateCache.side_by_side(singles, 4)
    real = mx.array(np.array([[True] * 4, [True] * 2 + [False] * 2]))
    read(layer, x[:, 5:], batch, real)
    batch.keep_first([3, 0], 7)
    assert batch.length == 7
    for row, cache in enumerate(alone):
        for ours, right in zip(batch._now, cache._now, strict=True):
            assert relative(ours[row : row + 1], right) <= 1e-5


def test_a_cache_of_both_kinds_goes_back_where_its_states_can(layer):
    cache = Cache(2, gated=False, linear=(0,))
    state, keys = cache.layers
    for count in (70, 3):
        read(layer, mx.zeros((1, count, 16)), state)
        keys.append(mx.zeros((1, 2, count, 8)), mx.zeros((1, 2, count, 8)))
        cache.keep_states()
    assert (cache.length, list(cache.states)) == (73, [0])
    assert [cache.reach(n) for n in (80, 72, 70, 69)] == [73, 72, 70, 0]
    with pytest.raises(ValueError, match="cannot go back to 60"):
        cache.trim(60)
    cache.trim(70)
    assert [layer.length for layer in cache.layers] == [70, 70]
    cache.trim(0)
    assert [layer.length for layer in cache.layers] == [0, 0]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"layers": (0, 2)}, r"text.linear.layers \[0, 2\]: some of 0 to 1"),
        ({"layers": ()}, "some of 0 to 1"),
        ({"layers": (0, 1)}, "at least one needs attention"),
        ({"value_heads": 5}, "value_heads 5 is not a multiple of key_heads 2"),
        ({"kernel": 0}, "kernel must be at least 1"),
    ],
)
def test_parts_that_do_not_fit_are_named(fields, error):
    with pytest.raises(ConfigError, match=error):
        TextConfig.from_dict(TEXT.to_dict() | {"linear": SHAPE.to_dict() | fields})
