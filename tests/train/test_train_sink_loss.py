"""The sink decorrelation loss: its value and gradient against float64, its denominators, its place in a run."""

from __future__ import annotations

import csv
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support import relative, tiny_model
from test_train_gradients import MODULES, ROW, Reference, model
from test_train_loss import GATE, examples
from test_train_resume import stopped
from training import LORA, config, history, result, train_cli, write_data, write_model

from rave_mlx.checkpoint.adapters import read_config
from rave_mlx.config import GateConfig, RopeConfig, RopeScaling
from rave_mlx.errors import ConfigError, UsageError
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.policies.runtime import attach
from rave_mlx.policies.sink_tokens import _Recorder
from rave_mlx.train import checkpoint
from rave_mlx.train.batch import collate
from rave_mlx.train.config import AdapterSettings, TrainConfig
from rave_mlx.train.dataset import open_dataset
from rave_mlx.train.example import make_example
from rave_mlx.train.log import read
from rave_mlx.train.loss import loss, losses
from rave_mlx.train.parameters import prepare
from rave_mlx.train.run import run
from rave_mlx.train.sink_loss import counted, squared_cosines


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def formula(states, answers):
    """The sum of squared cosines of one row, from what enters layers 1 to L - 1, in float64."""
    total = 0.0
    for x in states:
        for j in range(1, len(x)):
            if not answers[j]:
                total += (x[0] @ x[j] / (np.linalg.norm(x[0]) * np.linalg.norm(x[j]))) ** 2
    return total


class SinkReference(Reference):
    """The decoder in float64, with another loss."""

    def loss(self):
        _, *inner, _ = self.states()
        return formula(inner, self.example.loss_mask)


# Value and gradient


def test_a_numeric_example():
    x = mx.array([[[2.0, 0.0], [3.0, 3.0], [0.0, 5.0], [-4.0, 0.0], [7.0, 7.0]]])
    marks = mx.array([[False, True, True, True, False]])
    assert float(squared_cosines(x, marks)) == pytest.approx(0.5 + 0.0 + 1.0)
    assert float(squared_cosines(mx.concatenate([x, x]), mx.concatenate([marks, ~marks]))) == pytest.approx(3.0 - 0.0)


def test_states_without_a_direction_have_no_cosine():
    x, marks = mx.zeros((1, 3, 4)), mx.array([[False, True, True]])
    value, gradient = mx.value_and_grad(lambda x: squared_cosines(x, marks))(x)
    assert float(value) == 0 and mx.all(gradient == 0).item()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_against_float64_differences(kind):
    lmm = model(kind)
    example = make_example(lmm, read_messages(ROW, lmm.config.image), "")
    reference, batch = SinkReference(lmm, example), collate([example])
    assert not reference.example.loss_mask[0] and 0 < reference.example.loss_mask.sum() < len(example) - 1
    last = f"decoder.layers.{lmm.config.text.num_layers - 1}."
    for checkpointing in (False, True):
        value, grads = nn.value_and_grad(lmm, lambda m, c=checkpointing: losses(m, batch, checkpoint=c)[1])(lmm)
        assert abs(float(value) / reference.loss() - 1) < 1e-6
        found = dict(tree_flatten(grads))
        assert len(found) == 3 * 5 + len(MODULES) * (2 if kind == "lora" else 3)
        for name, grad in found.items():
            if name.startswith(last):
                assert not mx.any(grad).item(), "the last layer's output is not looked at"
                continue
            chosen, slopes = reference.gradient(name)
            assert np.linalg.norm(slopes) > 1e-6, name
            ours = np.array(grad, np.float64).reshape(-1)[chosen]
            assert np.linalg.norm(ours - slopes) <= 1e-4 * np.linalg.norm(slopes), name


def recorded(lmm, prompt):
    """What enters layers 1 to L - 1, as inference sees it."""
    recorder = _Recorder()
    cache = lmm.make_cache(gate=True, hooks=attach(lmm, (recorder,)))
    lmm.read(prompt, cache, len(prompt))
    inputs = [cache.hooks.state(recorder, i)["input"][0] for i in range(1, lmm.config.text.num_layers)]
    return [np.array(x, np.float64) for x in inputs]


