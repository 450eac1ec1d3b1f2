"""Each variant of a kernel is checked at its first use; one that fails costs a line and the next path."""

from __future__ import annotations

import logging
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from support import relative
from test_kernel_launch import BASE, quantized, request

from rave_mlx import backend
from rave_mlx.attention import attend, attend_packed, attend_with_mass, choose_path
from rave_mlx.attention.gate import QueryMap, RawQueries
from rave_mlx.attention.kernels import launch as launching
from rave_mlx.attention.kernels import selfcheck
from rave_mlx.attention.kernels.selfcheck import Probe, self_check

LINEAR = replace(BASE.gate, squash="identity")
HALF = request(dtype=mx.float16)
MASK = mx.ones((9, 40), mx.bool_)
KINDS = mx.zeros((2, 40), mx.uint8)
PACKED = {"k": quantized(BASE.k), "v": quantized(BASE.v)}
PACKED_8 = {"k": quantized(BASE.k, 8), "v": quantized(BASE.v, 8)}
RAW = RawQueries(mx.zeros((2, 2, 1, 64)), QueryMap(mx.zeros((2, 64, 16)), mx.zeros((2, 1, 16))))
DIFFERENT = {
    "plain": BASE,
    "dtype": HALF,
    "dtype of the gate's features": replace(BASE, gate=replace(BASE.gate, v=BASE.gate.v.astype(mx.float16))),
    "head width": request(width=128),
    "gate width": request(rank=8),
    "no gate": replace(BASE, gate=None),
    "squash": replace(BASE, gate=LINEAR),
    "no mask": replace(BASE, mask=None),
    "boolean mask": replace(BASE, mask=MASK),
    "window": replace(BASE, window=7),
    "masses of two kinds": replace(BASE, kinds=KINDS, num_kinds=2),
    "masses of three kinds": replace(BASE, kinds=KINDS, num_kinds=3),
    "4 bits": replace(BASE, **PACKED),
    "8 bits": replace(BASE, **PACKED_8),
    "few queries": request(lq=1),
    "one head a group": request(lq=1, heads=2),
    "queries as they are": replace(request(lq=1), gate=replace(request(lq=1).gate, raw=RAW)),
    "split keys": request(lq=1, lk=4000, batch=1),
}


@pytest.fixture(autouse=True)
def anew():
    def forget():
        selfcheck._checked.cache_clear()
        launching._answers.clear()

    forget()
    yield
    forget()


@pytest.fixture
def as_metal(monkeypatch):
    """A machine that says it has Metal; `run` takes the place of MLX's launches."""
    found = replace(backend.current(), kind="metal")
    monkeypatch.setattr(backend, "current", lambda: found)

    def with_run(run):
        monkeypatch.setattr(launching, "_runner", lambda: run)

    return with_run


def zeros(call):
    return [mx.zeros(s, d) for s, d in zip(call.output_shapes, call.output_dtypes, strict=True)]


def test_every_feature_makes_a_variant_of_its_own():
    assert len({Probe.of(each) for each in DIFFERENT.values()}) == len(DIFFERENT)
    assert Probe.of(request(lk=39)) == Probe.of(request(lk=40)), "a length that needs no other kernel is no variant"
    many, more = (request(lq=1, lk=n, batch=1) for n in (4000, 8000))
    assert Probe.of(many) == Probe.of(more)


def test_what_makes_a_variant_makes_another_signature():
    """Answers are remembered by signature: one that left out a feature would hand on the answer of another kernel."""
    assert len({each.signature for each in DIFFERENT.values()}) == len(DIFFERENT)
    again = request()
    assert again.signature == BASE.signature and again.q is not BASE.q


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_probe_is_the_variant_that_it_stands_for(name):
    """The random call of a check compiles the kernels that the real call will."""

    def compiled(asked, tile=None):
        calls = []
        selfcheck.fused(asked, lambda call: calls.append(call) or zeros(call), tile)
        return [(c.variant, c.template, c.threadgroup, c.output_dtypes, c.inputs[-2].tolist()[:2]) for c in calls]

    probe = Probe.of(DIFFERENT[name])
    drawn, _ = selfcheck._draw(probe)
    real, check = compiled(DIFFERENT[name]), compiled(drawn, probe.tile)
    for mine, right in zip(check, real, strict=True):
        assert mine[:4] == right[:4]
    assert (check[0][4][0], check[0][4][1] > 0) == (real[0][4][0], real[0][4][1] > 0), "causal order, window"


