"""The decode kernel computes the gate features of its queries itself: the numbers of float64, whatever its sizes."""

import mlx.core as mx
import numpy as np
import pytest
from oracle import LIMITS, Shape, attention, draw
from runner import runner
from samples import DECODE, raw, replacing, sample

from rave_mlx.attention.kernels.fused import fused, is_raw
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16
SIZES = [
    (Shape(64, F32, 8, F32, "tanh"), (4, 8, 4)),
    (Shape(64, F16, 16, F32, "tanh", masked=True), (7, 32, 8)),
    (Shape(80, F32, 16, F16, "boost"), (3, 16, 4)),
    (Shape(96, F32, 32, F32, "suppress"), (4, 16, 2)),
    (Shape(128, BF16, 32, BF16, "tanh"), (4, 32, 2)),
    (Shape(256, F16, 16, F16, "identity"), (4, 32, 8)),
]


def name(value) -> str:
    return f"{value.width}-R{value.gate_width}" if isinstance(value, Shape) else "x".join(map(str, value))


def distance(request, run, tile) -> float:
    found, expected = np.array(fused(request, run, tile).out.astype(F32), np.float64), attention(request).out
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


@pytest.mark.parametrize(
    ("shape", "tile"), SIZES, ids=lambda v: f"{v.width}-R{v.gate_width}" if hasattr(v, "width") else ""
)
def test_random_calls_match_float64(shape, tile):
    for case in range(6):
        rng = np.random.default_rng([shape.width, case])
        request = raw(draw(rng, shape, few_rows=True, longest=500), case)
        assert is_raw(request)
        run = runner(order=case, layout=rng)
        assert distance(request, run, DecodeTile(*tile, int(rng.choice([1, 2, 5])))) < LIMITS[shape.dtype], case


@pytest.mark.skipif(mx.metal.is_available(), reason="runs the CUDA form in the emulator")
def test_the_cuda_form_computes_the_same():
    from emulator.run import Emulator

    assert distance(raw(sample(3)), Emulator(cuda=True), DECODE) < LIMITS[F32]


def test_the_prefill_kernel_takes_the_features():
    assert distance(raw(sample(10)), runner(), PrefillTile(16, 4, 1)) < LIMITS[F32]


MISTAKES = {
    "every head is projected as the first": ("gp + h * gp_strides[0]", "gp + slot * gp_strides[0]"),
    "the first query's norm": ("i * gq_strides[2] + li * DP * gq_strides[3]", "li * DP * gq_strides[3]"),
    "a feature is left out": ("n0 + sub < R)", "n0 + sub < R - 1)"),
    "no offset": (" + go[h * go_strides[0] + n * go_strides[2]]", ""),
    "no mean": ("squares / float(D)", "squares"),
    "heads of the first slot": ("const int h = max(slot, 0) * G", "const int h = 0 * G"),
}


@pytest.mark.skipif(mx.metal.is_available(), reason="plants mistakes in a kernel: emulator only")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_arithmetic_is_noticed(mistake):
    from emulator.run import Emulator

    # NaN is what memory that nobody wrote holds.
    assert not distance(raw(sample(3)), Emulator(edit=replacing(*MISTAKES[mistake])), DECODE) <= 1e-4
