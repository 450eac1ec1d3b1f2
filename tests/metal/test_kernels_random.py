"""Random calls against float64: shapes, GQA ratios, spans, masks, windows, layouts, saturation.

RAVE_KERNEL_CASES sets the number of random calls for each compiled variant (default 10; the long sweep uses 100), and
RAVE_KERNEL_KEYS the longest row of keys.
"""

import os
import zlib

import mlx.core as mx
import numpy as np
import pytest
from oracle import LIMITS, Shape, attention, draw
from runner import runner

from rave_mlx.attention.kernels.coverage import shape_refusal
from rave_mlx.attention.kernels.fused import Request, fused
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile

CASES = int(os.environ.get("RAVE_KERNEL_CASES", "10"))
LONGEST = int(os.environ.get("RAVE_KERNEL_KEYS", "1500"))

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16

DECODE = [
    (Shape(64, F32, 8, F32, "tanh"), (4, 8, 4)),
    (Shape(64, F16, 16, F32, "tanh", masked=True), (7, 32, 8)),
    (Shape(64, BF16, 32, BF16, "suppress", kinds=3), (2, 16, 8)),
    (Shape(80, F32, 16, F32, "boost", masked=True, kinds=2), (3, 16, 4)),
    (Shape(80, F16, 8, F16, "identity"), (4, 8, 8)),
    (Shape(96, BF16, 16, F32, "tanh"), (5, 32, 8)),
    (Shape(96, F32, 32, F32, "suppress"), (4, 16, 2)),
    (Shape(128, F16, 16, F32, "tanh"), (7, 32, 8)),
    (Shape(128, F32, 16, F32, "tanh", kinds=3), (4, 16, 8)),
    (Shape(128, BF16, 16, F32, "boost", masked=True), (8, 32, 8)),
    (Shape(128, F16, squash=None, kinds=3, gate_width=0), (1, 8, 8)),
    (Shape(256, F32, 16, F32, "tanh"), (4, 32, 8)),
    (Shape(256, F16, 32, F16, "identity", masked=True), (2, 16, 8)),
]
PREFILL = [
    (Shape(64, F32, 8, F32, "tanh"), (32, 4)),
    (Shape(64, F16, 16, F32, "tanh", masked=True), (32, 4)),
    (Shape(64, BF16, 32, BF16, "suppress", kinds=3), (16, 2)),
    (Shape(80, F32, 16, F32, "boost", masked=True, kinds=2), (32, 4)),
    (Shape(80, F16, 8, F16, "identity"), (32, 2)),
    (Shape(96, BF16, 16, F32, "tanh"), (32, 4)),
    (Shape(96, F32, 32, F32, "suppress"), (32, 4)),
    (Shape(128, F16, 16, F32, "tanh"), (16, 4)),
    (Shape(128, F32, 16, F32, "tanh", kinds=3), (16, 4)),
    (Shape(128, BF16, 16, F32, "boost", masked=True), (32, 4)),
    (Shape(128, F16, squash=None, kinds=3, gate_width=0), (16, 4)),
    (Shape(256, F32, 16, F32, "tanh"), (8, 2)),
    (Shape(256, F16, 32, F16, "identity", masked=True), (16, 4)),
]


def check(request: Request, tile, rng: np.random.Generator, order: int = 0) -> float:
    """Run and compare; the relative error of the output."""
    assert shape_refusal(request) is None
    result = fused(request, runner(order=order, layout=rng), tile)
    expected = attention(request)
    found = np.array(result.out.astype(mx.float32), np.float64)
    assert np.isfinite(found).all()
    error = np.linalg.norm(found - expected.out) / max(np.linalg.norm(expected.out), 1e-30)
    assert error < LIMITS[request.q.dtype], (request.sizes, request.window, error)
    lse = np.array(result.lse, np.float64)
    hidden = np.isneginf(expected.lse)
    assert np.array_equal(np.isneginf(lse), hidden)
    scale = np.maximum(1.0, np.abs(expected.lse[~hidden]))
    assert np.all(np.abs(lse[~hidden] - expected.lse[~hidden]) / scale < 4e-6)
    if expected.mass is not None:
        assert np.abs(np.array(result.mass) - expected.mass).max() < 4e-6
    return float(error)


def name(value) -> str:
    if isinstance(value, Shape):
        words = [value.width, str(value.dtype)[9:], value.squash or "plain", f"R{value.gate_width}"]
        return "-".join(map(str, words)) + "-mask" * value.masked + "-mass" * bool(value.kinds)
    return "x".join(map(str, value))


def sweep(shape: Shape, tile_of, few_rows: bool, record) -> None:
    worst = 0.0
    for case in range(CASES):
        rng = np.random.default_rng([zlib.crc32(repr((shape, few_rows)).encode()), case])
        request = draw(rng, shape, few_rows=few_rows, longest=LONGEST)
        splits = int(rng.choice([1, 1, 2, 5]))
        worst = max(worst, check(request, tile_of(splits), rng, order=case % 7))
    record("worst_relative_error", worst)
    print(f"{'decode' if few_rows else 'prefill'} {name(shape)}: {CASES} calls, worst relative L2 {worst:.1e}")


@pytest.mark.parametrize(("shape", "tile"), DECODE, ids=name)
def test_random_decode_calls_match_float64(shape, tile, record_property):
    sweep(shape, lambda splits: DecodeTile(*tile, splits), True, record_property)


@pytest.mark.parametrize(("shape", "tile"), PREFILL, ids=name)
def test_random_prefill_calls_match_float64(shape, tile, record_property):
    sweep(shape, lambda splits: PrefillTile(*tile, splits), False, record_property)
