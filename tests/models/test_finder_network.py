"""The finder's encoder against itself in float64 with explicit loops; `tests/parity` has BERT's own."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from finders import network, random_weights, tiny
from support import relative, rounding

from rave_mlx.models.finder.config import KINDS
from rave_mlx.models.finder.network import ROW_EDGES, SIDE_EDGES, FinderInput

CONFIG = tiny()


def given(length=30, question=6, seed=0):
    """A question and a page of random pieces in random places."""
    rng = np.random.default_rng(seed)
    page = np.arange(length) >= question + 2
    page[-1] = False
    ids = rng.integers(0, CONFIG.vocab_size, length).astype(np.int32)
    places = np.where(page[:, None], rng.uniform(0, 40, (length, 3)), 0).astype(np.float32)
    sizes, starts = (np.where(page, rng.integers(1, most, length), 0).astype(np.int32) for most in (8, 4))
    return FinderInput(ids, places, sizes, starts, question + 2)


def classes(read, a, b):
    """The three rows of `near` that token a has for token b, counted edge by edge."""
    out, first = [], 0
    for axis, edges in enumerate((ROW_EDGES, SIDE_EDGES, SIDE_EDGES)):
        distance = np.float32(read.places[b, axis]) - np.float32(read.places[a, axis])
        out.append(first + sum(distance > np.float32(edge) for edge in edges))
        first += len(edges) + 1
    return out


def expected_bias(read, near):
    """(heads, L, L), token by token."""
    length = len(read.ids)
    out = np.zeros((near.shape[1], length, length))
    for a in range(length):
        for b in range(length):
            if read.starts[a] and read.starts[b]:
                out[:, a, b] = sum(near[number] for number in classes(read, a, b))
    return out


def reference(read, weights):
    """first, last and kinds of the whole network in float64."""
    w = {name: np.array(array, np.float64) for name, array in weights.items()}
    length, heads = len(read.ids), CONFIG.num_heads
    size = CONFIG.hidden_size // heads
    erf = np.vectorize(math.erf)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        middle = x - x.mean(-1, keepdims=True)
        scaled = middle / np.sqrt((middle**2).mean(-1, keepdims=True) + CONFIG.norm_eps)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    parts = (np.arange(length) >= read.page_start).astype(int)
    x = w["words.weight"][read.ids] + w["positions.weight"][:length] + w["parts.weight"][parts]
    x = norm(x + w["sizes.weight"][read.sizes] + w["starts.weight"][read.starts], "norm")
    bias = expected_bias(read, w["near"])
    for number in range(CONFIG.num_layers):
        name = f"layers.{number}"
        q, k, v = np.split(linear(x, f"{name}.qkv"), 3, axis=1)
        seen = np.zeros_like(x)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = q[:, own] @ k[:, own].T / math.sqrt(size) + bias[head]
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            seen[:, own] = powers / powers.sum(-1, keepdims=True) @ v[:, own]
        x = norm(x + linear(seen, f"{name}.out"), f"{name}.attention_norm")
        inner = linear(x, f"{name}.up")
        x = norm(x + linear(inner * 0.5 * (1 + erf(inner / math.sqrt(2))), f"{name}.down"), f"{name}.norm")
    scores = linear(x, "span")
    return scores[:, 0], scores[:, 1], linear(x[0], "kind")


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_float64(seed):
    weights, read = random_weights(CONFIG, seed), given(seed=seed)
    found = network(CONFIG, weights)(read)
    layer = 3 * CONFIG.hidden_size + 2 * len(read.ids) + CONFIG.intermediate_size
    most = rounding(CONFIG.num_layers * layer, CONFIG.hidden_size)
    for each, expected in zip((found.first, found.last, found.kinds), reference(read, weights), strict=True):
        assert each.shape == expected.shape
        assert relative(each, expected) < most
    assert found.kinds.shape == (len(KINDS),)


@pytest.mark.parametrize("seed", range(3))
def test_the_bias_is_a_sum_over_three_distances(seed):
    weights, read = random_weights(CONFIG, seed), given(seed=10 + seed)
    found = np.array(network(CONFIG, weights)._bias(read))
    expected = expected_bias(read, np.array(weights["near"], np.float64))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert (found != found.transpose(0, 2, 1)).any()  # what stands left is told from what stands right


def test_question_and_separators_have_no_bias():
    read = given()
    bias = np.array(network(CONFIG, random_weights(CONFIG))._bias(read))
    outside = np.flatnonzero(read.starts == 0)
    assert outside.tolist() == [*range(8), 29]
    assert (bias[:, outside] == 0).all() and (bias[:, :, outside] == 0).all()
    inside = np.flatnonzero(read.starts)
    assert (bias[:, inside][:, :, inside] != 0).all()


@pytest.mark.parametrize(
    ("axis", "distance", "number"),
    [
        # Rows: a distance at an edge belongs to the class below it.
        (0, 0.0, 6), (0, 0.4, 6), (0, 0.5, 7), (0, 1.5, 7), (0, 6.0, 10), (0, 12.0, 11), (0, 12.5, 12), (0, -0.4, 5),
        (0, -12.0, 0), (0, -12.5, 0), (0, -11.0, 1),
        # Left sides have the next 13 classes, right sides the last 13.
        (1, 0.0, 19), (1, 0.5, 19), (1, 0.6, 20), (1, 30.0, 24), (1, 31.0, 25), (1, -30.0, 13), (1, -31.0, 13),
        (2, 0.0, 32), (2, 1.8, 33), (2, 2.0, 34), (2, 31.0, 38), (2, -31.0, 26),
    ],
)  # fmt: skip
def test_classes_of_a_distance(axis, distance, number):
    """Two pieces of the page: what the first has for the second is the class that is set, where no other is."""
    places = np.zeros((5, 3), np.float32)
    places[3, axis] = distance
    marks = np.array([0, 0, 2, 1, 0], np.int32)
    read = FinderInput(np.zeros(5, np.int32), places, marks, marks, 2)
    weights = random_weights(CONFIG)
    assert weights["near"].shape == (39, CONFIG.num_heads)
    near = np.zeros((39, CONFIG.num_heads), np.float32)
    near[number] = 1
    weights["near"] = mx.array(near)
    same = 1 if number in (6, 19, 32) else 0
    bias = np.array(network(CONFIG, weights)._bias(read))
    assert bias[:, 2, 3].tolist() == [1] * CONFIG.num_heads
    assert bias[:, 2, 2].tolist() == [same] * CONFIG.num_heads


def test_a_page_that_is_moved_has_the_same_bias():
    net, read = network(CONFIG, random_weights(CONFIG)), given()
    places = np.round(4 * read.places) / 4  # which float32 adds to exactly
    bias = [
        np.array(net._bias(FinderInput(read.ids, places + np.float32(by), read.sizes, read.starts, read.page_start)))
        for by in (0, 64)
    ]
    np.testing.assert_array_equal(*bias)
