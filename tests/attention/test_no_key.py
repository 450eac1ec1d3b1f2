"""A query that may attend to no key gives zero on every path, and no gradient; the other queries are as ever.

The kernels' part of this is in tests/metal/test_kernels_edges.py.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from support import relative
from test_gate import draw, float64, lower_right

from rave_mlx import backend
from rave_mlx.attention import GateTerms, attend, attend_with_mass
from rave_mlx.attention.chunked import chunked

backend.prepare()
PATHS = ("stock", "fold", "chunked", "blocks of 5", "fused blocks", "train", "reference")
LQ, LK = 19, 31
BLIND = (0, 7, 18)
"""Queries of the first sequence that see no key."""


def run(path, q, k, v, **options):
    if path in ("blocks of 5", "fused blocks"):
        return chunked(q, k, v, block=5, fused=path == "fused blocks", **options)
    return attend(q, k, v, path=path, **options)


def call(path):
    """Inputs of a path, a linear gate (none for stock), and a mask that leaves three queries without a key."""
    q, k, v, gate = draw(3, squash="identity", lq=LQ, lk=LK)
    allowed = np.random.default_rng(0).random((2, 1, LQ, LK)) < 0.6
    allowed[0, :, list(BLIND)] = False
    return q, k, v, None if path == "stock" else gate, allowed


@pytest.mark.parametrize("path", PATHS)
def test_the_output_is_zero(path):
    q, k, v, gate, allowed = call(path)
    found = np.array(run(path, q, k, v, scale=0.25, mask=mx.array(allowed), gate=gate))
    assert (found[0, :, list(BLIND)] == 0).all()
    sees = allowed.any(-1)[:, 0]
    with np.errstate(invalid="ignore"):
        expected = float64(q, k, v, gate, scale=0.25, allowed=allowed)
    for batch in range(2):
        assert relative(found[batch][:, sees[batch]], expected[batch][:, sees[batch]]) <= 2e-6


@pytest.mark.parametrize("shape", [(LQ, LK), (1, 1, LQ, LK)], ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_a_mask_of_any_rank_in_half_precision(path, shape):
    q, k, v, gate, allowed = call(path)
    q, k, v = (x.astype(mx.float16) for x in (q, k, v))
    found = run(path, q, k, v, scale=0.25, mask=mx.array(allowed[0].reshape(shape)), gate=gate)
    assert found.dtype == mx.float16
    blind = np.array(found.astype(mx.float32))[:, :, list(BLIND)]
    assert blind.shape == (2, 4, 3, 16) and (blind == 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_there_is_no_gradient_and_no_nan(path):
    q, k, v, gate, allowed = call(path)
    arrays = (q, k, v) if gate is None else (q, k, v, gate.u, gate.v)

    def gradients(path):
        def loss(q, k, v, *features):
            terms = None if gate is None else GateTerms(*features, gate.groups, gate.span, gate.squash, gate.limit)
            return mx.sum(mx.sin(run(path, q, k, v, scale=0.25, mask=mx.array(allowed), gate=terms)))

        return mx.grad(loss, tuple(range(len(arrays))))(*arrays)

    found = gradients(path)
    assert all(mx.all(mx.isfinite(g)).item() for g in found)
    assert (np.array(found[0])[0, :, list(BLIND)] == 0).all()
    low, high = (0, LK) if gate is None else gate.span
    for i, (mine, right) in enumerate(zip(found, gradients("train"), strict=True)):
        window = slice(low, high) if i == 4 else slice(None)
        assert relative(mine[:, :, window], right[:, :, window]) <= 5e-6


@pytest.mark.parametrize("path", [None, "stock", "fold", "chunked", "train", "reference"])
def test_more_queries_than_keys_in_causal_order(path):
    """The order is aligned to the last key, so the first queries come before every key."""
    q, k, v, _, _ = call("stock")
    found = np.array(attend(q, k[:, :, :7], v[:, :, :7], scale=0.25, mask="causal", path=path))
    assert (found[:, :, : LQ - 7] == 0).all()
    expected = float64(q[:, :, LQ - 7 :], k[:, :, :7], v[:, :, :7], scale=0.25, allowed=lower_right(7, 7))
    assert relative(found[:, :, LQ - 7 :], expected) <= 2e-6


def test_it_pays_attention_to_no_kind_of_key():
    q, k, v, gate, allowed = call("chunked")
    kinds = mx.array(np.arange(2 * LK).reshape(2, LK) % 3).astype(mx.uint8)
    options = {"kinds": kinds, "num_kinds": 3, "scale": 0.25, "mask": mx.array(allowed)}
    out, mass = attend_with_mass(q, k, v, gate=replace(gate, squash="tanh"), **options)
    sums = np.array(mass).sum(-1)
    assert (np.array(out)[0, :, list(BLIND)] == 0).all()
    assert (sums[0, :, list(BLIND)] == 0).all()
    np.testing.assert_allclose(sums[1], 1, atol=1e-5)
