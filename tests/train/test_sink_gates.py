"""Sink gates (LSG, arXiv 2604.03316): the formula in float64 NumPy, ways of reading, training, files and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from math import erf

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from command import rave
from families import cases, write_checkpoint
from mlx.utils import tree_flatten
from support import ask, picture, relative, tiny_config, tiny_model
from training import LORA, config, write_data, write_model

import rave_mlx
from rave_mlx.checkpoint import adapters
from rave_mlx.checkpoint.adapters import with_sink_gates
from rave_mlx.config import GateConfig, SinkGateConfig
from rave_mlx.convert.adapters import export_peft
from rave_mlx.convert.exporting import export
from rave_mlx.convert.fusing import fuse
from rave_mlx.errors import ConfigError, ModelError, UsageError
from rave_mlx.generation.decode import continued, step
from rave_mlx.generation.prefill import prefill, reuse
from rave_mlx.inputs.prompt.message import Role
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.models.lmm import LMM
from rave_mlx.models.sink_gate import VisualGroups, outliers
from rave_mlx.policies.methods.debias import Debias
from rave_mlx.policies.methods.visiondrop import VisionDrop
from rave_mlx.policies.runtime import attach
from rave_mlx.policies.sink_tokens import _Recorder
from rave_mlx.train.batch import collate
from rave_mlx.train.example import make_example
from rave_mlx.train.forward import hidden_states
from rave_mlx.train.loss import loss
from rave_mlx.train.parameters import prepare
from rave_mlx.train.run import run
from rave_mlx.train.sink_gate_report import sink_gate_report

EXACT = 3e-6
SETTING = SinkGateConfig((1, 2), width=8, outlier=1.1)
"""Random features differ little in norm: about a third of them reach 1.1 medians."""


def gated(gate: GateConfig | None = None) -> LMM:
    """The tiny model with sink gates that differ much from token to token."""
    lmm = with_sink_gates(tiny_model(gate), SETTING, None)
    rng = np.random.default_rng(5)
    for sink_gate in lmm.decoder.sink_gates.values():
        for name, x in tree_flatten(sink_gate.parameters()):
            sink_gate.load_weights([(name, mx.array(rng.normal(0, 0.6, x.shape).astype(np.float32)))], strict=False)
    return lmm


@pytest.fixture(scope="module")
def lmm():
    return gated()


@pytest.fixture(scope="module")
def prompts(lmm):
    return [
        lmm.prepare([ask("What is the total?", picture(56, 40))]),
        lmm.prepare([ask("And what is the name on the second page of these?", picture(40, 48, 1), picture(24, 64, 2))]),
    ]


# The formula


def shares(gate, h):
    """The paper's formula for one state, in float64."""
    w = {name: np.array(x, np.float64) for name, x in tree_flatten(gate.parameters())}
    y = w["fc1.weight"] @ h + w["fc1.bias"]
    y = (y - y.mean()) / np.sqrt(y.var() + 1e-5) * w["norm.weight"] + w["norm.bias"]
    y = np.array([v * (1 + erf(v / 2**0.5)) / 2 for v in y])
    z = w["fc2.weight"] @ y + w["fc2.bias"]
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def test_keys_of_visual_tokens_are_scaled_by_what_the_last_token_says(lmm, prompts):
    for prompt in prompts:
        recorder = _Recorder()
        run_ = attach(lmm, [recorder])
        cache, plain = lmm.make_cache(hooks=run_), lmm.make_cache(gate=False)
        for each in (cache, plain):
            prefill(lmm, prompt, each)
        tokens, x = prompt.token_map, np.array(run_.state(recorder, 0)["input"], np.float64)[0]
        norms, sink = np.linalg.norm(x, axis=1), np.zeros(len(prompt), bool)
        for image in range(len(prompt.images)):
            own = tokens.image == image
            sink[own] = norms[own] >= 1.1 * np.median(norms[own])
        assert 0 < sink.sum() < tokens.visual.sum() / 2
        last = np.array(run_.state(recorder, 1)["input"], np.float64)[0, -1]
        rho = shares(lmm.decoder.sink_gates[1], last)
        expected = np.where(sink, rho[0], np.where(tokens.visual, rho[1], 1.0))
        # Layer 1 reads what no gate has touched: its keys are those of the model without, scaled.
        found = np.array(cache.layers[1].first(len(prompt))[0] / plain.layers[1].first(len(prompt))[0])
        np.testing.assert_allclose(found, np.broadcast_to(expected[:, None], found.shape), rtol=2e-4)
        assert abs(rho[0] - 0.5) > 0.02
        figures = sink_gate_report(lmm, [prompt, lmm.prepare([ask("Hello")])])
        assert [row.layer for row in figures] == [1, 2]
        assert (figures[0].sink, figures[0].rest) == pytest.approx((rho[0], rho[1]), rel=1e-4)
        assert figures[0].sinks == pytest.approx(sink.sum() / tokens.visual.sum())


