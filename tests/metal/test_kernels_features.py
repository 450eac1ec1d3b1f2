"""Single properties of the kernels: saturation, quantized keys, the CUDA form, groups without a gate, limits."""

import os
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from oracle import LIMITS, Shape, attention, draw
from runner import runner
from samples import DECODE, PREFILL, packed, sample

from rave_mlx.attention.gradient import differentiable
from rave_mlx.attention.kernels.fused import choose_tile, fused
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile, shared_bytes
from rave_mlx.attention.reference import reference

TILES = {"decode": (3, DECODE), "prefill": (10, PREFILL)}
CASES = int(os.environ.get("RAVE_KERNEL_CASES", "10"))


def error(found: mx.array, expected: np.ndarray) -> float:
    found = np.array(found.astype(mx.float32), np.float64)
    assert np.isfinite(found).all()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("squash", ["identity", "tanh", "suppress", "boost"])
@pytest.mark.parametrize("kernel", TILES)
def test_gate_inputs_200_times_too_large_stay_finite(kernel, squash):
    num_queries, tile = TILES[kernel]
    request = sample(num_queries)
    gate = replace(request.gate, u=request.gate.u * 200, squash=squash)
    request = replace(request, gate=gate)
    # Scores of some thousands have float32 steps of 2e-4, which is the error of a weight; tanh bounds its score.
    limit = 1e-5 if squash == "tanh" else 2e-3
    assert error(fused(request, runner(), tile).out, attention(request).out) < limit


@pytest.mark.parametrize("kernel", TILES)
def test_a_zero_gate_and_a_far_away_image_change_nothing(kernel):
    num_queries, tile = TILES[kernel]
    request = sample(num_queries)
    gate = replace(request.gate, v=mx.zeros_like(request.gate.v))
    plain = np.array(fused(replace(request, gate=None), runner(), tile).out)
    assert np.array_equal(np.array(fused(replace(request, gate=gate), runner(), tile).out), plain)
    empty = replace(request.gate, span=(0, 0))
    assert np.array_equal(np.array(fused(replace(request, gate=empty), runner(), tile).out), plain)


@pytest.mark.parametrize("kernel", TILES)
def test_a_wider_span_costs_time_and_changes_nothing(kernel):
    num_queries, tile = TILES[kernel]
    request = sample(num_queries)
    wide = replace(request, gate=replace(request.gate, span=(0, 90)))
    assert np.array_equal(np.array(fused(wide, runner(), tile).out), np.array(fused(request, runner(), tile).out))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("width", "dtype", "group_size", "tile"),
    [
        (64, mx.float32, 32, (4, 8, 4, 1)),
        (96, mx.bfloat16, 32, (4, 32, 4, 2)),
        (128, mx.float16, 64, (4, 16, 8, 3)),
        (256, mx.float16, 128, (2, 32, 8, 1)),
    ],
)
def test_quantized_keys_and_values(width, dtype, group_size, tile, bits):
    for seed, (num_queries, num_keys) in enumerate([(1, 300), (3, 77), (1, 1), (8, 40)]):
        request = sample(num_queries, max(num_keys, 26), dtype, width, seed)
        if num_keys == 1:
            request = replace(request, k=request.k[:, :, :1], v=request.v[:, :, :1], gate=None)
        quantized, _ = packed(request, bits, group_size)
        values = [
            mx.dequantize(x.codes, x.scales.astype(mx.float32), x.biases.astype(mx.float32), group_size, bits)
            for x in (quantized.k, quantized.v)
        ]
        expected = attention(replace(request, k=values[0], v=values[1]))
        result = fused(quantized, runner(layout=np.random.default_rng(seed)), DecodeTile(*tile))
        assert error(result.out, expected.out) < LIMITS[dtype]
        assert np.abs(np.array(result.lse) - expected.lse).max() < 2e-5


