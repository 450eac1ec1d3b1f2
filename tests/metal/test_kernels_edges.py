"""The kernels at their edges: queries without a key, saturated gates, unaligned views, self-checks of every kind."""

import subprocess
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from emulator.run import Emulator, KernelFault
from oracle import LIMITS, attention
from runner import runner
from samples import DECODE, PREFILL, packed, replacing, sample

from rave_mlx.attention.kernels.fused import fused
from rave_mlx.attention.kernels.selfcheck import self_check
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile

emulated = pytest.mark.skipif(mx.metal.is_available(), reason="plants mistakes in a kernel: emulator only")
TILES = {
    "decode": (3, DECODE),
    "decode, split": (3, DecodeTile(4, 8, 4, 3)),
    "prefill": (10, PREFILL),
    "prefill, split": (10, PrefillTile(16, 4, 3)),
}


def hidden(request, rows):
    """The request with a boolean mask under which these queries of the first sequence see no key."""
    _, _, _, num_queries, num_keys, _ = request.sizes
    allowed = np.random.default_rng(0).random((2, 1, num_queries, num_keys)) < 0.7
    allowed[0, :, rows] = False
    kinds = mx.array((np.arange(num_keys) % 2).astype(np.uint8))[None]
    return replace(request, mask=mx.array(allowed), kinds=kinds, num_kinds=2)


@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize("kernel", TILES)
def test_a_query_without_a_key_gives_zero(kernel, bits):
    num_queries, tile = TILES[kernel]
    if bits and isinstance(tile, PrefillTile):
        pytest.skip("the prefill kernel reads no quantized keys")
    request = hidden(sample(num_queries), [0, num_queries - 1])
    if bits:
        request, plain = packed(request, bits, 32)
        expected = attention(plain)
    else:
        expected = attention(request)
    result = fused(request, runner(), tile)
    out, lse, mass = (np.array(x) for x in (result.out, result.lse, result.mass))
    for row in (0, num_queries - 1):
        assert (out[0, :, row] == 0).all()
        assert np.isneginf(lse[0, :, row]).all()
        assert (mass[0, :, row] == 0).all()
    assert np.linalg.norm(out - expected.out) / np.linalg.norm(expected.out) < 2e-6


@pytest.mark.parametrize("kernel", ["decode", "prefill"])
def test_the_first_queries_of_more_queries_than_keys_give_zero(kernel):
    num_queries, tile = {"decode": (4, DECODE), "prefill": (30, PREFILL)}[kernel]
    request = sample(num_queries, 26)
    request = replace(request, k=request.k[:, :, :2], v=request.v[:, :, :2], gate=None)
    result = fused(request, runner(), tile)
    assert (np.array(result.out)[:, :, : num_queries - 2] == 0).all()
    expected = attention(request).out
    assert np.linalg.norm(np.array(result.out) - expected) / np.linalg.norm(expected) < 2e-6


def saturated(num_queries):
    request = sample(num_queries)
    return replace(request, gate=replace(request.gate, u=request.gate.u * 2000))


@emulated
@pytest.mark.parametrize("kernel", ["decode", "prefill"])
def test_no_kernel_relies_on_an_overflow(kernel):
    """The emulator's fast::exp2 gives NaN where Metal's promises nothing; without the clamp that is what comes out."""
    num_queries, tile = TILES[kernel]
    request = saturated(num_queries)
    found = np.array(fused(request, Emulator(), tile).out)
    expected = attention(request).out
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5
    relying = Emulator(edit=replacing("y > 64.0f ? 64.0f : y", "y"))
    assert not np.isfinite(np.array(fused(request, relying, tile).out)).all()


@pytest.mark.parametrize("what", ["gate", "query"])
@pytest.mark.parametrize("kernel", TILES)
def test_what_is_no_number_is_not_hidden(kernel, what):
    """Neither by the clamp, nor by a comparison that a NaN fails."""
    num_queries, tile = TILES[kernel]
    request = sample(num_queries)
    spoil = lambda x: mx.where((mx.arange(num_queries) == 1)[:, None], mx.nan, x)
    if what == "gate":
        request = replace(request, gate=replace(request.gate, u=spoil(request.gate.u)))
    else:
        request = replace(request, q=spoil(request.q))
    result = fused(request, runner(), tile)
    assert np.isnan(np.array(result.out)[:, :, 1]).all()
    assert np.isnan(np.array(result.lse)[:, :, 1]).all()
    assert np.isfinite(np.array(result.out)[:, :, 0]).all()