def test_a_fresh_gate_halves_every_visual_key_and_has_the_published_size():
    lmm = with_sink_gates(tiny_model(), SinkGateConfig((2,)), None)
    gate = lmm.decoder.sink_gates[2]
    assert np.array(gate.shares(mx.random.normal((5, 48)))).tolist() == [[0.5, 0.5]] * 5
    sizes = sum(x.size for _, x in tree_flatten(gate.parameters()))
    # "about 262 K" at a hidden size of 4096.
    assert sizes + (4096 - 48) * 64 == 262_466


def test_outliers_are_counted_in_medians_of_their_own_image():
    x = np.ones((1, 7, 4), np.float32)
    x[0, :, 0] = [9, 1, 1, 2, 10, 10, 30]
    image = np.array([[-1, 0, 0, 0, 1, 1, 1]], np.int32)
    norms = np.linalg.norm(x[0], axis=1)
    assert norms[3] / np.median(norms[1:4]) < 1.5 < norms[6] / np.median(norms[4:])
    assert np.array(outliers(mx.array(x), image, 1.5)).tolist() == [[False] * 6 + [True]]
    assert np.array(outliers(mx.array(x), image, 1.3)).tolist() == [[False] * 3 + [True] + [False] * 2 + [True]]


# Ways of reading


def test_without_gates_it_is_the_base_model_to_the_bit(lmm, prompts):
    base = tiny_model()
    assert mx.array_equal(lmm.logits(prompts, gate=False), base.logits(prompts))
    assert relative(lmm.logits(prompts[0]), base.logits(prompts[0])) > 1e-2
    text = lmm.prepare([ask("Hello")])
    assert mx.array_equal(lmm.logits(text), base.logits(text))


@pytest.mark.parametrize("gate", [None, GateConfig(rank=4, kv_groups=0.5)], ids=["base", "gated"])
def test_chunks_batches_and_written_tokens_give_what_a_whole_reading_gives(prompts, gate):
    lmm = gated(gate)
    together = lmm.logits(prompts)
    answer = [40, 90, 133]
    for row, prompt in zip(together, prompts, strict=True):
        whole = lmm.logits(prompt)[0]
        assert relative(row[-len(prompt) :], whole) < EXACT
        cache = lmm.make_cache()
        assert relative(prefill(lmm, prompt, cache, chunk=3)[0], whole[-1]) < EXACT
        for place, token in enumerate(answer):
            written = step(lmm, cache, mx.array([token]), prompt.token_map.next_position + place)
        assert relative(written, lmm.logits(continued(prompt, answer))[:, -1]) < EXACT


def test_a_turn_that_shows_no_image_goes_on_from_what_was_read(lmm):
    first = [ask("What is the total?", picture(56, 40))]
    cache = lmm.make_cache()
    prompt = lmm.prepare(first)
    prefill(lmm, prompt, cache)
    turns = [*first, {"role": "assistant", "content": "12"}, ask("And the name?")]
    following = lmm.prepare(turns)
    assert reuse(cache, prompt, following) == len(prompt)
    assert relative(prefill(lmm, following, cache), lmm.logits(following)[:, -1]) < EXACT
    # With another question the image's keys are other ones.
    other = lmm.prepare([ask("What is the date?", picture(56, 40))])
    assert reuse(cache, following, other) == int(np.flatnonzero(other.token_map.visual)[0])
    assert relative(prefill(lmm, other, cache), lmm.logits(other)[:, -1]) < EXACT


