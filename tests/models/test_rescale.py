"""Learned positions at another number of places, against what is known of the rule (torch's is in tests/parity)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx.models.vision.rescale import rescaled_line, rescaled_square


@pytest.mark.parametrize(("size", "count"), [(127, 95), (5, 9), (13, 13), (7, 1)])
def test_a_straight_line_stays_straight(size, count):
    """Values that grow evenly do so between the outermost samples."""
    found = np.array(rescaled_line(mx.arange(size, dtype=mx.float32)[:, None], count))[:, 0]
    right = ((np.arange(count) + 0.5) * size / count - 0.5).clip(0, size - 1)
    np.testing.assert_allclose(found, right, atol=2e-5)


@pytest.mark.parametrize(("side", "count"), [(64, 48), (9, 18), (12, 12), (10, 3)])
def test_what_is_even_stays_even(side, count):
    x = mx.broadcast_to(mx.array([3.0, -1.0]), (side * side, 2))
    np.testing.assert_allclose(np.array(rescaled_square(x, count)), np.tile([3.0, -1.0], (count * count, 1)), atol=1e-5)


def test_rows_stay_rows():
    """A square whose values grow from row to row does not vary along a row."""
    rows = np.repeat(np.arange(16, dtype=np.float32), 16)[:, None]
    found = np.array(rescaled_square(mx.array(rows), 8)).reshape(8, 8)
    np.testing.assert_allclose(found, np.tile(found[:, :1], 8), atol=1e-5)
    assert (np.diff(found[:, 0]) > 1).all()