def test_kernels_that_are_wrong_are_off_with_one_line_for_each_variant(as_metal, caplog):
    as_metal(zeros)
    with caplog.at_level(logging.WARNING, logger="rave_mlx.attention"):
        for _ in range(2):
            assert choose_path(BASE) == "chunked"
            assert choose_path(HALF) == "chunked"
    expected = [
        f"a fused attention kernel is off (prefill, {dtype}, width 64, tanh gate of 16, causal mask): it is wrong on "
        "this machine (relative error of the output 1.0e+00, log-sum-exp 1.0e+00)"
        for dtype in ("float32", "float16")
    ]
    assert [r.getMessage() for r in caplog.records] == expected


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_results_that_are_no_numbers_are_wrong(number):
    def run(call):
        return [mx.full(s, number, d) for s, d in zip(call.output_shapes, call.output_dtypes, strict=True)]

    assert self_check(run, BASE).startswith("it is wrong on this machine")


FAILURES = [
    RuntimeError("[metal::Device] Unable to build metal library\nprogram_source:1:1: error"),
    ValueError("[metal_kernel] No Metal back-end."),
    TypeError("__call__(): incompatible function arguments"),
    FileNotFoundError("common.metal"),
    RuntimeError(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: type(f).__name__)
def test_whatever_a_launch_raises_costs_one_line_and_not_the_answer(as_metal, caplog, failure):
    right = np.array(attend(BASE.q, BASE.k, BASE.v, scale=0.125, mask="causal", gate=BASE.gate, path="reference"))

    def run(call):
        raise failure

    as_metal(run)
    with caplog.at_level(logging.WARNING, logger="rave_mlx.attention"):
        for _ in range(2):
            assert relative(attend(BASE.q, BASE.k, BASE.v, scale=0.125, mask="causal", gate=BASE.gate), right) < 1e-6
    (record,) = caplog.records
    word = str(failure).splitlines()[0] if str(failure) else "RuntimeError"
    assert record.getMessage().endswith(f"causal mask): it cannot run on this machine ({word})")
    with pytest.raises(ValueError, match="the fused kernel cannot compute this call: it cannot run on this machine"):
        attend(BASE.q, BASE.k, BASE.v, scale=0.125, mask="causal", gate=BASE.gate, path="kernel")


@pytest.mark.skipif(backend.prepare().kind != "cpu", reason="about machines without a GPU")
def test_a_machine_that_says_it_has_metal_and_does_not(monkeypatch, caplog):
    """MLX's own refusal is what the check meets."""
    found = replace(backend.current(), kind="metal")
    monkeypatch.setattr(backend, "current", lambda: found)
    with caplog.at_level(logging.WARNING, logger="rave_mlx.attention"):
        assert choose_path(BASE) == "chunked"
        assert choose_path(BASE) == "chunked"
    (record,) = caplog.records
    assert record.getMessage().endswith("it cannot run on this machine ([metal_kernel] No Metal back-end.)")


def test_masses_and_quantized_keys_fall_back_too(as_metal):
    kinds = mx.array(np.arange(80).reshape(2, 40) % 3).astype(mx.uint8)
    few = request(lq=2)
    arguments = {"scale": 0.125, "mask": "causal", "gate": few.gate}
    right = np.array(attend(few.q, few.k, few.v, **arguments, path="reference"))
    k, v = quantized(few.k, 8), quantized(few.v, 8)
    plain = [mx.dequantize(x.codes, x.scales, x.biases, 32, 8) for x in (k, v)]
    packed = np.array(attend(few.q, *plain, **arguments, path="reference"))
    as_metal(zeros)
    out, mass = attend_with_mass(few.q, few.k, few.v, kinds=kinds, num_kinds=3, **arguments)
    assert relative(out, right) < 1e-6
    assert np.allclose(np.array(mass).sum(-1), 1, atol=1e-5)
    assert relative(attend_packed(few.q, k, v, **arguments), packed) < 2e-6


def test_a_check_inside_a_traced_function(as_metal):
    """The first call may come while MLX traces: the check computes with arrays of its own."""
    as_metal(zeros)

    def loss(q):
        return mx.sum(attend(q, BASE.k, BASE.v, scale=0.125, mask="causal", gate=BASE.gate))

    traced = mx.compile(mx.grad(loss))(BASE.q)
    right = mx.grad(lambda q: mx.sum(attend(q, BASE.k, BASE.v, scale=0.125, mask="causal", gate=BASE.gate,
                                            path="reference")))(BASE.q)  # fmt: skip
    assert relative(traced, right) < 5e-6
