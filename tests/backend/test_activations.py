"""Every function against float64, as compiled polynomial, without a compiler, small and in half precision."""

import json
import math
import os
import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx import backend
from rave_mlx.backend import activations
from rave_mlx.backend.activations import exp2, gelu, silu, silu_mul, tanh_limit

LARGE = max(activations._LARGE, activations._LARGE_EXP2)
SIZES = {"large": (LARGE // 256, 256), "small": (50, 4)}
erf = np.vectorize(math.erf, otypes=[np.float64])

FUNCTIONS = {
    "exp2": (exp2, np.exp2),
    "silu": (silu, lambda x: x / (1 + np.exp(-x))),
    "gelu": (gelu, lambda x: x * (1 + erf(x / 2**0.5)) / 2),
    "tanh": (lambda x: tanh_limit(x, 4.0), lambda x: 4 * np.tanh(x / 4)),
}
SLOPES = {
    "exp2": lambda x: np.exp2(x) * math.log(2),
    "silu": lambda x: (1 + x * (1 - 1 / (1 + np.exp(-x)))) / (1 + np.exp(-x)),
    "gelu": lambda x: (1 + erf(x / 2**0.5)) / 2 + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "tanh": lambda x: 1 - np.tanh(x / 4) ** 2,
}


def spread(shape, limit: float, seed: int = 0) -> np.ndarray:
    """Float32 values in [-limit, limit]: half of them uniform, half down to 1e-6 of the limit."""
    rng = np.random.default_rng(seed)
    uniform = rng.uniform(-1, 1, shape)
    small = np.sign(uniform) * 10 ** rng.uniform(-6, 0, shape)
    return (limit * np.where(rng.random(shape) < 0.5, uniform, small)).astype(np.float32)


def large(*values: float) -> mx.array:
    """The values again and again, enough of them for the compiled path."""
    return mx.array(np.resize(np.array(values, dtype=np.float32), LARGE))


def float64(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32)).astype(np.float64)


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_exp2_is_right_to_5e_7(shape):
    x = spread(shape, 125.9)
    assert np.abs(float64(exp2(mx.array(x))) / np.exp2(x.astype(np.float64)) - 1).max() < 5e-7


def test_exp2_of_integers_is_exact():
    found = np.array(exp2(large(*range(-126, 128))))[:254]
    np.testing.assert_array_equal(found, np.ldexp(np.float32(1), np.arange(-126, 128)))


def test_exp2_below_the_normal_numbers_goes_to_0():
    found = float64(exp2(mx.array(np.linspace(-200, -126, LARGE, dtype=np.float32))))
    assert found.min() == 0
    assert found.max() <= 2.0**-126
    assert (found[np.linspace(-200, -126, LARGE) < -127] == 0).all()


@pytest.mark.parametrize("count", [LARGE, 8], ids=["large", "small"])
def test_exp2_at_the_ends(count):
    x = np.resize(np.array([0, -0.0, -np.inf, -1e4, -3e38, np.inf, 128, 1e4], np.float32), count)
    np.testing.assert_array_equal(np.array(exp2(mx.array(x)))[:8], [1, 1, 0, 0, 0, np.inf, np.inf, np.inf])


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_silu(shape):
    x = spread(shape, 80.0)
    expected = FUNCTIONS["silu"][1](x.astype(np.float64))
    assert (np.abs(float64(silu(mx.array(x))) - expected) / np.abs(x)).max() < 5e-7


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_silu_mul(shape):
    gate, up = spread(shape, 40.0, 1), spread(shape, 3.0, 2)
    expected = FUNCTIONS["silu"][1](gate.astype(np.float64)) * up
    found = float64(silu_mul(mx.array(gate), mx.array(up)))
    assert (np.abs(found - expected) / np.abs(gate.astype(np.float64) * up)).max() < 5e-7


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_gelu(shape):
    x = spread(shape, 9.0)
    error = np.abs(float64(gelu(mx.array(x))) - FUNCTIONS["gelu"][1](x.astype(np.float64)))
    assert error.max() < 1e-6


def test_gelu_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x = spread(SIZES["large"], 6.0)
    expected = torch.nn.GELU()(torch.from_numpy(x)).numpy()
    # Both round: at |x| = 6 one step of float32 is 5e-7.
    assert (np.abs(np.array(gelu(mx.array(x))) - expected) / np.maximum(1, np.abs(x))).max() < 1e-6


@pytest.mark.parametrize("limit", [4.0, 0.5, 30.0])
@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_tanh_limit(shape, limit):
    x = spread(shape, 12 * limit)
    found = float64(tanh_limit(mx.array(x), limit))
    assert np.abs(found / (limit * np.tanh(x.astype(np.float64) / limit)) - 1).max() < 5e-7
    assert np.abs(found).max() <= limit * (1 + 5e-7)
    np.testing.assert_array_equal(float64(tanh_limit(mx.array(-x), limit)), -found)


@pytest.mark.parametrize("count", [1, 40, 1023, 1024, 5000])
def test_tanh_limit_in_another_unit(count):
    x = np.random.default_rng(count).normal(0, 9, (1, 1, 1, count)).astype(np.float32)
    exact, slope = 1.5 * 4 * np.tanh(x.astype(np.float64) / 4), 1.5 / np.cosh(x.astype(np.float64) / 4) ** 2
    found, (gradient,) = mx.vjp(lambda x: tanh_limit(x, 4.0, 1.5), [mx.array(x)], [mx.ones(x.shape)])
    np.testing.assert_allclose(float64(found[0]), exact, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(float64(gradient), slope, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("count", [LARGE, 6], ids=["large", "small"])
def test_far_out_values(count):
    x = mx.array(np.resize(np.array([0, 1e4, -1e4, 3e38, -3e38, np.inf], np.float32), count))
    np.testing.assert_allclose(np.array(tanh_limit(x, 4.0))[:6], [0, 4, -4, 4, -4, 4], rtol=5e-7)
    assert tanh_limit(x, 4.0)[0].item() == 0
    for function in (silu, gelu):
        np.testing.assert_allclose(np.array(function(x))[:6], [0, 1e4, 0, 3e38, 0, np.inf], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("count", [LARGE, 1], ids=["large", "small"])
def test_nan_stays_nan(name, count):
    assert np.isnan(np.array(FUNCTIONS[name][0](mx.full((count,), mx.nan)))).all()


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00001, 0x7FFFFFFF, 0xFFC00000, 0xFF800001])
def test_nan_of_every_kind_stays_nan(bits):
    x = mx.array(np.full(LARGE, bits, dtype=np.uint32)).view(mx.float32)
    assert np.isnan(np.array(exp2(x))).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_gradients(name, shape, compiled):
    function = FUNCTIONS[name][0]
    x, w = spread(shape, 12.0, 3), spread(shape, 1.0, 4)
    slope = mx.grad(lambda x: (function(x) * mx.array(w)).sum())
    found = float64((mx.compile(slope) if compiled else slope)(mx.array(x)))
    expected = SLOPES[name](x.astype(np.float64)) * w
    assert (np.abs(found - expected) / np.maximum(np.abs(expected), np.abs(w))).max() < 2e-6


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_gradients_of_silu_mul(shape):
    gate, up, w = spread(shape, 12.0, 5), spread(shape, 3.0, 6), spread(shape, 1.0, 7)
    found = mx.grad(lambda g, u: (silu_mul(g, u) * mx.array(w)).sum(), argnums=(0, 1))(mx.array(gate), mx.array(up))
    g = gate.astype(np.float64)
    assert np.abs(float64(found[0]) - SLOPES["silu"](g) * up * w).max() < 5e-6
    assert np.abs(float64(found[1]) - FUNCTIONS["silu"][1](g) * w).max() < 5e-6


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_has_a_gradient(name):
    function = FUNCTIONS[name][0]
    x = np.linspace(-5, 5, LARGE, dtype=np.float32)
    found = float64(mx.grad(lambda x: mx.grad(lambda x: function(x).sum())(x).sum())(mx.array(x)))
    d, h = x.astype(np.float64), 1e-4
    expected = (SLOPES[name](d + h) - SLOPES[name](d - h)) / (2 * h)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, LARGE), (LARGE, 1, 1)], ids=str)