@pytest.mark.skipif(mx.metal.is_available(), reason="runs the CUDA form in the emulator")
@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        (Shape(64, mx.float32, 8, mx.float32, "tanh"), (4, 8, 4)),
        (Shape(128, mx.float16, 16, mx.float32, "boost", masked=True), (7, 32, 8)),
        (Shape(64, mx.float32, 16, mx.float32, "tanh", kinds=3), (32, 4)),
        (Shape(128, mx.bfloat16, 16, mx.float32, "suppress", masked=True), (16, 4)),
    ],
    ids=["decode-float32", "decode-float16", "prefill-float32", "prefill-bfloat16"],
)
def test_the_cuda_form_computes_the_same(shape, tile):
    from emulator.run import Emulator

    few_rows = len(tile) == 3
    for case in range(-(-CASES // 2)):
        rng = np.random.default_rng([shape.width, case])
        request = draw(rng, shape, few_rows=few_rows, longest=400)
        sizes = (*tile, int(rng.choice([1, 3])))
        run = Emulator(cuda=True, order=case % 7, layout=rng)
        result = fused(request, run, DecodeTile(*sizes) if few_rows else PrefillTile(*sizes))
        expected = attention(request)
        found = np.array(result.out.astype(mx.float32), np.float64)
        scale = max(np.linalg.norm(expected.out), 1e-30)
        assert np.linalg.norm(found - expected.out) / scale < LIMITS[shape.dtype], case


def test_the_oracle_agrees_with_the_reference_path():
    for num_queries in (1, 7):
        request = sample(num_queries)
        found = reference(request.q, request.k, request.v, scale=request.scale, mask=request.mask, gate=request.gate)
        assert error(found, attention(request).out) < 1e-6


@pytest.mark.parametrize("kernel", TILES)
def test_the_gradient_of_a_fused_forward_pass(kernel):
    """Output and log-sum-exp of the kernel feed the linear-memory backward pass."""
    num_queries, tile = TILES[kernel]
    request = sample(num_queries)
    gate = request.gate

    def forward(q, k, v, mask, terms):
        result = fused(replace(request, q=q, k=k, v=v, mask=mask, gate=terms), runner(), tile)
        return result.out, result.lse

    def through_the_kernel(q, k, v, u, w):
        terms = replace(gate, u=u, v=w)
        out, _ = differentiable(forward, q, k, v, scale=request.scale, mask="causal", gate=terms, block=8)
        return mx.sum(mx.square(out))

    def explicit(q, k, v, u, w):
        terms = replace(gate, u=u, v=w)
        return mx.sum(mx.square(reference(q, k, v, scale=request.scale, mask="causal", gate=terms)))

    arrays, which = (request.q, request.k, request.v, gate.u, gate.v), (0, 1, 2, 3, 4)
    low, high = gate.span
    ours, right = (list(mx.grad(f, which)(*arrays)) for f in (through_the_kernel, explicit))
    for grads in (ours, right):
        grads[4] = grads[4][:, :, low:high]
    for found, expected in zip(ours, right, strict=True):
        assert error(found, np.array(expected, np.float64)) < 5e-6


@pytest.mark.skipif(mx.metal.is_available(), reason="measures threadgroup memory in the emulator")
@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
def test_threadgroup_memory_is_what_the_tuning_says(width):
    from emulator.run import Emulator

    for dtype in (mx.float32, mx.float16):
        request = sample(12, 40, dtype, width)
        tile = choose_tile(request)
        run = Emulator()
        assert error(fused(request, run, tile).out, attention(request).out) < LIMITS[dtype]
        sizes = (dtype.size, request.gate.v.dtype.size)
        assert run.shared_bytes == [shared_bytes(tile.keys, tile.simdgroups, width, 8, sizes)]


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 2500), (4, 900), (40, 300)])
def test_the_sizes_chosen_by_themselves_are_right(num_queries, num_keys):
    request = sample(num_queries, num_keys, mx.float16, 128)
    kind = DecodeTile if num_queries <= 4 else PrefillTile
    assert isinstance(choose_tile(request), kind)
    assert error(fused(request, runner()).out, attention(request).out) < 5e-4
