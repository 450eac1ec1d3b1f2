"""Attention of many queries by the compiled kernels of a CPU: numbers, gradients, layouts, what is left to others."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from packed_kernels import CPU, bound, cache_folder
from support import ask, picture, relative, tiny_model

from rave_mlx import backend
from rave_mlx.attention import GateTerms, attend
from rave_mlx.attention.dispatch import choose_path
from rave_mlx.attention.gate import any_acts
from rave_mlx.attention.kernels.fused import Request
from rave_mlx.backend.cpu import block_attention
from rave_mlx.config import GateConfig

pytestmark = pytest.mark.skipif(not CPU, reason="for Linux without a GPU")
SHAPES = {
    "a block is not full": (1, 4, 2, 150, 150, 16),
    "several blocks of keys, more keys than queries": (2, 6, 2, 37, 800, 24),
    "one head of keys": (1, 3, 1, 300, 450, 20),
}


@pytest.fixture(autouse=True)
def kernels(pytestconfig, monkeypatch):
    with bound(cache_folder(pytestconfig), "", monkeypatch) as found:
        before = backend.current()
        assert before.binding is not None
        attention = block_attention.find(found.file, before.binding.library.address("cblas_sgemm"))
        assert attention is not None
        monkeypatch.setattr(backend, "current", lambda: replace(before, attention=attention))
        yield


def inputs(shape, squash=None, seed=0):
    """q, k, v of (batch, heads, heads of keys, queries, keys, width), and a gate on the last head of keys."""
    batch, heads, kv_heads, queries, keys, width = shape
    rng = np.random.default_rng(seed)
    sizes = (batch, heads, queries, width), (batch, kv_heads, keys, width), (batch, kv_heads, keys, width + 3)
    q, k, v = (mx.array(rng.normal(size=size).astype(np.float32)) for size in sizes)
    if squash is None:
        return q, k, v, None
    low, high = 5, keys - 30
    u, w = (
        rng.normal(size=(batch, n, rows, 7)).astype(np.float32) for n, rows in ((heads // kv_heads, queries), (1, keys))
    )
    w[:, :, :low], w[:, :, high:] = 0, 0
    return q, k, v, GateTerms(mx.array(u), mx.array(w), (kv_heads - 1,), (low, high), squash, 1.5)


def float64(q, k, v, scale, mask, gate):
    """Plain NumPy in double precision."""
    q, k, v = (np.array(x, np.float64) for x in (q, k, v))
    ratio = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, ratio, axis=1), np.repeat(v, ratio, axis=1)
    scores = scale * q @ k.swapaxes(-1, -2)
    if gate is not None:
        x = np.array(gate.u, np.float64) @ np.array(gate.v, np.float64).swapaxes(-1, -2)
        scores[:, -ratio:] += gate.limit * np.tanh(x / gate.limit) if gate.squash == "tanh" else x
    if mask is not None:
        ahead = np.arange(k.shape[2]) > np.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None]
        scores = np.where(ahead, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("squash", [None, "tanh", "identity"])
@pytest.mark.parametrize("mask", [None, "causal"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_float64(shape, mask, squash):
    """Scores of this size (up to 20 and more) leave 1e-6 of a sum of some hundred weights in float32."""
    q, k, v, gate = inputs(shape, squash)
    assert choose_path(Request(q, k, v, 0.7, mask, gate)) == "blocks"
    out = attend(q, k, v, scale=0.7, mask=mask, gate=gate)
    assert out.shape == (*q.shape[:3], v.shape[-1])
    assert relative(out, float64(q, k, v, 0.7, mask, gate)) < 4e-6


def test_layouts_that_a_blas_does_not_take():
    """Views: heads beside each other in a row, numbers of a row apart, one key for all."""
    shape = (1, 2, 2, 70, 70, 16)
    q, k, v, _ = inputs(shape)
    beside = mx.stack([q, k, v[..., :16]], axis=1).transpose(0, 3, 1, 2, 4)
    q, k, v = beside.transpose(2, 0, 3, 1, 4)
    apart = mx.repeat(q, 2, axis=-1)[..., ::2]
    same = mx.broadcast_to(k[:, :, :1], k.shape)
    for one in ((q, k, v), (apart, apart, apart), (q, same, v)):
        assert relative(attend(*one, scale=0.3), float64(*one, 0.3, None, None)) < 4e-6


def test_gradients_are_those_of_plain_operations():
    q, k, v, gate = inputs((1, 4, 2, 40, 60, 16), "tanh")
    v = v[..., :16]

    def loss(path):
        def run(q, k, v, u, w):
            return mx.sum(mx.sin(attend(q, k, v, scale=0.3, mask="causal", gate=replace(gate, u=u, v=w), path=path)))

        return mx.grad(run, argnums=(0, 1, 2, 3))(q, k, v, gate.u, gate.v)

    for found, right in zip(loss(None), loss("reference"), strict=True):
        assert relative(found, right) < 1e-5


@pytest.mark.parametrize(("value", "row"), [(np.nan, np.nan), (np.inf, np.nan)])
def test_scores_that_are_no_numbers_are_not_hidden(value, row):
    q, k, v, _ = inputs((1, 1, 1, 20, 40, 16))
    wrong = np.abs(np.array(q))
    wrong[0, 0, 3, 0] = value
    out = np.array(attend(mx.array(wrong), mx.abs(k), v, scale=0.3))
    assert np.isnan(out[0, 0, 3]).all() and np.isfinite(np.delete(out, 3, axis=2)).all()


def test_scores_far_apart():
    """Some weights are 0 in float32, and the largest score comes last."""
    q = mx.full((1, 1, 9, 16), 10.0)
    k = mx.broadcast_to(mx.arange(700.0)[:, None], (1, 1, 700, 16))
    out = attend(q, k, k, scale=1.0)
    assert np.array_equal(np.array(out), np.full((1, 1, 9, 16), 699, np.float32))


def test_what_is_not_covered_is_chunked():
    q, k, v, gate = inputs((1, 4, 2, 20, 60, 16), "suppress")
    assert choose_path(Request(q, k, v, 0.3, None, gate)) == "chunked"
    assert choose_path(Request(q[:, :, :8], k, v, 0.3)) == "chunked"
    assert choose_path(Request(q, k, v, 0.3, mx.ones((1, 1, 20, 60), mx.bool_))) == "chunked"
    assert choose_path(Request(*(x.astype(mx.bfloat16) for x in (q, k, v)), 0.3)) == "chunked"
    with pytest.raises(ValueError, match="do not cover"):
        attend(q, k, v, scale=0.3, gate=gate, path="blocks")


def test_a_whole_model():
    lmm = tiny_model(GateConfig(rank=3, kv_groups=(1,)), num_heads=8, num_kv_heads=2)
    assert any_acts(lmm.decoder.gates)
    prompt = lmm.prepare([ask("What is the total?", picture(96, 64))])
    assert relative(lmm.logits(prompt), np.array(lmm.logits(prompt, path="reference"))) < 1e-5
