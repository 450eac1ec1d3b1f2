"""Text is rotated by `mx.fast.rope` on GPUs, by a table elsewhere: the same numbers, whatever the frequencies are."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx.config import RopeConfig, RopeScaling
from rave_mlx.models.rope import Consecutive, consecutive_rotation, text_positions, text_table

WIDTH, ORIGINAL = 16, 64
FACTORS = tuple(1.0 + i for i in range(WIDTH // 2))
KINDS = {
    "plain": RopeConfig(1e6),
    "sections": RopeConfig(1e6, sections=(2, 3, 3)),
    "interleaved": RopeConfig(5e6, sections=(4, 2, 2), interleaved=True),
    "page": RopeConfig(1e6, sections=(2, 1, 2, 3), axes="page"),
    "partial": RopeConfig(1e6, sections=(1, 2, 2), width=10),
    "neighbours": RopeConfig(1e6, pairs="neighbours"),
    "partial yarn": RopeConfig(
        1e4, width=8, pairs="neighbours", scaling=RopeScaling("yarn", 4.0, original_positions=ORIGINAL)
    ),
    "linear": RopeConfig(1e4, scaling=RopeScaling("linear", 4.0)),
    "dynamic": RopeConfig(1e4, scaling=RopeScaling("dynamic", 4.0, original_positions=ORIGINAL)),
    "yarn": RopeConfig(1e4, scaling=RopeScaling("yarn", 4.0, original_positions=ORIGINAL)),
    "llama3": RopeConfig(1e4, scaling=RopeScaling("llama3", 8.0, original_positions=ORIGINAL)),
    "longrope": RopeConfig(
        1e4,
        scaling=RopeScaling("longrope", 4.0, original_positions=ORIGINAL, short_factors=FACTORS, long_factors=FACTORS),
    ),
}


@pytest.mark.parametrize("first", [(0,), (40,), (5000,), (3, 3), (61, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_agree(kind, first):
    key = mx.random.key(0)
    q, k = (mx.random.normal((len(first), heads, 9, WIDTH), key=key) for heads in (4, 2))
    positions, longest = Consecutive(first, 9), max(first) + 9
    expected = text_table(KINDS[kind], WIDTH, positions.array(), longest).apply_both(q, k)
    found = consecutive_rotation(KINDS[kind], WIDTH, positions).apply_both(q, k)
    # An angle is a product of two numbers that are rounded, each way by itself; |x| is below 5.
    rounding = 5 * 4 * 6e-8 * longest + 5e-6
    for one, other in zip(found, expected, strict=True):
        assert np.abs(np.array(one) - np.array(other)).max() < rounding


def test_a_wrong_position_is_seen():
    q = mx.ones((1, 1, 9, WIDTH))
    right, wrong = (
        consecutive_rotation(KINDS["plain"], WIDTH, Consecutive((n,), 9)).apply_both(q, q) for n in (40, 41)
    )
    assert np.abs(np.array(right[0]) - np.array(wrong[0])).max() > 0.1


def test_one_token_of_every_row():
    q = mx.random.normal((3, 4, 1, WIDTH), key=mx.random.key(1))
    positions = Consecutive((9, 5, 200), 1)
    expected = text_table(KINDS["sections"], WIDTH, positions.array()).apply_both(q, q)[0]
    found = consecutive_rotation(KINDS["sections"], WIDTH, positions).apply_both(q, q)[0]
    assert np.abs(np.array(found) - np.array(expected)).max() < 1e-4


def test_which_positions_are_those_of_text():
    text = np.tile(np.arange(7, 12, dtype=np.int32), (3, 1))
    assert text_positions(text) == Consecutive((7,), 5)
    assert np.array_equal(np.array(Consecutive((7,), 5).array()), text[None])
    page = text.copy()
    page[1, 2] = 7
    assert text_positions(page) is None
    gap = text.copy()
    gap[:, 3:] += 1
    assert text_positions(gap) is None
