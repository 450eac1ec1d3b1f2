"""Compiled forms of a decode step's operations against MLX's own and float64, and that they are taken where meant."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from rave_mlx import backend
from rave_mlx.backend.decode_ops import RMSNorm, is_one_token, normalised_affine
from rave_mlx.models.rope import RotaryTable


@pytest.mark.parametrize("shape", [(1, 1, 48), (3, 1, 256), (1, 2, 48), (2, 5, 1, 16)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_norm(shape, scale):
    rng = np.random.default_rng(len(shape))
    norm, stock = RMSNorm(shape[-1], 1e-5), nn.RMSNorm(shape[-1], 1e-5)
    norm.weight = stock.weight = mx.array(rng.normal(1, 0.3, shape[-1]).astype(np.float32))
    x = rng.normal(0, scale, shape).astype(np.float32)
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * np.array(norm.weight)
    found = np.array(norm(mx.array(x)))
    np.testing.assert_allclose(found, exact, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(found, np.array(stock(mx.array(x))), rtol=2e-6, atol=1e-7)


def test_half_precision_takes_the_usual_way():
    x = mx.random.normal((1, 1, 48), key=mx.random.key(0)).astype(mx.bfloat16)
    norm = RMSNorm(48)
    norm.weight = norm.weight.astype(mx.bfloat16)
    assert not is_one_token(x)
    assert norm(x).dtype == mx.bfloat16
    assert mx.array_equal(norm(x), mx.fast.rms_norm(x, norm.weight, norm.eps))


@pytest.mark.parametrize("length", [1, 3])
def test_rotation_of_queries_and_keys(length):
    rng = np.random.default_rng(length)
    angles = rng.uniform(-9, 9, (2, 1, length, 8))
    table = RotaryTable(mx.array(np.cos(angles).astype(np.float32)), mx.array(np.sin(angles).astype(np.float32)))
    parts = [rng.normal(size=(2, heads, length, 16)).astype(np.float32) for heads in (6, 2)]
    assert is_one_token(mx.array(parts[0])) == (
        length == 1 and backend.current().kind == "cpu" and backend.current().jit
    )
    for part, found in zip(parts, table.apply_both(*map(mx.array, parts)), strict=True):
        pairs = part[..., :8] + 1j * part[..., 8:]
        turned = pairs * np.exp(1j * angles)
        exact = np.concatenate([turned.real, turned.imag], axis=-1)
        np.testing.assert_allclose(np.array(found), exact, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gate_features_of_a_token(scale):
    rng = np.random.default_rng(7)
    x, project = rng.normal(0, scale, (2, 3, 1, 16)).astype(np.float32), rng.normal(size=(3, 16, 5)).astype(np.float32)
    offset = rng.normal(size=(3, 1, 5)).astype(np.float32)
    unit = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6)
    found = normalised_affine(*map(mx.array, (x, project, offset)), eps=1e-6)
    np.testing.assert_allclose(np.array(found), unit @ project + offset, rtol=1e-5, atol=1e-5)


def test_a_norm_learns():
    norm = RMSNorm(8)
    x = mx.random.normal((1, 1, 8), key=mx.random.key(1))
    found = mx.grad(lambda x: mx.sum(norm(x) ** 3))(x)
    expected = mx.grad(lambda x: mx.sum(mx.fast.rms_norm(x, norm.weight, norm.eps) ** 3))(x)
    assert mx.allclose(found, expected, atol=1e-4)
