"""A written token through a packed layer as one operation, against the layer's own operations on MLX's products."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from generation.writing import alone, ids_of, together
from mlx_lm.tuner.lora import LoRALinear
from packed_kernels import CPU, bound, cache_folder
from support import ask, model_rounding, picture, relative, tiny_model

from rave_mlx import backend
from rave_mlx.backend.cpu.layer_steps import LayerStep
from rave_mlx.config import GateConfig, RopeConfig
from rave_mlx.generation.decode import step
from rave_mlx.generation.job import Job
from rave_mlx.generation.prefill import prefill
from rave_mlx.models.packed_step import PackedStep

pytestmark = pytest.mark.skipif(not CPU, reason="for Linux without a GPU")
FORMS = {
    "biases": {},
    "query norms, 8 bits": {"qk_norm": True, "qkv_bias": False, "tie_embeddings": True, "bits": 8},
    "wide heads": {
        "head_dim": 32,
        "num_kv_heads": 1,
        "mlp_bias": True,
        "rope": RopeConfig(theta=10000.0, sections=(4, 6, 6)),
    },
    "gelu": {"activation": "gelu_tanh"},
    "window": {"sliding_window": 9},
}
TOKENS = 5


@pytest.fixture
def kernels(pytestconfig, monkeypatch):
    with bound(cache_folder(pytestconfig), "", monkeypatch) as found:
        yield found


@pytest.fixture
def calls(monkeypatch):
    """How often a layer was one operation."""
    made, real = [], LayerStep.__call__
    monkeypatch.setattr(LayerStep, "__call__", lambda *given: (made.append(1), real(*given))[1])
    return made


def packed_model(bits: int = 4, gate: GateConfig | None = None, **text):
    lmm = tiny_model(gate, hidden_size=64, intermediate_size=96, **text)
    nn.quantize(lmm.decoder, 32, bits)
    mx.eval(lmm.parameters())
    return lmm


def logits(lmm, tokens, **prompt) -> np.ndarray:
    """After a prompt and after each of some tokens."""
    read = lmm.prepare([ask("word " * 5, **prompt)])
    cache = lmm.make_cache()
    found = [prefill(lmm, read, cache)[0]]
    for i, token in enumerate(tokens):
        found.append(step(lmm, cache, mx.array([token]), read.token_map.next_position + i))
    return np.stack([np.array(x).reshape(-1) for x in found])


def without(kernels, call):
    """A call with MLX's own products and a layer's own operations."""
    found = backend.current
    with kernels.suspended(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "current", lambda: replace(found(), kernels=None))
        patch.setattr(PackedStep, "__call__", lambda *given: None)
        return call()


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_the_layers(kernels, calls, form):
    lmm, tokens = packed_model(**FORMS[form]), [3, 250, 17, 80, 5][:TOKENS]
    found, used = logits(lmm, tokens), len(calls)
    assert used == (0 if form in ("gelu", "window") else TOKENS * 3)
    expected = without(kernels, lambda: logits(lmm, tokens))
    assert len(calls) == used
    assert relative(found, expected) < model_rounding(lmm, 40)


def test_gates_that_act_take_the_usual_way(kernels, calls):
    lmm = packed_model(gate=GateConfig(rank=4, kv_groups=0.5, layers=(0,)))
    read = lmm.prepare([ask("word", picture(40, 40))])

    def run():
        cache = lmm.make_cache()
        prefill(lmm, read, cache)
        return np.array(step(lmm, cache, mx.array([7]), read.token_map.next_position))

    found = run()
    assert len(calls) == 2
    assert relative(found, without(kernels, run)) < model_rounding(lmm, 60)


def test_replaced_matrices_are_noticed(kernels, calls):
    """An adapter on one layer: that one takes the usual way; the other layers, and new packed weights, do not."""
    lmm = packed_model()
    before = logits(lmm, [3, 4])
    calls.clear()
    adapted = LoRALinear.from_base(lmm.decoder.layers[1].attention.v_proj, r=2)
    adapted.lora_b = mx.random.normal(adapted.lora_b.shape)
    plain, lmm.decoder.layers[1].attention.v_proj = lmm.decoder.layers[1].attention.v_proj, adapted
    found = logits(lmm, [3, 4])
    assert len(calls) == 4
    assert relative(found, without(kernels, lambda: logits(lmm, [3, 4]))) < model_rounding(lmm, 40)
    assert relative(found, before) > 0.01
    lmm.decoder.layers[1].attention.v_proj = plain
    lmm.decoder.layers[0].mlp.down_proj.scales = lmm.decoder.layers[0].mlp.down_proj.scales * 1.5
    found = logits(lmm, [3, 4])
    assert relative(found, before) > 0.01
    assert relative(found, without(kernels, lambda: logits(lmm, [3, 4]))) < model_rounding(lmm, 40)


def test_greedy_answers_alone_and_together(kernels, calls):
    """Several conversations are batches of rows, which the kernels multiply as they are."""
    lmm = packed_model()
    jobs = [Job(lmm.prepare([ask("word " * n)]), key=n, max_tokens=8) for n in range(1, 5)]
    one_by_one = [alone(lmm, job) for job in jobs]
    assert calls
    assert one_by_one == without(kernels, lambda: [alone(lmm, job) for job in jobs])
    answers = sorted(together(lmm, jobs), key=lambda answer: answer.key)
    assert ids_of(answers) == one_by_one