@emulated
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("kernel", ["decode", "prefill"])
def test_loads_claim_no_more_alignment_than_an_element_has(kernel, dtype):
    """Keys of a view may start anywhere: random layouts, in memory that starts anywhere. A text that claims 16 bytes
    does not compile."""
    num_queries, tile = TILES[kernel]
    request = sample(num_queries, dtype=dtype)
    right = attention(request).out
    for seed in range(3):
        found = fused(request, Emulator(layout=np.random.default_rng(seed)), tile).out
        assert np.linalg.norm(np.array(found.astype(mx.float32)) - right) / np.linalg.norm(right) < LIMITS[dtype]
    claim = replacing("struct Chunk {", "struct alignas(16) Chunk {")
    with pytest.raises(subprocess.CalledProcessError):
        fused(request, Emulator(edit=claim), tile)


def few(**changes):
    return replace(sample(1, 120), **changes)


def many(**changes):
    return replace(sample(12, 60), **changes)


KINDS = {"kinds": mx.zeros((2, 120), mx.uint8), "num_kinds": 3}
CHECKED = {
    "decode": few(),
    "decode, split": sample(1, 1200),
    "decode, bfloat16": sample(1, 120, mx.bfloat16),
    "decode, masses and a boolean mask": few(mask=mx.ones((1, 120), mx.bool_), **KINDS),
    "decode, masses, split": replace(sample(1, 1200), kinds=mx.zeros((2, 1200), mx.uint8), num_kinds=3),
    "decode, 4 bits": packed(sample(1, 120, mx.float16, 128), 4, 64)[0],
    "decode, 8 bits, split": packed(sample(1, 1200), 8, 32)[0],
    "decode, no gate, window": few(gate=None, window=9),
    "prefill": many(),
    "prefill, float16, width 128": sample(12, 60, mx.float16, 128),
    "prefill, boolean mask": many(mask=mx.ones((12, 60), mx.bool_)),
    "prefill, masses, no mask": many(mask=None, kinds=mx.zeros((2, 60), mx.uint8), num_kinds=2),
    "prefill, split": sample(12, 2100),
}


@pytest.mark.parametrize("name", CHECKED)
def test_the_kernels_pass_their_own_check(name):
    assert self_check(runner(), CHECKED[name]) is None


WRONG = {
    "masses": ("decode, masses and a boolean mask", "(kind == n ? p[r] : 0.0f)", "(kind >= n ? p[r] : 0.0f)", "masses"),
    "boolean mask": ("prefill, boolean mask", "query * mask_strides[2]", "0 * mask_strides[2]", "output"),
    "causal order": ("decode", "(dims[0] != 0 ? position : LK - 1)", "LK - 1", "output"),
    "codes of 4 bits": ("decode, 4 bits", "(1u << BITS) - 1u", "7u", "output"),
    "a split": ("decode, split", "min(start + (split + 1) * share, LK)", "min(start + (split + 1) * share - 1, LK)",
                "log-sum-exp"),
    "the merge": ("prefill, split", "total += weight;", "total += 1.001f * weight;", "log-sum-exp"),
    "the window": ("decode, no gate, window", "j >= first[r] && ", "", "output"),
    "ungated heads": ("prefill", "near_image = slot >= 0 &&", "near_image =", "output"),
    "the log-sum-exp alone": ("prefill, float16, width 128", "(m + fast::log2(l)) * LN2", "m * LN2", "log-sum-exp"),
}  # fmt: skip


@emulated
@pytest.mark.parametrize("mistake", WRONG)
def test_the_check_sees_a_variant_that_is_wrong(mistake):
    name, old, new, part = WRONG[mistake]
    plant = lambda text: text.replace(old, new)
    try:
        reason = self_check(Emulator(edit=plant), CHECKED[name])
    except KernelFault:
        return
    assert "it is wrong on this machine" in (reason or "")
    assert part in reason


@emulated
def test_one_variant_may_be_off_while_others_run():
    run = Emulator(edit=lambda text: text.replace("(kind == n ? p[r] : 0.0f)", "(kind >= n ? p[r] : 0.0f)"))
    assert self_check(run, CHECKED["decode, masses and a boolean mask"]) is not None
    assert self_check(run, CHECKED["decode"]) is None
