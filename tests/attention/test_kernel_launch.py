"""Which path a call takes, why a kernel refuses, and what happens then."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support import relative

from rave_mlx import backend
from rave_mlx.attention import GateTerms, Packed, attend, attend_packed, attend_with_mass, choose_path, dispatch
from rave_mlx.attention.kernels import launch as launching
from rave_mlx.attention.kernels.coverage import DTYPES, GATE_WIDTHS, WIDTHS, shape_refusal
from rave_mlx.attention.kernels.fused import Request, choose_tile, fused
from rave_mlx.attention.kernels.launch import launch, refusal
from rave_mlx.attention.kernels.source import Variant
from rave_mlx.attention.kernels.tuning import SHARED_BYTES, DecodeTile, PrefillTile, shared_bytes

backend.prepare()
on_cpu = pytest.mark.skipif(backend.current().kind != "cpu", reason="about machines without a GPU")


def request(*, lq=9, lk=40, width=64, rank=16, dtype=mx.float32, heads=4, groups=2, batch=2, **changes) -> Request:
    rng = np.random.default_rng(0)

    def normal(*shape):
        return mx.array(rng.normal(size=shape).astype(np.float32)).astype(dtype)

    gate = GateTerms(normal(batch, heads // groups, lq, rank), normal(batch, 1, lk, rank), (1,), (0, lk), "tanh", 4.0)
    q, k, v = normal(batch, heads, lq, width), normal(batch, groups, lk, width), normal(batch, groups, lk, width)
    return replace(Request(q, k, v, 0.125, "causal", gate), **changes)


def quantized(x: mx.array, bits: int = 4, group_size: int = 32) -> Packed:
    return Packed(*mx.quantize(x, group_size, bits), group_size, bits)


BASE = request()
REFUSED = {
    "integers": (replace(BASE, q=BASE.q.astype(mx.int32)), "queries of int32"),
    "mixed dtypes": (replace(BASE, k=BASE.k.astype(mx.float16)), "float32, float16 and float32"),
    "head width": (request(width=48), r"head width 48 \(covered: 64, 80, 96, 128, 256\)"),
    "narrow values": (replace(BASE, v=BASE.v[..., :32]), "values"),
    "gate width": (request(rank=10), r"gate width 10 \(covered: 8, 16, 32\)"),
    "additive mask": (replace(BASE, mask=mx.zeros((9, 40))), "a mask of float32"),
    "kinds": (replace(BASE, kinds=mx.zeros((2, 40), mx.uint8), num_kinds=9), r"9 kinds of keys \(covered: 1 to 8\)"),
    "no key": (replace(BASE, k=BASE.k[:, :, :0], v=BASE.v[:, :, :0]), "no query or no key"),
    "only keys quantized": (replace(BASE, k=quantized(BASE.k)), "quantized keys with plain values"),
    "only values quantized": (replace(BASE, v=quantized(BASE.v)), "quantized values with plain keys"),
    "bits": (replace(BASE, k=quantized(BASE.k, 2), v=quantized(BASE.v, 2)), "keys of 2 bits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_call_that_no_kernel_covers_is_refused_with_its_reason(case):
    import re

    asked, reason = REFUSED[case]
    assert re.search(reason, shape_refusal(asked) or "")


@pytest.mark.parametrize("width", WIDTHS)
def test_every_covered_shape_is_accepted_and_its_tiles_fit_the_gpu(width):
    for dtype in DTYPES:
        for rank in GATE_WIDTHS:
            for lq, heads in [(1, 8), (3, 4), (8, 8), (300, 4)]:
                asked = request(width=width, rank=rank, dtype=dtype, lq=lq, lk=300, heads=heads, groups=2, batch=1)
                assert shape_refusal(asked) is None
                tile = choose_tile(asked)
                assert tile.simdgroups * 32 <= 1024
                if isinstance(tile, DecodeTile):
                    assert width % tile.lanes == 0
                    assert tile.rows * (2 * width // tile.lanes + 4) <= 104
                    assert tile.simdgroups * (width + 2) * 4 <= SHARED_BYTES
                else:
                    assert (
                        shared_bytes(tile.keys, tile.simdgroups, width, rank, (dtype.size, dtype.size)) <= SHARED_BYTES
                    )


def test_few_rows_take_the_decode_kernel_and_all_of_them_at_once():
    assert choose_tile(request(lq=1, lk=300, heads=8, groups=1, width=128)) == DecodeTile(8, 32, 8, 1)
    assert choose_tile(request(lq=1, lk=300, heads=2, groups=1, width=64)) == DecodeTile(2, 8, 8, 1)
    assert choose_tile(request(lq=1, lk=300, heads=8, groups=1, width=256)) == DecodeTile(4, 32, 8, 1)
    assert isinstance(choose_tile(request(lq=8, heads=14, groups=2)), PrefillTile)


def test_long_keys_are_split_until_the_gpu_is_full():
    assert choose_tile(request(lq=1, lk=8192, batch=1)).splits == 32
    assert choose_tile(request(lq=1, lk=200)).splits == 1
    assert choose_tile(request(lq=400, lk=4096, batch=1)).splits == 1


@on_cpu
def test_without_a_gpu_nothing_is_built_and_forcing_the_kernel_says_why():
    before = launching._metal.cache_info().misses
    assert attend(BASE.q, BASE.k, BASE.v, scale=0.125, mask="causal", gate=BASE.gate).shape == BASE.q.shape
    assert launching._metal.cache_info().misses == before
    assert choose_path(BASE) == "chunked"
    for call in (
        lambda: attend(BASE.q, BASE.k, BASE.v, scale=0.125, gate=BASE.gate, path="kernel"),
        lambda: launch(BASE),
    ):
        with pytest.raises(
            ValueError, match=r"the fused kernel cannot compute this call: the cpu backend has no fused"
        ):
            call()


def test_forcing_a_path_that_has_no_gate_names_the_reason():
    with pytest.raises(ValueError, match="the stock path has no gate"):
        attend(BASE.q, BASE.k, BASE.v, scale=0.125, gate=BASE.gate, path="stock")
    with pytest.raises(ValueError, match="needs squash 'identity'"):
        attend(BASE.q, BASE.k, BASE.v, scale=0.125, gate=BASE.gate, path="fold")


@pytest.fixture
def as_metal(monkeypatch):
    """Decisions of a machine with Metal whose kernels are right; nothing is computed."""
    monkeypatch.setattr(launching, "self_check", lambda run, request: None)
    found = replace(backend.current(), kind="metal")
    monkeypatch.setattr(backend, "current", lambda: found)
    dispatch._note.cache_clear()
    monkeypatch.setattr(launching, "_answers", {})


@pytest.mark.usefixtures("as_metal")
def test_paths_on_metal(caplog):
    linear = replace(BASE.gate, squash="identity")
    assert choose_path(replace(BASE, gate=None)) == "stock"
    assert choose_path(replace(BASE, gate=linear)) == "fold"
    half = replace(BASE, q=BASE.q.astype(mx.bfloat16), k=BASE.k.astype(mx.bfloat16), v=BASE.v.astype(mx.bfloat16))
    assert choose_path(replace(half, gate=linear)) == "kernel", "folding would round the gate to half precision"
    assert choose_path(BASE) == "kernel"
    assert (
        choose_path(replace(request(width=128), gate=replace(request(width=128).gate, squash="identity"))) == "kernel"
    )
    with caplog.at_level(logging.DEBUG, logger="rave_mlx.attention"):
        assert choose_path(request(width=48)) == "chunked"
        assert choose_path(request(width=48)) == "chunked"
    assert [r.getMessage() for r in caplog.records] == [
        "the fused attention kernel is not used: head width 48 (covered: 64, 80, 96, 128, 256)"
    ]


@pytest.mark.usefixtures("as_metal")
def test_the_reason_of_a_shape_is_the_reason_of_the_call():
    assert refusal(BASE) is None
    with pytest.raises(ValueError, match="cannot compute this call: gate width 10"):
        launch(request(rank=10))


@on_cpu
def test_masses_of_key_kinds_and_the_output_beside_them():
    kinds = mx.array(np.random.default_rng(1).integers(0, 3, (2, 40)).astype(np.uint8))
    out, mass = attend_with_mass(
        BASE.q, BASE.k, BASE.v, kinds=kinds, num_kinds=3, scale=0.125, mask="causal", gate=BASE.gate
    )
    assert relative(out, attend(BASE.q, BASE.k, BASE.v, scale=0.125, mask="causal", gate=BASE.gate)) < 1e-6
    assert mass.shape == (2, 4, 9, 3)
    assert np.allclose(np.array(mass).sum(-1), 1, atol=1e-5)
    for kind in range(3):
        ones = mx.broadcast_to((kinds == kind)[:, None, :, None].astype(mx.float32), BASE.v.shape)
        right = attend(BASE.q, BASE.k, ones, scale=0.125, mask="causal", gate=BASE.gate, path="reference")
        assert np.allclose(np.array(mass)[..., kind], np.array(right)[..., 0], atol=1e-6)


@on_cpu
def test_quantized_keys_and_values_without_a_kernel():
    k, v = quantized(BASE.k, 8), quantized(BASE.v, 8)
    out = attend_packed(BASE.q, k, v, scale=0.125, mask="causal", gate=BASE.gate)
    plain = [mx.dequantize(x.codes, x.scales, x.biases, 32, 8) for x in (k, v)]
    assert relative(out, attend(BASE.q, *plain, scale=0.125, mask="causal", gate=BASE.gate, path="reference")) < 2e-6


def test_the_prefill_kernel_does_not_take_quantized_keys():
    packed = replace(BASE, k=quantized(BASE.k), v=quantized(BASE.v))
    with pytest.raises(ValueError, match="dequantize them first"):
        fused(packed, lambda call: [], PrefillTile(16, 4, 1))


def test_every_kernel_text_is_installed_with_the_package():
    folder = Path(launching.__file__).parent
    names = {p.name for p in folder.iterdir()} & {f"{n}" for n in ("common.metal", "cuda.h")}
    assert names == {"common.metal", "cuda.h"}
    for name in ("decode", "prefill", "merge"):
        variant = Variant(name)
        assert "threadgroup_position_in_grid" in variant.body or name == "merge"
        assert "LOWEST" in variant.header
        assert "__shfl_xor_sync" in variant.cuda_header