def test_several_turns_with_images_are_read_as_they_were_written(lmm):
    turns = [
        ask("What is the total?", picture(56, 40)),
        {"role": "assistant", "content": "12"},
        ask("And here?", picture(40, 48, 1)),
    ]
    prompt = lmm.prepare(turns)
    readers = prompt.token_map.reader
    answer = int(np.flatnonzero(prompt.token_map.role == Role.ASSISTANT)[0])
    visual = [np.flatnonzero(prompt.token_map.image == i) for i in (0, 1)]
    assert set(readers[visual[0]]) == {answer - 1}
    assert answer == len(lmm.prepare(turns[:1]))
    assert set(readers[visual[1]]) == {len(prompt) - 1}
    whole = lmm.logits(prompt)
    assert relative(lmm.logits(lmm.prepare(turns[:1])), whole[:, :answer]) < EXACT
    assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=8), whole[:, -1]) < EXACT


def test_what_pruning_leaves_is_scaled_as_before(lmm, prompts):
    """All that is dropped after layer 0 is what layers 1 and 2 would have hidden; the scales stay."""
    index = mx.array([[0, 3, 4, 6]])
    groups = VisualGroups(mx.array([[0, 6, 6, 4, 4, 5, 6]]), mx.arange(7)[None] % 3 == 0, mx.arange(7)[None] < 4)
    taken = groups.taken(index)
    assert np.array(taken.reader)[0].tolist() == [0, 2, 2, 3]
    assert np.array(taken.sink)[0].tolist() == [True, True, False, True]
    assert np.array(taken.visual)[0].tolist() == [True, True, False, False]
    prompt = prompts[0]
    policy = Debias(keep=prompt.visual_tokens - 1, after=0, of=3)
    cache = lmm.make_cache(hooks=attach(lmm, [policy]))
    plain = lmm.make_cache(gate=False, hooks=attach(lmm, [policy]))
    for each in (cache, plain):
        prefill(lmm, prompt, each)
    ratio = np.array(cache.layers[1].arrays[0] / plain.layers[1].arrays[0])[0, 0, : len(prompt) - 1, 0]
    assert len(set(ratio[ratio < 0.99].round(4))) == 2


def test_answers_that_are_written_together_are_those_written_alone(lmm):
    page = picture(56, 40)
    asked = [[ask("What is the total?", page)], [ask("And the date?", page)], [ask("Hello, how are you today?")]]
    alone = [rave_mlx.generate(lmm, each, max_tokens=5) for each in asked]
    assert rave_mlx.generate(lmm, asked, max_tokens=5) == alone
    assert rave_mlx.generate(lmm, asked[0], max_tokens=5, policy="none") != alone[0]


def test_visiondrop_is_refused(lmm):
    with pytest.raises(UsageError, match="visiondrop: this model has sink gates"):
        attach(lmm, [VisionDrop()])


# Training


@pytest.fixture(scope="module")
def examples(lmm):
    rows = [
        [ask("Total?", picture(56, 40)), {"role": "assistant", "content": "12.5"}],
        [
            ask("Name?", picture(40, 48, 1)),
            {"role": "assistant", "content": "IO"},
            ask("And here, what is it?", picture(24, 64, 2)),
            {"role": "assistant", "content": "No"},
        ],
    ]
    image = lmm.config.image
    return [make_example(lmm, read_messages(turns, image), str(place)) for place, turns in enumerate(rows)]


