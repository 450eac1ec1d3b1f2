"""Wrong arithmetic planted in a kernel has to fail the comparison with float64: the tests can see what they look at."""

import mlx.core as mx
import numpy as np
import pytest
from emulator.run import Emulator, KernelFault
from oracle import LIMITS, Shape, attention, draw
from samples import replacing

from rave_mlx.attention.kernels.fused import fused
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile

pytestmark = pytest.mark.skipif(mx.metal.is_available(), reason="plants mistakes in a kernel: emulator only")

CALLS = 25
SHAPE = Shape(64, mx.float32, 8, mx.float32, "tanh", masked=False, kinds=3)
MASKED = Shape(64, mx.float32, 8, mx.float32, "tanh", masked=True)
MISTAKES = {
    "decode ignores the window": (SHAPE, "j >= first[r] && ", ""),
    "decode sees the future": (SHAPE, "(dims[0] != 0 ? position : LK - 1)", "LK - 1"),
    "decode gives every head the features of the first": (SHAPE, "(slot * G + (row0 + r) % G)", "(slot * G)"),
    "decode gates heads without a gate": (
        SHAPE,
        "const int slot = slots[kvh];",
        "const int slot = max(slots[kvh], 0);",
    ),
    "decode looks for images one block late": (
        SHAPE,
        "j0 < dims[3] && j0 + NK > dims[2]",
        "j0 < dims[3] && j0 > dims[2]",
    ),
    "decode leaves a split out": (
        SHAPE,
        "min(start + (split + 1) * share, LK)",
        "min(start + (split + 1) * share - 1, LK)",
    ),
    "decode forgets a weight": (SHAPE, "l[r] = l[r] * f[r] + p[r];", "l[r] = l[r] + p[r];"),
    "decode counts the wrong kind": (SHAPE, "(kind == n ? p[r] : 0.0f)", "(kind >= n ? p[r] : 0.0f)"),
    "decode reads the first query's mask": (MASKED, "i * mask_strides[2]", "0 * mask_strides[2]"),
    "prefill ignores the window": (SHAPE, "j >= first && ", ""),
    "prefill skips a block of the window": (SHAPE, "const int reach = window > 0", "const int reach = BK + window > 0"),
    "prefill gates heads without a gate": (SHAPE, "near_image = slot >= 0 &&", "near_image ="),
    "prefill reads features that are not there": (SHAPE, "if (live && slot >= 0)", "if (live)"),
    "prefill swaps heads and queries": (SHAPE, "head = kvh * G + row % G", "head = kvh * G + (row + 1) % G"),
    "prefill forgets to rescale": (SHAPE, "O[dd].thread_elements()[e] *= f;", "O[dd].thread_elements()[e] *= 1.0f;"),
    "prefill sums half of a row": (SHAPE, "l += simd_shuffle_xor(l, ushort(8));", "l += l;"),
    "prefill looks for images one block late": (
        SHAPE,
        "k0 < dims[3] && k0 + BK > dims[2]",
        "k0 < dims[3] && k0 > dims[2]",
    ),
    "prefill reads the first head's mask row": (MASKED, "query * mask_strides[2]", "0 * mask_strides[2]"),
    "prefill skips what is visible": (SHAPE, "simd_any(visible != 0)", "simd_any(visible == 255)"),
}


def is_right(request, run, tile) -> bool:
    result, expected = fused(request, run, tile), attention(request)
    found = np.array(result.out, np.float64)
    distance = np.linalg.norm(found - expected.out) / max(np.linalg.norm(expected.out), 1e-30)
    masses = expected.mass is None or np.abs(np.array(result.mass) - expected.mass).max() < 4e-6
    return bool(distance < LIMITS[mx.float32] and masses)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_arithmetic_is_noticed(mistake):
    shape, old, new = MISTAKES[mistake]
    kernel = mistake.split()[0]
    edit = replacing(old, new)
    plant = lambda text: edit(text) if f"pair_gate_{kernel}" in text else text
    for case in range(CALLS):
        rng = np.random.default_rng(case)
        request = draw(rng, shape, few_rows=kernel == "decode", longest=200)
        tile = DecodeTile(4, 8, 4, 2) if kernel == "decode" else PrefillTile(16, 4, 2)
        try:
            if not is_right(request, Emulator(layout=rng, edit=plant), tile):
                return
        except KernelFault:
            return
    pytest.fail("no random call noticed it")
