"""A small model whose decoder attends through the kernels: the path from a prompt to a launch, caches included."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from runner import runner
from support import ask, picture, relative, tiny_model

from rave_mlx import backend
from rave_mlx.attention.kernels import launch as launching
from rave_mlx.config import GateConfig, RopeConfig
from rave_mlx.generation.decode import step
from rave_mlx.generation.job import Job
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.prefix_store import fork
from rave_mlx.generation.scheduler import Scheduler

SHAPE = {"head_dim": 64, "rope": RopeConfig(theta=10000.0, sections=(8, 12, 12))}
GATES = {
    "half": GateConfig(rank=6, kv_groups=0.5),
    "all, boost": GateConfig(rank=14, kv_groups=1.0, squash="boost"),
    "none": None,
}


@pytest.fixture
def kernels(monkeypatch):
    """Launches go to the emulator where there is no GPU."""
    calls = []

    def run(call):
        packed = f" of {call.variant.bits} bits" if call.variant.bits else ""
        calls.append(call.variant.name + " of raw queries" * call.variant.raw + packed)
        return runner()(call)

    monkeypatch.setattr(launching, "_runner", lambda: run)
    return calls


def prompts(lmm):
    long = [ask("What is the total of the second column?", picture(96, 64))]
    return [lmm.prepare(long), lmm.prepare([ask("Date?", picture(48, 48, seed=1))])]


@pytest.mark.parametrize("gate", GATES)
def test_a_model_gives_the_logits_of_the_reference_path(gate, kernels):
    lmm = tiny_model(GATES[gate], **SHAPE)
    prompt = prompts(lmm)[0]
    right = np.array(lmm.logits(prompt, path="reference"))
    assert relative(lmm.logits(prompt, path="kernel"), right) < 1e-5
    assert set(kernels) == {"prefill"}


def test_prefill_in_chunks_and_decode_equal_one_pass(kernels):
    lmm = tiny_model(GATES["half"], **SHAPE)
    prompt = prompts(lmm)[0]
    whole = np.array(lmm.logits(prompt, path="reference"))[0]
    cache = lmm.make_cache()
    assert relative(prefill(lmm, prompt, cache, chunk=23, path="kernel")[0], whole[-1]) < 1e-5
    cache.trim(len(prompt) - 3)
    for i in range(len(prompt) - 3, len(prompt)):
        position = int(prompt.token_map.positions[0, i])
        logits = step(lmm, cache, mx.array(prompt.ids[0, i : i + 1]), position, path="kernel")
        assert relative(logits[0], whole[i]) < 1e-5
    assert {name.split()[0] for name in kernels} == {"prefill", "decode"}


def test_a_left_padded_batch_equals_batches_of_one(kernels):
    lmm = tiny_model(GATES["half"], **SHAPE)
    batch = prompts(lmm)
    together = np.array(lmm.logits(batch, path="kernel"))
    for prompt, row in zip(batch, together, strict=True):
        assert relative(row[-len(prompt) :], np.array(lmm.logits(prompt, path="reference"))[0]) < 1e-5
    assert set(kernels) == {"prefill"}


@pytest.fixture
def as_metal(kernels, monkeypatch):
    """Every decision as on a Mac; what is decided is computed here, `mx.fast` functions by their parts."""
    metal = replace(backend.current(), kind="metal", binding=None)
    monkeypatch.setattr(backend, "current", lambda: metal)
    monkeypatch.setattr(launching, "self_check", lambda run, request: None)
    monkeypatch.setattr(launching, "_answers", {})
    return kernels


@pytest.mark.skipif(mx.metal.is_available(), reason="compares with the ways of a CPU")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gate", ["half", "none"])
def test_the_ways_of_a_gpu_give_the_logits_of_a_cpu(gate, bias, request):
    lmm = tiny_model(GATES[gate], **SHAPE, qkv_bias=bias)
    prompt = prompts(lmm)[0]

    def written() -> list[np.ndarray]:
        cache = lmm.make_cache()
        logits = [prefill(lmm, prompt, cache)]
        for i in range(3):
            logits.append(step(lmm, cache, mx.array([9 + i]), prompt.token_map.next_position + i))
        return [np.array(x)[0] for x in logits]

    right = written()
    kernels = request.getfixturevalue("as_metal")
    for found, expected in zip(written(), right, strict=True):
        assert relative(mx.array(found), expected) < 1e-5
    assert all(layer.attention._joined and layer.mlp._joined for layer in lmm.decoder.layers)
    assert set(kernels) == ({"prefill", "decode of raw queries"} if gate == "half" else set())


@pytest.mark.skipif(mx.metal.is_available(), reason="compares with the ways of a CPU")
def test_a_batch_with_holes_written_in_the_ways_of_a_gpu(request):
    lmm = tiny_model(GATES["half"], **SHAPE)
    jobs = [Job(prompt, 5) for prompt in prompts(lmm)]
    alone = [next(Scheduler(lmm).run([job])).ids for job in jobs]
    request.getfixturevalue("as_metal")
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: 0)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 1 << 34})
    assert [answer.ids for answer in Scheduler(lmm).run(jobs)] == alone


@pytest.mark.skipif(mx.metal.is_available(), reason="compares with the ways of a CPU")
@pytest.mark.parametrize(("gate", "bits"), [("half", 8), ("none", 4)])
def test_packed_keys_are_read_as_they_are(gate, bits, request):
    """By every written token, with and without gates; a CPU expands them first."""
    lmm = tiny_model(GATES[gate], **SHAPE)
    lmm.kv_bits = bits
    prompt = prompts(lmm)[0]

    read = lmm.make_cache()
    prefill(lmm, prompt, read)

    def written() -> list[np.ndarray]:
        # From the same codes: read twice, a number on the border of two could take the other one by rounding.
        cache, start = fork(read, read.length), prompt.token_map.next_position
        return [np.array(step(lmm, cache, mx.array([9 + i]), start + i))[0] for i in range(3)]

    right = written()
    kernels = request.getfixturevalue("as_metal")
    for found, expected in zip(written(), right, strict=True):
        assert relative(mx.array(found), expected) < 1e-4
    assert kernels.count(f"decode of {bits} bits") == 3 * lmm.config.text.num_layers
