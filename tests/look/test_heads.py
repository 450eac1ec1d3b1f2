"""Sinks, dormant heads and gates of heads: against the attention matrix of a whole pass in float64, and on a tiny
Qwen3.5, whose output gate is recomputed from its checkpoint's tensors."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from families import cases, write_checkpoint
from policy_watch import Watch, layers_of
from support import HYBRID, ask, picture, relative, tiny_model

import rave_mlx
from rave_mlx.checkpoint.adapters import with_gates, with_sink_gates
from rave_mlx.config import GateConfig, SinkGateConfig
from rave_mlx.errors import PromptError
from rave_mlx.generation.prefill import prefill
from rave_mlx.look import head_figures, head_table
from rave_mlx.policies.runtime import attach
from rave_mlx.policies.sink_observers import BlockInputs, FirstToken, VisualSinks, dormancy, visual_sinks

DIMS = (3, 14, 30)
QUESTION = "What is the total?"


@pytest.fixture(scope="module")
def lmm():
    return tiny_model()


@pytest.fixture(scope="module")
def prompt(lmm):
    return lmm.prepare([ask(QUESTION, picture(56, 40))])


def test_sinks_and_first_tokens_are_those_of_the_weights(lmm, prompt):
    sinks, first, inputs = VisualSinks(DIMS, tau=2.2, rho=0.6, min_visual=0.1), FirstToken(), BlockInputs()
    run = attach(lmm, [sinks, first, inputs, Watch()])
    mx.eval(lmm.logits(prompt, hooks=run))
    visual = prompt.token_map.visual
    rows = np.flatnonzero(~visual & (np.arange(len(prompt)) > np.flatnonzero(visual)[0]))
    layers = layers_of(run)
    counted = 0
    for index, (seen, dormant) in enumerate(zip(visual_sinks(run, sinks), dormancy(run, first), strict=True)):
        x = np.array(run.state(inputs, index)["input"], np.float64)[0]
        values = np.abs(x[:, DIMS]).max(1) / np.sqrt((x**2).mean(1))
        own = visual & (values >= 2.2)
        assert list(seen.tokens) == np.flatnonzero(own).tolist()
        weights, v = layers[index].plain, layers[index].v
        on_sinks, on_image = weights[:, rows][:, :, own].sum(-1), weights[:, rows][:, :, visual].sum(-1)
        np.testing.assert_allclose(seen.sink, on_sinks.mean(1), atol=2e-6)
        np.testing.assert_allclose(seen.image, on_image.mean(1), atol=2e-6)
        centric = (on_image >= 0.1) & (on_image - on_sinks >= 0.6 * on_image)
        np.testing.assert_allclose(seen.centric, centric.mean(1), atol=1e-6)
        assert 0 < centric.mean() < 1
        np.testing.assert_allclose(dormant.first, weights[:, 1:, 0].mean(1), atol=2e-6)
        norms = np.linalg.norm(v[::2], axis=-1)
        np.testing.assert_allclose(dormant.value, norms[:, 0] / np.median(norms[:, 1:], axis=1), rtol=1e-5)
        counted += own.sum()
    assert counted
    assert dormant.dormant(float(np.sort(dormant.first)[1])).sum() == 2


def test_reading_in_chunks_and_watching_change_nothing(lmm, prompt):
    policies = [VisualSinks(DIMS, tau=2.2), FirstToken()]
    whole, parts = attach(lmm, policies), attach(lmm, policies)
    plain = lmm.logits(prompt)
    assert relative(lmm.logits(prompt, hooks=whole), plain) < 3e-6
    assert relative(prefill(lmm, prompt, lmm.make_cache(hooks=parts), chunk=7), plain[:, -1]) < 3e-6
    for a, b in zip(visual_sinks(whole, policies[0]), visual_sinks(parts, policies[0]), strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.sink, b.sink, atol=1e-6)
    for c, d in zip(dormancy(whole, policies[1]), dormancy(parts, policies[1]), strict=True):
        np.testing.assert_allclose(c.first, d.first, atol=1e-6)


def test_the_output_gate_of_qwen3_5_stands_beside_the_pair_gates_bias(tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()["qwen3_5"], tmp_path / "hf"))
    gate = GateConfig(rank=2, kv_groups=(0,))
    lmm = with_gates(lmm, gate, tmp_path)
    rng = np.random.default_rng(3)
    for each in lmm.decoder.gates:
        for name in ("a", "beta", "W", "c"):
            each[name] = mx.array(rng.normal(0, 0.5, each[name].shape).astype(np.float32))
    messages = [ask(QUESTION, picture(100, 60))]
    figures = head_figures(lmm, messages, policy="rave")
    prompt = lmm.prepare(messages)
    inputs = BlockInputs()
    run = attach(lmm, [inputs])
    mx.eval(lmm.logits(prompt, gate=True, hooks=run))
    visual = np.flatnonzero(prompt.token_map.visual)
    after, offset = visual[-1] + 1, float(lmm.config.text.offset_norms)
    for place, layer in enumerate(run.layers):
        block = lmm.decoder.layers[layer]
        x = np.array(run.state(inputs, place)["input"], np.float64)[0]
        norm = offset + np.array(block.input_norm.weight, np.float64)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + lmm.config.text.norm_eps) * norm
        heads, width = lmm.config.text.num_heads, lmm.config.text.head_dim
        both = (x @ np.array(block.attention.q_proj.weight, np.float64).T).reshape(len(x), heads, 2 * width)
        opened = 1 / (1 + np.exp(-both[after:, :, width:]))
        np.testing.assert_allclose(figures[place].output_gate, opened.mean((0, 2)), rtol=1e-5)
        bias = figures[place].bias
        ratio = heads // lmm.config.text.num_kv_heads
        assert np.isfinite(bias[:ratio]).all()
        assert np.isnan(bias[ratio:]).all() or ratio == heads
        q = both[after:, 0, :width]
        q = (
            q
            / np.sqrt((q**2).mean(-1, keepdims=True) + 1e-6)
            * (offset + np.array(block.attention.q_norm.weight, np.float64))
        )
        k = (x @ np.array(block.attention.k_proj.weight, np.float64).T).reshape(len(x), -1, width)[visual, 0]
        k = (
            k
            / np.sqrt((k**2).mean(-1, keepdims=True) + 1e-6)
            * (offset + np.array(block.attention.k_norm.weight, np.float64))
        )
        q, k = (y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) for y in (q, k))
        w = {name: np.array(block.attention.gate[name], np.float64) for name in ("U", "a", "beta", "W", "c")}
        pairs = (
            (q @ w["U"][0].T) @ (k @ w["W"][0].T).T / 2**0.5 + (q @ w["a"][0])[:, None] + k @ w["c"][0] + w["beta"][0]
        )
        np.testing.assert_allclose(bias[0], (4 * np.tanh(pairs / 4)).mean(), rtol=1e-4, atol=1e-5)
    table = head_table(figures).splitlines()
    start = next(i for i, line in enumerate(table) if "gate" in line and "head" in line)
    assert table[start + 1].split()[:3] == ["0", "output", "gate"]
    assert table[start + 2].split()[:4] == ["0", "pair", "gate's", "bias"]
    assert f"{figures[0].output_gate[0]:.2f}" in table[start + 1]
    assert f"{figures[0].bias[0]:+.2f}" in table[start + 2]


def test_models_without_gates_show_none(lmm):
    figures = head_figures(lmm, [ask(QUESTION, picture(56, 40))])
    assert [row.output_gate for row in figures] == [row.bias for row in figures] == [None] * 3
    table = head_table(figures)
    assert "gate" not in table
    assert table.splitlines()[0] == "layer  visual sinks  their share  image heads  dormant  value of first"
    with pytest.raises(PromptError, match="no image with a question behind it"):
        head_figures(lmm, [ask("Hello")])
    sinks = with_sink_gates(lmm, SinkGateConfig((2,), width=4), None)
    sinks.decoder.sink_gates[2].fc2.bias = mx.array([2.0**0.5, 0.0])
    figures = head_figures(sinks, [ask(QUESTION, picture(56, 40))])
    assert [row.scales is None for row in figures] == [True, True, False]
    # 1 / (1 + exp(-sqrt 2))
    assert "    2  sink gate: keys of the encoder's sinks x 0.804, of other visual tokens x 0.196" in head_table(
        figures
    )
    hybrid = tiny_model(**HYBRID)
    assert [row.layer for row in head_figures(hybrid, [ask(QUESTION, picture(56, 40))])] == [0, 1]
