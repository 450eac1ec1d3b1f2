"""Synchronisation: results do not depend on the order in which threads run, and the emulator sees what is wrong."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from emulator.run import Emulator, KernelFault
from oracle import attention
from samples import DECODE, PREFILL, raw, replacing, sample, without_barrier

from rave_mlx.attention.kernels.fused import fused
from rave_mlx.attention.kernels.tuning import DecodeTile

pytestmark = pytest.mark.skipif(mx.metal.is_available(), reason="plants mistakes in a kernel: emulator only")

ORDERS = range(7)
CASES = {"decode": (3, DECODE, 3), "prefill": (10, PREFILL, 4)}


def outputs(kernel: str, order: int, edit=None) -> np.ndarray:
    num_queries, tile, _ = CASES[kernel]
    return np.array(fused(raw(sample(num_queries)), Emulator(order=order, edit=edit), tile).out)


@pytest.mark.parametrize("kernel", CASES)
def test_every_schedule_gives_the_same_bits(kernel):
    first = outputs(kernel, 0)
    assert np.isfinite(first).all()
    for order in ORDERS:
        assert np.array_equal(outputs(kernel, order), first)


@pytest.mark.parametrize(("kernel", "barrier"), [(k, i) for k, (_, _, n) in CASES.items() for i in range(n)])
def test_a_removed_barrier_changes_the_result(kernel, barrier):
    right = outputs(kernel, 0)
    edit = without_barrier(barrier)
    same = [np.array_equal(outputs(kernel, order, edit), right) for order in ORDERS]
    assert not all(same), f"barrier {barrier} of the {kernel} kernel is not needed, or its absence goes unseen"


@pytest.mark.parametrize(("kernel", "barriers"), [(k, n) for k, (_, _, n) in CASES.items()])
def test_no_barrier_is_left_out_of_the_test_above(kernel, barriers):
    with pytest.raises(ValueError, match="substring not found"):
        outputs(kernel, 0, without_barrier(barriers))


FAULTS = {
    "divergent": (
        "prefill",
        replacing("top = max(top, simd_shuffle_xor(top, ushort(1)));", "if (fm < 4) top = simd_shuffle_xor(top, 1);"),
        "divergence|not reached by all|different operations|no runnable thread",
    ),
    "early return": (
        "prefill",
        replacing("  float m = LOWEST, l = 0.0f;", "  if (!live) return;\n  float m = LOWEST, l = 0.0f;"),
        "after some (threads|lanes) returned|not reached by all",
    ),
    "too much threadgroup memory": (
        "prefill",
        replacing("threadgroup T KVs[BK * LD];", "threadgroup T KVs[BK * LD * 8];"),
        "bytes of threadgroup memory > 32768",
    ),
    "index outside a threadgroup array": (
        "decode",
        replacing("group_o[sg * D + li * DP + e] = o[r][e];", "group_o[sg * D + li * DP + e + 1] = o[r][e];"),
        "outside a threadgroup array",
    ),
    "keys read past their end": (
        "prefill",
        replacing("if (k0 + r < LK)", "if (k0 + r < LK + 1)"),
        "outside a device buffer",
    ),
    "gate features read past their end": (
        "decode",
        replacing("slot * gv_strides[1] + j * gv_strides[2]", "slot * gv_strides[1] + (j + LK) * gv_strides[2]"),
        "outside a device buffer",
    ),
    "a row written before the output": (
        "decode",
        replacing("out[at * D + d] =", "out[(at - 8) * D + d - 4096] ="),
        "outside a device buffer",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_stops_the_kernel(fault):
    kernel, edit, message = FAULTS[fault]
    with pytest.raises(KernelFault, match=message):
        outputs(kernel, 0, edit)


def test_noise_in_the_fast_functions_stays_small():
    """Metal's fast functions are a few ulp off; eight of them must not grow into an error that matters."""
    for kernel, (num_queries, tile, _) in CASES.items():
        request = sample(num_queries)
        found = np.array(fused(request, Emulator(ulp=8), tile).out, np.float64)
        expected = attention(request).out
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 5e-6, kernel


def test_the_splits_are_merged_in_any_order_of_threads():
    request = replace(sample(2, 300), mask=None)
    results = [np.array(fused(request, Emulator(order=o), DecodeTile(4, 8, 4, 5)).out) for o in ORDERS]
    assert all(np.array_equal(r, results[0]) for r in results)
    expected = attention(request).out
    assert np.linalg.norm(results[0] - expected) / np.linalg.norm(expected) < 2e-6


def test_more_than_1024_threads_are_refused():
    with pytest.raises(KernelFault, match="more than 1024 threads"):
        fused(sample(1), Emulator(), DecodeTile(4, 8, 33, 1))
