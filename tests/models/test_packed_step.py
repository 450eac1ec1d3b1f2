"""A written token through packed layers as one operation, against the layers' own operations on MLX's products."""

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
from rave_mlx.backend.cpu.layer_steps import LayerSteps
from rave_mlx.checkpoint.packed import keep_half_scales
from rave_mlx.config import GateConfig, RopeConfig
from rave_mlx.generation.decode import step
from rave_mlx.generation.job import Job
from rave_mlx.generation.prefill import prefill
from rave_mlx.models.packed_step import PackedSteps

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
    """A number for every layer of a token that was computed in one operation."""
    made, real = [], LayerSteps.__call__
    monkeypatch.setattr(
        LayerSteps, "__call__", lambda *given: (made.extend([1] * (len(given[2]) // 2)), real(*given))[1]
    )
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
        patch.setattr(PackedSteps, "__call__", lambda *given: None)
        return call()


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_the_layers(kernels, calls, form):
    lmm, tokens = packed_model(**FORMS[form]), [3, 250, 17, 80, 5][:TOKENS]
    found, used = logits(lmm, tokens), len(calls)
    assert used == (0 if form in ("gelu", "window") else TOKENS * 3)
    expected = without(kernels, lambda: logits(lmm, tokens))
    assert len(calls) == used
    assert relative(found, expected) < model_rounding(lmm, 40)


def test_a_cache_is_written_to_in_its_own_rows_alone(kernels, calls):
    """Forked and trimmed caches, rows that are asked for in any order, and more of them than there was room for."""
    lmm = packed_model()
    read = lmm.prepare([ask("word " * 5)])
    position = read.token_map.next_position

    def write(cache, token: int) -> mx.array:
        return step(lmm, cache, mx.array([token]), position + cache.length - len(read))

    def run() -> np.ndarray:
        found, cache = [], lmm.make_cache()
        prefill(lmm, read, cache)
        found += [write(cache, token) for token in (3, 4, 5)]
        fork = lmm.make_cache()
        fork.layers = [layer.fork(cache.length) for layer in cache.layers]
        views = [layer.append(*(x[:, :, :1] for x in layer.arrays))[0] for layer in fork.layers]
        for other in (fork, cache):
            other.trim(len(read) + 2)
        found += [write(cache, 6), write(fork, 7), write(fork, 8), write(cache, 9)]
        # The last first: what it needs of the others is computed with it.
        mx.eval(found[::-1], fork.layers[1].arrays[0], views)
        found += [view[..., 0].reshape(-1)[: lmm.config.text.vocab_size] for view in views]
        while cache.length < 258:
            logits = write(cache, cache.length % 200)
        return np.concatenate([np.array(x).reshape(-1) for x in (*found, logits)])

    found = run()
    assert len(calls) > 200 * lmm.config.text.num_layers
    assert relative(found, without(kernels, run)) < model_rounding(lmm, 60)


def test_scales_of_half_precision_stay(kernels, calls):
    """Exactly the same numbers as with scales in float32, in every product and lookup, gradients too."""
    lmm = packed_model(tie_embeddings=True)
    halves = {
        name: x.astype(mx.float16) for name, x in lmm.named_weights().items() if name.endswith(("scales", "biases"))
    }
    lmm.load_weights([(name, x.astype(mx.float32)) for name, x in halves.items()], strict=False)
    exact = logits(lmm, [3, 4])
    kept = keep_half_scales(lmm, halves)
    assert kept == halves.keys()
    lmm.load_weights(list(halves.items()), strict=False)
    calls.clear()
    np.testing.assert_array_equal(logits(lmm, [3, 4]), exact)
    assert len(calls) == 6
    layer, x = lmm.decoder.layers[0].mlp.up_proj, mx.random.normal((3, 64))
    expected = mx.ones((3, 96)) @ mx.dequantize(layer.weight, layer.scales, layer.biases, 32, 4).astype(mx.float32)
    assert relative(np.array(mx.grad(lambda x: layer(x).sum())(x)), np.array(expected)) < 1e-3
    # What multiplies with the other type takes MLX's way.
    assert relative(np.array(layer(x.astype(mx.float16)).astype(mx.float32)), np.array(layer(x))) < 1e-2
    jobs = [Job(lmm.prepare([ask("word " * n)]), key=n, max_tokens=4) for n in (1, 2)]
    assert ids_of(sorted(together(lmm, jobs), key=lambda answer: answer.key)) == [alone(lmm, job) for job in jobs]


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
