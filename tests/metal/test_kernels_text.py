"""The Metal text itself: the signature is MLX's own, and types and address spaces hold for every variant."""

import re
from dataclasses import replace

import mlx.core as mx
import pytest
from emulator.trace import metal_text
from samples import DECODE, PREFILL, calls, every_variant, packed, replacing, sample

from rave_mlx.attention.kernels.source import Call
from rave_mlx.attention.kernels.tuning import DecodeTile, PrefillTile

SIGNATURE = """\
  const device float* q [[buffer(0)]],
  const constant int* q_shape [[buffer(1)]],
  const constant int64_t* q_strides [[buffer(2)]],
  const device float* k [[buffer(3)]],
  const constant int* k_shape [[buffer(4)]],
  const constant int64_t* k_strides [[buffer(5)]],
  const device float* v [[buffer(6)]],
  const constant int64_t* v_strides [[buffer(7)]],
  const device float* gu [[buffer(8)]],
  const constant int64_t* gu_strides [[buffer(9)]],
  const device float* gv [[buffer(10)]],
  const constant int64_t* gv_strides [[buffer(11)]],
  const constant int32_t* slots [[buffer(12)]],
  const constant int32_t* dims [[buffer(13)]],
  const constant float* consts [[buffer(14)]],
  device float* out [[buffer(15)]],
  device float* lse [[buffer(16)]],
  uint simdgroup_index_in_threadgroup [[simdgroup_index_in_threadgroup]],
  uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
  uint3 thread_position_in_threadgroup [[thread_position_in_threadgroup]],
  uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],
  uint3 threadgroups_per_grid [[threadgroups_per_grid]]) {"""


@pytest.mark.parametrize(("tile", "num_queries"), [(DECODE, 1), (PREFILL, 10)], ids=["decode", "prefill"])
def test_mlx_writes_the_signature_that_the_kernels_were_written_for(tile, num_queries):
    (call,) = calls(sample(num_queries), tile)
    text = metal_text(call)
    found = re.search(r"\[\[kernel\]\] void \w+\(\n(.*?\{)\n", text, re.DOTALL)[1]
    assert found == SIGNATURE


def widest() -> list[Call]:
    """Launches with every feature that adds an input or an output."""
    request, _ = packed(sample(1), 8, 32)
    extras = {"mask": mx.ones((1, 90), mx.bool_), "kinds": mx.zeros((2, 90), mx.uint8), "num_kinds": 2}
    plain = replace(sample(10), **extras | {"mask": mx.ones((10, 90), mx.bool_)})
    return [
        *calls(replace(request, **extras), DecodeTile(4, 8, 4, 2)),
        *calls(plain, PrefillTile(16, 4, 2)),
    ]


def test_the_widest_variant_leaves_one_of_metals_31_buffers_free():
    """Metal has buffers 0 to 30; MLX refuses nothing here, the driver does."""
    assert [len(c.variant.inputs) for c in widest()] == [14, 3, 10, 3], "all that may follow q, k and v is there"
    for call in widest():
        numbers = [int(n) for n in re.findall(r"\[\[buffer\((\d+)\)\]\]", metal_text(call))]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) <= 30, call.variant.label


def test_types_and_address_spaces_of_every_variant():
    lint = pytest.importorskip("emulator.lint", reason="libclang is not installed").lint
    texts = {metal_text(call) for call in every_variant()}
    assert len(texts) > 100
    problems = {text.split("void ")[-1][:80]: found for text in texts if (found := lint(text))}
    assert not problems


MISTAKES = {
    "thread array through a threadgroup pointer": (
        "decode",
        replacing("float top = group_m[0];", "threadgroup float* zz = m; float top = zz[0];"),
    ),
    "device pointer to a threadgroup array": (
        "decode",
        replacing("float top = group_m[0];", "device float* zz = group_m; float top = zz[0];"),
    ),
    "write to a const input": ("decode", replacing("m[r] = LOWEST;", "m[r] = LOWEST; q[0] = 1;")),
    "attribute that is not declared": (
        "prefill",
        replacing("int(thread_index_in_simdgroup)", "int(thread_index_in_quadgroup)"),
    ),
    "threadgroup array inside a block": (
        "decode",
        replacing("float kr[DP];", "float kr[DP]; { threadgroup float zz[4]; zz[0] = 1; }"),
    ),
    "double arithmetic": ("decode", replacing("float s = 0.0f;", "double s = 0.0;")),
    "max of float and int": ("prefill", replacing("top = max(top, s);", "top = max(top, 0);")),
    "helper given a constant pointer": (
        "decode",
        replacing("load_row<DP>(kr, k + b", "load_row<DP>(kr, consts + b"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_type_error_is_reported(mistake):
    lint = pytest.importorskip("emulator.lint", reason="libclang is not installed").lint
    kernel, edit = MISTAKES[mistake]
    (call,) = calls(sample(1 if kernel == "decode" else 10), DECODE if kernel == "decode" else PREFILL)
    text = metal_text(call)
    assert lint(text) == []
    assert lint(edit(text))


def test_no_struct_has_member_functions():
    """Metal 4.1 puts an unqualified `this` in a generic address space, which older code does not expect."""
    for call in every_variant()[:20]:
        for body in re.findall(r"struct \w+ \{(.*?)\};", metal_text(call), re.DOTALL):
            assert "(" not in body