@pytest.mark.parametrize("scaling", [None, RopeScaling("dynamic", factor=4.0, original_positions=60)])
def test_a_batch_is_its_rows_and_the_cross_entropy_stays(scaling):
    """Padding, several images, several turns; with dynamic frequencies rows are computed one by one."""
    lmm = tiny_model(GATE, rope=RopeConfig(theta=100.0, sections=(2, 3, 3), scaling=scaling))
    rows = examples(lmm)
    batch = collate(rows)
    entropy, sink = losses(lmm, batch)
    assert float(entropy) == float(loss(lmm, batch)[0])
    assert relative(sink, sum(formula(recorded(lmm, row.prompt), row.loss_mask) for row in rows)) < 1e-5
    padding = np.arange(batch.ids.shape[1]) >= batch.lengths[:, None]
    noise = np.where(padding, np.random.default_rng(0).integers(20, 200, batch.ids.shape), batch.ids)
    assert float(losses(lmm, replace(batch, ids=noise.astype(np.int32)))[1]) == float(sink)


def test_what_counts():
    lmm = tiny_model()
    batch = collate(examples(lmm))
    marks = counted(batch)
    assert not marks[:, 0].any() and not (marks & batch.loss_mask).any()
    assert marks.sum(axis=1).tolist() == (batch.lengths - 1 - batch.loss_mask.sum(axis=1)).tolist()


def test_its_gradient_needs_no_square_of_the_tokens():
    x = mx.random.normal((1, 4096, 64))
    marks = mx.ones((1, 4096), mx.bool_)
    mx.eval(x, marks)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.value_and_grad(lambda x: squared_cosines(x, marks))(x))
    assert mx.get_peak_memory() - before < 10 * x.nbytes < 4096 * 4096 * 4 / 6


# In a run


def sinks(out):
    return [e["sink"] for e in read(out) if "sink" in e]


def test_an_update_divides_by_the_cosines_of_all_its_micro_batches(tmp_path, data):
    runs = {}
    for name, changes in {"one": {"batch_size": 9}, "nine": {"batch_size": 1, "accumulate": 9}}.items():
        run(tiny_model(), data, tmp_path / name, config(steps=3, gates=False, sink_loss=30.0, **changes))
        runs[name] = [(e["loss"], e["sink"], e["norm"]) for e in read(tmp_path / name) if "loss" in e]
    np.testing.assert_allclose(runs["nine"], runs["one"], rtol=2e-5)
    lmm = tiny_model()
    rows = list(open_dataset(data, lmm))
    total = sum(formula(recorded(lmm, row.prompt), row.loss_mask) for row in rows)
    count = 2 * sum(len(row) - 1 - int(row.loss_mask.sum()) for row in rows)
    assert runs["one"][0][1] == pytest.approx(total / count, rel=1e-5)


def test_the_gradient_of_an_update_is_that_of_the_two_means(tmp_path, data):
    """With one more term nothing but the norm of the first gradient changes, and that as the sum of both says."""
    norms = {}
    for weight in (0.0, 40.0):
        run(tiny_model(), data, tmp_path / str(weight), config(steps=1, gates=False, batch_size=9, sink_loss=weight))
        norms[weight] = next(e["norm"] for e in read(tmp_path / str(weight)) if "norm" in e)
    lmm, _ = prepare(tiny_model(), config(gates=False))
    batch = collate(list(open_dataset(data, lmm)))
    trained, cosines = batch.count, 2 * int(counted(batch).sum())
    for weight, norm in norms.items():

        def mean(m, weight=weight):
            entropy, sink = losses(m, batch)
            return entropy / trained + weight * sink / cosines

        _, grads = nn.value_and_grad(lmm, mean)(lmm)
        expected = sum(float(mx.sum(mx.square(g))) for _, g in tree_flatten(grads)) ** 0.5
        assert norm == pytest.approx(expected, rel=1e-4)
    assert abs(norms[40.0] / norms[0.0] - 1) > 0.01


