"""Which heads a gate biases: groups that are no neighbours, parameters that act alone, blocks of two rows."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from support import ask, picture, relative, tiny_model
from test_gate import draw, float64, lower_right

from rave_mlx import backend
from rave_mlx.attention import attend
from rave_mlx.attention.chunked import chunked
from rave_mlx.attention.gradient import train
from rave_mlx.config import GateConfig
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill

backend.prepare()
HEADS = {"num_heads": 8, "num_kv_heads": 4}
RATIO = 2
GROUPS = [(0, 2), (2, 0), (3, 1), (1, 3, 0), (3,)]


def scattered(groups):
    """A model with these gated groups, and one with all groups gated in which the weights of the others are zero.

    The second one's groups lie side by side in their own order, so that nothing is picked or put back.
    """
    some, every = (tiny_model(GateConfig(rank=3, kv_groups=g), **HEADS) for g in (groups, 1.0))
    for mine, theirs in zip(some.decoder.layers, every.decoder.layers, strict=True):
        for name, values in mine.attention.gate.parameters().items():
            ratio = RATIO if name in ("U", "a", "beta") else 1
            whole = np.zeros((4 * ratio, *values.shape[1:]), np.float32)
            for place, group in enumerate(groups):
                whole[group * ratio : (group + 1) * ratio] = np.array(values)[place * ratio : (place + 1) * ratio]
            theirs.attention.gate.load_weights([(name, mx.array(whole))], strict=False)
    return some, every


def prompts(lmm):
    long = [ask("What is the total of the second column?", picture(96, 64))]
    return [lmm.prepare(long), lmm.prepare([ask("Date?", picture(48, 48, seed=1))])]


@pytest.mark.parametrize("path", [None, "train", "reference"])
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_the_order_of_gated_groups_in_a_whole_model(groups, path):
    some, every = scattered(groups)
    batch = prompts(some)
    expected = np.array(every.logits(batch[0], path="reference"))
    assert relative(some.logits(batch[0], path=path), expected) < 1e-5
    assert relative(tiny_model(**HEADS).logits(batch[0]), expected) > 1e-2, "the gate does something"
    together = np.array(some.logits(batch, path=path))
    for prompt, row in zip(batch, together, strict=True):
        assert relative(row[-len(prompt) :], np.array(every.logits(prompt, path="reference"))[0]) < 1e-5


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_the_order_of_gated_groups_while_an_answer_is_written(groups):
    some, every = scattered(groups)
    prompt = prompts(some)[0]
    whole = np.array(every.logits(prompt, path="reference"))[0]
    cache = some.make_cache()
    assert relative(prefill(some, prompt, cache, chunk=13)[0], whole[-1]) < 1e-5
    cache.trim(len(prompt) - 2)
    for i in range(len(prompt) - 2, len(prompt)):
        logits = step(some, cache, mx.array(prompt.ids[0, i : i + 1]), int(prompt.token_map.positions[0, i]))
        assert relative(logits[0], whole[i]) < 1e-5


# Each parameter alone


@pytest.mark.parametrize("name", ["W", "a", "c", "beta"])
def test_a_gate_of_one_parameter_only(name):
    """A cache is made for gates that do something; one nonzero parameter in one layer is enough."""
    lmm = tiny_model(GateConfig(rank=3, kv_groups=(1,)), gate_scale=0.0)
    prompt = prompts(lmm)[0]
    base = np.array(lmm.logits(prompt))
    assert all(layer.attention.gate.is_inert for layer in lmm.decoder.layers)
    gate = lmm.decoder.layers[1].attention.gate
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(0, 1.0, gate.parameters()[name].shape), "U": rng.normal(0, 1.0, gate.U.shape)}
    gate.load_weights([(n, mx.array(x.astype(np.float32))) for n, x in drawn.items()], strict=False)
    assert not gate.is_inert
    assert lmm.make_cache().gated
    found = np.array(lmm.logits(prompt))
    assert relative(found, base) > 1e-3
    assert relative(found, lmm.logits(prompt, gate=True, path="reference")) < 1e-5


def test_a_gate_of_beta_only_is_one_number_for_every_visual_key():
    """odds of an image after = odds before * exp(limit tanh(beta / limit)), for each head, in float64."""
    q, k, v, gate = draw(5, gated=(0, 1), lq=4, lk=31)
    beta = np.array([1.5, -2.0, 0.5, 3.0])
    u = np.zeros((2, 4, 4, 16), np.float32)
    u[..., -2], w = beta[None, :, None], np.zeros((2, 2, 31, 16), np.float32)
    w[:, :, 3:22, -2] = 1
    terms = type(gate)(mx.array(u), mx.array(w), (0, 1), (3, 22), "tanh", 4.0)
    marks = mx.array(((np.arange(31) >= 3) & (np.arange(31) < 22)).astype(np.float32))
    marks = mx.broadcast_to(marks[:, None], (2, 2, 31, 1))
    before = float64(q, k, marks, scale=0.25)[..., 0]
    after = np.array(attend(q, k, marks, scale=0.25, gate=terms))[..., 0]
    factor = np.exp(4 * np.tanh(beta / 4))[None, :, None]
    np.testing.assert_allclose(after / (1 - after), before / (1 - before) * factor, rtol=2e-5)


# Blocks of two rows


@pytest.mark.parametrize("how", ["blocks", "fused blocks", "train"])
@pytest.mark.parametrize("length", [2, 3, 8])
@pytest.mark.parametrize("mask", ["causal", "boolean", None])
def test_a_query_block_of_two_rows(how, length, mask):
    """Its first row must not see what only the second may."""
    q, k, v, gate = draw(9, lq=length, lk=12, span=(3, 12), gated=(1,))
    allowed = None if mask is None else lower_right(length, 12)
    given = mx.array(allowed) if mask == "boolean" else mask
    run = train if how == "train" else chunked
    options = {} if how == "train" else {"fused": how == "fused blocks"}
    found = run(q, k, v, scale=0.25, mask=given, gate=gate, block=2, **options)
    assert relative(found, float64(q, k, v, gate, scale=0.25, allowed=allowed)) <= 2e-6


def test_a_model_that_reads_two_tokens_at_a_time():
    lmm = tiny_model(GateConfig(rank=3, kv_groups=0.5))
    prompt = prompts(lmm)[1]
    expected = np.array(lmm.logits(prompt, path="reference"))[0, -1]
    assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=2)[0], expected) < 1e-5