def test_any_shape(name, shape):
    function, expected = FUNCTIONS[name]
    x = np.ones(shape, np.float32)
    found = function(mx.array(x))
    assert found.shape == shape
    assert found.dtype == mx.float32
    np.testing.assert_allclose(np.array(found), expected(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_that_are_not_contiguous(name):
    function, expected = FUNCTIONS[name]
    x = spread((512, 512), 5.0)
    for view in (lambda x: x.T, lambda x: x[::2, 1:], lambda x: x[:, None, ::-1]):
        found = float64(function(view(mx.array(x))))
        np.testing.assert_allclose(found, expected(view(x).astype(np.float64)), atol=5e-6, rtol=5e-7)


def test_a_broadcast_array():
    x = mx.broadcast_to(mx.array([[-1.0], [2.0]]), (2, LARGE))
    np.testing.assert_allclose(np.array(exp2(x)), np.repeat([[0.5], [4.0]], LARGE, axis=1), rtol=1e-7)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_stays_half(name, dtype):
    function, expected = FUNCTIONS[name]
    x = mx.array(spread(SIZES["large"], 6.0)).astype(dtype)
    found = function(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(float64(found), expected(float64(x)), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_fused_forms_of_a_gpu(dtype):
    x = mx.array(spread((40, 30), 6.0)).astype(dtype)
    bound = 1e-5 if dtype == mx.float32 else 5e-2
    fused = {name: activations._fused(getattr(activations, f"_plain_{name}")) for name in ("silu", "gelu")}
    fused["tanh"] = lambda x: activations._fused(activations._plain_tanh_limit)(x, mx.array(4.0, x.dtype))
    for name, function in fused.items():
        for part in (x, x[:7, 3:]):
            found = function(part)
            assert found.dtype == dtype
            assert np.abs(float64(found) - FUNCTIONS[name][1](float64(part))).max() < bound


def test_vmap_and_checkpoint():
    x = mx.array(spread((2, *SIZES["large"]), 5.0))
    np.testing.assert_allclose(np.array(mx.vmap(exp2)(x)), np.array(exp2(x)), rtol=5e-7)
    slope = mx.grad(lambda x: mx.checkpoint(silu)(x).sum())
    np.testing.assert_allclose(np.array(slope(x)), np.array(mx.grad(lambda x: silu(x).sum())(x)), atol=1e-6)


def test_more_shapes_than_are_kept_in_two_threads():
    wrong = []

    def work(seed: int) -> None:
        for i in range(activations._SHAPES // 2 + 20):
            x = mx.full((LARGE + 2 * i + seed,), float(seed))
            if not mx.all(exp2(x) == 2.0**seed).item():
                wrong.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert activations._trace.cache_info().currsize <= activations._SHAPES


SCRIPT = """
import json, math, sys
import mlx.core as mx, numpy as np
from rave_mlx import backend
from rave_mlx.backend.activations import exp2, gelu, silu, tanh_limit
x = np.linspace(-20, 20, 1 << 17, dtype=np.float32)
d = x.astype(np.float64)
erf = np.array([math.erf(v) for v in d / 2 ** 0.5])
pairs = [
    (exp2(mx.array(x)), np.exp2(d), np.exp2(d)),
    (silu(mx.array(x)), d / (1 + np.exp(-d)), np.abs(d)),
    (gelu(mx.array(x)), d * (1 + erf) / 2, np.maximum(1, np.abs(d))),
    (tanh_limit(mx.array(x), 4.0), 4 * np.tanh(d / 4), np.abs(4 * np.tanh(d / 4))),
]
errors = [float((np.abs(np.array(f) - e) / s).max()) for f, e, s in pairs]
print(json.dumps([backend.current().jit, *errors]))
"""


@pytest.mark.skipif(backend.prepare().kind != "cpu", reason="a GPU needs no g++")
def test_without_a_compiler(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    jit, *errors = json.loads(done.stdout)
    assert jit is False
    assert max(errors) < 1e-6, errors