def test_it_is_logged_apart_and_validation_is_plain_cross_entropy(tmp_path, data):
    still = {"steps": 2, "learning_rate": 1e-9, "batch_size": 3}
    for weight in (0.0, 1e4):
        run(tiny_model(), data, tmp_path / str(weight), config(sink_loss=weight, **still), as_csv=True)
    plain, both = history(tmp_path / "0.0"), history(tmp_path / "10000.0")
    for key in ("loss", "valid_loss"):
        found = [[e[key] for e in entries if key in e] for entries in (plain, both)]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    assert sinks(tmp_path / "0.0") == [] and len(sinks(tmp_path / "10000.0")) == 2
    with (tmp_path / "10000.0" / "log.csv").open() as stream:
        assert [row["sink"] for row in csv.DictReader(stream)][:2] == [str(s) for s in sinks(tmp_path / "10000.0")]


def test_it_falls(tmp_path, data):
    for weight in (0.0, 20.0):
        run(tiny_model(), data, tmp_path / str(weight), config(steps=25, batch_size=9, sink_loss=weight))
    found = sinks(tmp_path / "20.0")
    assert found[-1] < 0.7 * found[0]
    entropy = [[e["loss"] for e in read(tmp_path / w) if "loss" in e] for w in ("0.0", "20.0")]
    assert entropy[0][0] == entropy[1][0] and entropy[1][-1] < 0.8 * entropy[1][0]


def test_resumes_to_the_bit(tmp_path, data):
    settings = config(
        steps=5, accumulate=2, adapter=replace(LORA, dropout=0.2), sink_loss=50.0, checkpointing=True, save_every=9
    )
    run(tiny_model(), data, tmp_path / "whole", settings)
    stopped(data, tmp_path / "parts", settings, 3)
    assert checkpoint.read(checkpoint.latest(tmp_path / "parts")).state.config.sink_loss == 50.0
    with pytest.raises(ConfigError, match=r"began with sink_loss = 50.0, now it is 0.0"):
        run(tiny_model(), data, tmp_path / "parts", replace(settings, sink_loss=0.0), resume=True)
    run(tiny_model(), data, tmp_path / "parts", settings, resume=True)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


def test_recomputing_layers_changes_nothing(tmp_path, data):
    found = []
    for again in (False, True):
        run(tiny_model(), data, tmp_path / str(again), config(steps=3, sink_loss=50.0, checkpointing=again))
        found.append([(e["loss"], e["sink"], e["norm"]) for e in read(tmp_path / str(again)) if "loss" in e])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        (GateConfig(rank=2, layers=(2,)), {"adapter": None}),
        (None, {"gates": False, "adapter": AdapterSettings(modules=("decoder.layers.2.mlp.up_proj",))}),
    ],
)
def test_a_run_that_cannot_change_what_it_looks_at_is_refused(tmp_path, data, gate, changes):
    with pytest.raises(UsageError, match=r"nothing that trains comes before the states it looks at, the inputs of lay"):
        run(tiny_model(gate), data, tmp_path / "out", config(sink_loss=1.0, **changes))
    assert not (tmp_path / "out").exists()
    run(tiny_model(gate), data, tmp_path / "out", config(steps=1, **changes))


def test_one_layer_is_too_few(tmp_path, data):
    with pytest.raises(UsageError, match="the model has one layer"):
        run(tiny_model(num_layers=1), data, tmp_path / "out", config(sink_loss=1.0))


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match=r"sink_loss must not be negative, found -1.0"):
        TrainConfig(sink_loss=-1.0)


def test_from_the_command_line(tmp_path, data):
    out = tmp_path / "out"
    done = train_cli("--data", data, "--out", out, "--model", write_model(tmp_path / "model"), "--steps", 2,
                     "--rank", 2, "--sink-loss", 100, "--eval-every", 2)  # fmt: skip
    assert f", sink {sum(sinks(out)) / 2:.4f}, lr " in done.stderr
    assert read_config(out).modules