def test_training_computes_what_answers_are_computed_with(lmm, examples):
    batch = collate(examples)
    states = hidden_states(lmm, batch)
    for row, example in zip(states, examples, strict=True):
        expected = lmm.logits(example.prompt)[0]
        assert relative(lmm.decoder.logits(row[None, : len(example)])[0], expected) < EXACT


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_are_those_of_differences(examples, checkpoint):
    lmm, batch = gated(), collate(examples)
    lmm.freeze()
    gate = lmm.decoder.sink_gates[1]
    gate.unfreeze()
    value = nn.value_and_grad(lmm, lambda: loss(lmm, batch, checkpoint=checkpoint)[0])
    found = dict(tree_flatten(value()[1]))
    for leaf, place in (("fc2.bias", (1,)), ("fc1.weight", (3, 7)), ("norm.weight", (2,))):
        x = dict(tree_flatten(gate.parameters()))[leaf]
        values = []
        for move in (0.02, -0.02):
            moved = np.array(x)
            moved[place] += move
            gate.load_weights([(leaf, mx.array(moved))], strict=False)
            values.append(float(loss(lmm, batch)[0].item()))
        gate.load_weights([(leaf, x)], strict=False)
        slope = (values[0] - values[1]) / 0.04
        assert abs(slope) > 1e-3
        assert float(found[f"decoder.layers.1.sink_gate.{leaf}"][place].item()) == pytest.approx(slope, rel=0.03)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint with the configuration that exports need."""
    return write_checkpoint(cases()["qwen2_5_vl"], tmp_path_factory.mktemp("base") / "hf")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("run")
    data = write_data(folder / "data", train=4, valid=2)
    settings = config(steps=3, gates=False, adapter=None, sink_gates="auto", outlier=1.5, learning_rate=1e-2)
    run(rave_mlx.load(base), data, folder / "out", settings)
    return folder / "out"


def test_only_the_gates_train_and_an_adapter_brings_them(trained, base):
    weights = adapters.read_weights(trained)
    layer = json.loads((trained / "adapter_config.json").read_text())["sink_gate"]["layers"]
    assert {name.partition(".sink_gate.")[0] for name in weights} == {f"decoder.layers.{i}" for i in layer}
    assert float(mx.abs(weights[f"decoder.layers.{layer[0]}.sink_gate.fc2.weight"]).max()) > 0
    plain, adapted = rave_mlx.load(base), rave_mlx.load(base, adapter=trained)
    assert adapted.config.sink_gate == SinkGateConfig(tuple(layer), outlier=1.5)
    prompt = adapted.prepare([ask("Total?", picture())])
    assert relative(adapted.logits(prompt), plain.logits(prompt)) > 1e-3
    assert mx.array_equal(adapted.logits(prompt, gate=False), plain.logits(prompt))
    assert "sink gates in 1" in repr(adapted)
    (figures,) = json.loads((trained / "sink_gates.json").read_text())
    assert figures["layer"] == layer[0]
    assert figures["sink"] + figures["rest"] == pytest.approx(1)


def test_fusing_keeps_the_gates_and_exports_refuse_them(trained, base, tmp_path):
    with pytest.raises(ModelError, match="has sink gates \\(LSG\\), which peft has no place for"):
        export_peft(trained, base, tmp_path / "peft")
    fused = fuse(base, trained, tmp_path / "fused")
    lmm, adapted = rave_mlx.load(fused), rave_mlx.load(base, adapter=trained)
    prompt = lmm.prepare([ask("Total?", picture())])
    assert relative(lmm.logits(prompt), adapted.logits(prompt)) < EXACT
    with pytest.raises(ModelError, match="has sink gates \\(LSG\\), which transformers' qwen2_5_vl does not have"):
        export(fused, tmp_path / "exported")


def test_sink_gates_train_beside_pair_gates_and_low_rank_updates():
    lmm, adapter = prepare(tiny_model(), config(adapter=LORA, sink_gates=(2,), rates={"gate": 1e-3}))
    groups = {name.split(".")[3] for name, _ in tree_flatten(lmm.trainable_parameters())}
    assert groups == {"attention", "mlp", "sink_gate"}
    assert adapter.gate is not None
    assert adapter.sink_gate == SinkGateConfig((2,))


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--sink-gates: layer 0 takes none; there are 1, 2"):
        prepare(tiny_model(), config(sink_gates=(0, 1)))
    with pytest.raises(UsageError, match="has sink gates before layers 1, 2 and --sink-norm 1.1"):
        prepare(gated(), config(sink_gates=(1,)))
    with pytest.raises(ConfigError, match=r"sink_gate.layers \[7\]: the model's layers with .* are 0, 1, 2"):
        replace(tiny_config(), sink_gate=SinkGateConfig((7,)))
    with pytest.raises(ConfigError, match="from 1"):
        SinkGateConfig((0,))
    with pytest.raises(ConfigError, match="each layer once, in ascending order"):
        SinkGateConfig((2, 1))
    folder = write_model(tmp_path / "model")
    text = replace(
        tiny_config(), vision=None, connector=None, image=None, tokens=replace(tiny_config().tokens, image=None)
    )
    with pytest.raises(ConfigError, match="reads text only and has no visual keys"):
        replace(text, sink_gate=SinkGateConfig((1,)))
    done = rave("train", "--data", "d", "--out", str(tmp_path / "o"), "--model", str(folder), "--sink-gates", "1;2")
    assert done.returncode
    assert "--sink-gates 1;2: give auto, or layers like 3,7,11" in done.stderr
