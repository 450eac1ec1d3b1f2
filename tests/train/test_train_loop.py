"""The loop's arithmetic: what trains, how fast, and what a token weighs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image
from support import ask, picture, tiny_model
from training import LORA, arrays, config, history, losses, message, result, write_data, write_rows

from rave_mlx.checkpoint import adapters
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.config import GateConfig
from rave_mlx.errors import ConfigError, MemoryLimitError, ModelError, RaveError, UsageError
from rave_mlx.train.batch import collate
from rave_mlx.train.config import AdapterSettings, TrainConfig
from rave_mlx.train.curve import draw_curve, nice, smoothed
from rave_mlx.train.dataset import open_dataset
from rave_mlx.train.gate_report import gate_report
from rave_mlx.train.log import Log, read
from rave_mlx.train.loss import loss
from rave_mlx.train.memory import Estimate, check, estimate, remedy
from rave_mlx.train.optimizer import Optimizer, gradient_norm
from rave_mlx.train.parameters import TrainedParameter, prepare, projections, trained_parameters, trained_weights
from rave_mlx.train.progress import clock
from rave_mlx.train.report import Update
from rave_mlx.train.run import run
from rave_mlx.train.schedules import build_schedule


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def prepared(gate=None, **changes):
    settings = config(**changes)
    return *prepare(tiny_model(gate), settings), settings


# What trains


def test_gates_and_updates_train_by_default():
    lmm, adapter, _ = prepared(adapter=AdapterSettings())
    found = trained_parameters(lmm)
    assert {p.group for p in found} == {"gate", "adapter"}
    assert len(adapter.modules) == 3 * 7
    assert len([p for p in found if p.group == "adapter"]) == 2 * 21
    assert adapter.gate == GateConfig() and adapter.base
    assert not [n for n, _ in tree_flatten(lmm.vision.trainable_parameters())]


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({"adapter": None}, {"gate"}),
        ({"gates": False}, {"adapter"}),
        ({"gates": False, "full": ("connector",)}, {"adapter", "connector"}),
        ({"gates": False, "adapter": None, "full": ("decoder", "vision")}, {"decoder", "vision"}),
    ],
)
def test_what_trains_can_be_chosen(changes, groups):
    lmm, adapter, _ = prepared(GateConfig(rank=3), **changes)
    found = trained_parameters(lmm)
    assert {p.group for p in found} == groups
    assert {p.name for p in found} == set(adapters.adapter_weights(lmm, adapter))


def test_fresh_gates_and_updates_change_nothing():
    prompt_of = lambda lmm: lmm.prepare([ask("What is the total?", picture())])
    base = tiny_model()
    lmm, _, _ = prepared()
    lmm.eval()
    np.testing.assert_allclose(
        np.array(lmm.logits(prompt_of(lmm), gate=True)), np.array(base.logits(prompt_of(base))), atol=1e-4
    )


def test_weight_decay_leaves_norms_biases_and_gate_scalars_alone():
    lmm, _, _ = prepared(gates=True, adapter=None, full=("decoder", "connector", "vision"))
    decays = {p.name for p in trained_parameters(lmm) if p.decays}
    for name, x in trained_weights(lmm).items():
        spared = x.ndim < 2 or name.rpartition(".")[2] in ("a", "c", "beta") or "norm" in name
        assert (name in decays) != spared, name
    assert "decoder.layers.0.attention.gate.U" in decays
    assert "decoder.layers.0.attention.gate.c" not in decays


def test_projections_are_chosen_by_the_last_parts_of_their_names():
    lmm = tiny_model()
    assert projections(lmm, ["o_proj"]) == tuple(f"decoder.layers.{i}.attention.o_proj" for i in range(3))
    assert projections(lmm, ["mlp.up_proj", "decoder.layers.1.attention.q_proj"])[1] == (
        "decoder.layers.1.attention.q_proj"
    )
    with pytest.raises(UsageError, match="no projection is called 'w_q'; there are down_proj, gate_proj, k_proj,"):
        projections(lmm, ["w_q"])


def test_quantized_bases_take_updates_and_refuse_whole_parts():
    lmm = tiny_model()
    nn.quantize(lmm.decoder, 32, 4, class_predicate=lambda name, _: name.endswith("o_proj"))
    with pytest.raises(UsageError, match="the decoder is quantized and cannot be trained whole"):
        prepare(lmm, config(adapter=None, full=("decoder",)))
    lmm, _ = prepare(lmm, config(adapter=AdapterSettings(modules=("o_proj",), kind="dora")))
    assert all(mx.issubdtype(x.dtype, mx.floating) for x in trained_weights(lmm).values())


def test_dora_on_widths_that_it_cannot_take_is_refused():
    lmm = tiny_model()
    nn.quantize(lmm.decoder, 32, 6, class_predicate=lambda name, _: name.endswith("o_proj"))
    with pytest.raises(UsageError, match=r"o_proj has 6 bits, on which DoRA does not work; leave --dora out"):
        prepare(lmm, config(adapter=AdapterSettings(modules=("o_proj",), kind="dora")))
    prepare(lmm, config(adapter=AdapterSettings(modules=("o_proj",))))


def test_a_quantized_base_learns(tmp_path, data):
    lmm = tiny_model()
    nn.quantize(lmm.decoder, 32, 8, class_predicate=lambda name, _: name.endswith("o_proj"))
    settings = config(steps=12, batch_size=9, gates=False, adapter=AdapterSettings(modules=("o_proj",)))
    run(lmm, data, tmp_path, settings)
    assert losses(tmp_path)[-1] < 0.8 * losses(tmp_path)[0]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"gates": False, "adapter": None}, "nothing would be trained"),
        ({"full": ("decoder",)}, "needs no low-rank updates"),
        ({"rates": {"vision": 1e-3}}, "given for vision, which is not trained"),
        ({"gates": False, "rates": {"gate": 1e-3}}, "given for gate, which is not trained"),
        ({"learning_rate": 0.0}, "learning rate 0.0 is not between"),
        ({"steps": 0}, "TrainConfig.steps must be at least 1"),
        ({"clip": -1.0}, "TrainConfig.clip must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        TrainConfig(**settings)


def test_settings_come_back_from_json():
    settings = config(full=("connector",), rates={"connector": 1e-5, "gate": 1e-2}, adapter=replace(LORA, kind="dora"))
    assert TrainConfig.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(ConfigError, match="unknown key stepps"):
        TrainConfig.from_dict({"stepps": 3})


# How fast


def test_schedules_give_these_rates():
    def rates(name, warmup):
        schedule = build_schedule(name, 1.0, 10, warmup)
        return [round(float(np.array(schedule(mx.array(i, mx.uint64)))), 4) for i in range(10)]

    cosine = [0.5, 1.0] + [round(0.5 * (1 + math.cos(math.pi * i / 8)), 4) for i in range(8)]
    assert rates("cosine", 2) == pytest.approx(cosine, abs=1e-4)
    assert rates("linear", 0.2) == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert rates("constant", 4) == [0.25, 0.5, 0.75, *[1.0] * 7]
    assert rates("linear", 0) == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


NAME = "decoder.layers.0.attention.q_proj.lora_a"
PLAIN = "decoder.norm.weight"


def optimizer_of(name, weights, **changes):
    settings = {"optimizer": name, "learning_rate": 0.1, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.2}
    groups = (TrainedParameter(NAME, "adapter", True, True), TrainedParameter(PLAIN, "adapter", False, False))
    return Optimizer(config(**(settings | {"clip": 0.0} | changes)), groups, weights, 10)


def adamw(x, gradients, decay, rate=0.1):
    """Loshchilov and Hutter's algorithm 2 with bias correction, in float64."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - rate * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * x)
    return x


def lion(x, gradients, decay, rate=0.1):
    """Chen et al.'s program 1 in float64."""
    m = np.zeros_like(x)
    for g in gradients:
        x = x - rate * (np.sign(0.9 * m + 0.1 * g) + decay * x)
        m = 0.99 * m + 0.01 * g
    return x


@pytest.mark.parametrize(("name", "reference"), [("adamw", adamw), ("lion", lion)])
def test_optimizers_follow_their_papers(name, reference):
    rng = np.random.default_rng(0)
    start = {NAME: rng.normal(size=(4, 3)), PLAIN: rng.normal(size=(5,))}
    gradients = [{n: rng.normal(size=x.shape) for n, x in start.items()} for _ in range(5)]
    optimizer = optimizer_of(name, {n: mx.array(x.astype(np.float32)) for n, x in start.items()})
    for each in gradients:
        step = {n: mx.array(g.astype(np.float32)) for n, g in each.items()}
        optimizer.update(step, gradient_norm(step))
    for n, decay in ((NAME, 0.2), (PLAIN, 0.0)):
        expected = reference(start[n], [g[n] for g in gradients], decay)
        np.testing.assert_allclose(np.array(optimizer.weights[n]), expected, rtol=2e-5, atol=2e-6)


def test_muon_takes_matrices_and_adamw_the_rest():
    rng = np.random.default_rng(0)
    start = {NAME: rng.normal(size=(6, 3)), PLAIN: rng.normal(size=(5,))}
    gradient = {n: rng.normal(size=x.shape) for n, x in start.items()}
    optimizer = optimizer_of("muon", {n: mx.array(x.astype(np.float32)) for n, x in start.items()})
    step = {n: mx.array(g.astype(np.float32)) for n, g in gradient.items()}
    optimizer.update(step, gradient_norm(step))
    # An orthogonalized step: its singular values are near 1, times sqrt(6 / 3), times the rate.
    moved = start[NAME] * (1 - 0.1 * 0.2) - np.array(optimizer.weights[NAME])
    values = np.linalg.svd(moved / (0.1 * 2**0.5), compute_uv=False)
    assert ((values > 0.6) & (values < 1.3)).all()
    np.testing.assert_allclose(
        np.array(optimizer.weights[PLAIN]), adamw(start[PLAIN], [gradient[PLAIN]], 0.0), rtol=2e-5
    )


def test_gradients_are_clipped_to_their_common_norm():
    start = {NAME: mx.zeros((2, 2)), PLAIN: mx.zeros((1,))}
    step = {NAME: mx.full((2, 2), 6.0), PLAIN: mx.array([5.0])}
    norm = gradient_norm(step)
    assert float(np.array(norm)) == pytest.approx(13.0)
    # Adafactor divides by the root of the mean square: after one step only the direction counts, clipped or not.
    clipped, free = (optimizer_of("adamw", start, clip=c, weight_decay=0.0) for c in (1.3, 0.0))
    for optimizer in (clipped, free):
        optimizer.update(step, norm)
    m = arrays({k.rpartition("/")[2]: v for k, v in clipped.state().items() if NAME in k})["m"]
    np.testing.assert_allclose(m, np.full((2, 2), 0.1 * 0.6), rtol=1e-5)
    m = arrays({k.rpartition("/")[2]: v for k, v in free.state().items() if NAME in k})["m"]
    np.testing.assert_allclose(m, np.full((2, 2), 0.1 * 6.0), rtol=1e-5)


def test_groups_have_their_own_rates(tmp_path, data):
    settings = config(
        steps=2, full=("connector",), rates={"connector": 1e-4}, schedule="constant", warmup=0.0, learning_rate=1e-3
    )
    run(tiny_model(), data, tmp_path, settings)
    rates = read(tmp_path)[0]["rates"]
    assert rates == pytest.approx({"adapter": 1e-3, "gate": 5e-3, "connector": 1e-4})


def test_sixteen_bit_parts_have_float32_copies(tmp_path, data):
    lmm = tiny_model()
    lmm.set_dtype(mx.bfloat16)
    # Steps of 1e-5 are lost in bfloat16 weights near 1; in float32 they add up.
    settings = config(steps=8, adapter=None, gates=False, full=("connector",), optimizer="lion", learning_rate=1e-5)
    lmm, adapter = prepare(lmm, settings)
    before = arrays({n: x.astype(mx.float32) for n, x in trained_weights(lmm).items()})
    optimizer = Optimizer(
        replace(settings, schedule="constant", warmup=0.0), trained_parameters(lmm), trained_weights(lmm), 8
    )
    for _ in range(8):
        step = {n: mx.ones(x.shape) for n, x in before.items()}
        optimizer.update(step, gradient_norm(step))
    for name, x in optimizer.weights.items():
        if "norm" in name:
            np.testing.assert_allclose(before[name] - np.array(x), np.full(x.shape, 8e-5), rtol=0.02)


# What a token weighs


def test_an_update_divides_by_the_tokens_of_all_its_micro_batches(tmp_path, data):
    """Micro-batches of one row with answers of very different lengths: a mean of means would differ."""
    runs = {}
    for name, changes in {"one": {"batch_size": 9}, "nine": {"batch_size": 1, "accumulate": 9}}.items():
        run(tiny_model(), data, tmp_path / name, config(steps=3, gates=False, **changes))
        runs[name] = [(e["loss"], e["norm"], e["trained_tokens"]) for e in read(tmp_path / name) if "loss" in e]
    np.testing.assert_allclose(runs["nine"], runs["one"], rtol=2e-5)


def test_the_first_loss_is_the_mean_over_trained_tokens(tmp_path, data):
    run(tiny_model(), data, tmp_path, config(steps=1, batch_size=9))
    lmm = tiny_model()
    rows = open_dataset(data, lmm)
    total = count = 0.0
    for row in rows:
        logits = np.array(lmm.logits(row.prompt), np.float64)[0]
        scores = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        scores -= logits.max(-1, keepdims=True)
        where = np.flatnonzero(row.loss_mask)
        total -= scores[where - 1, row.prompt.ids[0, where]].sum()
        count += len(where)
    assert losses(tmp_path)[0] == pytest.approx(total / count, rel=1e-5)


def test_the_last_update_of_an_epoch_takes_what_is_left(tmp_path, data):
    run(tiny_model(), data, tmp_path, config(epochs=1, batch_size=2, accumulate=3))
    entries = [e for e in read(tmp_path) if "loss" in e]
    assert [e["images"] for e in entries] == [6, 3] or [e["images"] for e in entries] == [5, 4]
    rows = open_dataset(data, tiny_model())
    assert sum(e["trained_tokens"] for e in entries) == sum(s.trained_tokens for s in rows.stats)


def test_features_on_the_disk_are_the_same(tmp_path, data):
    for name in ("first", "again"):
        run(tiny_model(), data, tmp_path / name, config(steps=3), features_folder=tmp_path / "features")
    run(tiny_model(), data, tmp_path / "memory", config(steps=3))
    assert len(list((tmp_path / "features").iterdir())) >= 9
    assert result(tmp_path / "first") == result(tmp_path / "again") == result(tmp_path / "memory")


def test_rows_without_images_train_too(tmp_path):
    rows = [{"messages": [message("user", f"{i}?"), message("assistant", "yes" * (i + 1))]} for i in range(4)]
    write_rows(tmp_path / "train.jsonl", rows)
    run(tiny_model(), tmp_path, tmp_path / "out", config(steps=2))
    assert all(math.isfinite(x) for x in losses(tmp_path / "out"))


def test_validation_is_in_evaluation_mode_and_changes_nothing(tmp_path, data):
    settings = config(steps=6, adapter=replace(LORA, dropout=0.3))
    for name, more in {"seldom": {"eval_every": 6}, "often": {"eval_every": 1, "eval_answers": 2}}.items():
        run(tiny_model(), data, tmp_path / name, replace(settings, **more))
    assert losses(tmp_path / "seldom") == losses(tmp_path / "often")
    assert result(tmp_path / "seldom") == result(tmp_path / "often")
    last = [[e for e in read(tmp_path / n) if "valid_loss" in e][-1]["valid_loss"] for n in ("seldom", "often")]
    assert last[0] == last[1]
    trained_model = adapters.load_adapter(tiny_model(), tmp_path / "seldom")
    rows = open_dataset(data, trained_model, split="valid")
    value, count = loss(trained_model, collate(list(rows)))
    assert last[0] == pytest.approx(float(np.array(value)) / count, rel=1e-5)


# Reports


def test_a_gate_of_constant_bias_is_reported_as_that(data):
    lmm = tiny_model(GateConfig(rank=3, kv_groups=(1,)), gate_scale=0.0)
    prompt = open_dataset(data, lmm)[0].prompt
    quiet = gate_report(lmm, [prompt])
    assert [f.layer for f in quiet] == [0, 1, 2]
    assert all(f.bias == f.moved == 0 and f.visual == f.visual_without > 0 for f in quiet)
    lmm.decoder.layers[1].attention.gate.beta = mx.full((2,), 0.5)
    first, second, third = gate_report(lmm, [prompt, prompt])
    assert second.bias == pytest.approx(4 * math.tanh(0.5 / 4), rel=1e-4)
    assert first == quiet[0]
    assert second.visual_without == pytest.approx(quiet[1].visual, rel=1e-5)
    # A bias that is the same everywhere moves attention one way only.
    assert second.visual - second.visual_without == pytest.approx(second.moved, rel=1e-4)
    assert second.moved > 0.01
    assert third.bias == 0


def test_the_curve_has_both_losses_in_it(tmp_path):
    entries = [{"step": i, "loss": 5 / i} for i in range(1, 60)] + [{"step": 30, "valid_loss": 0.4}]
    draw_curve(entries, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        colours = {c for _, c in image.convert("RGB").getcolors(1 << 20)}
        assert image.size == (960, 540)
    assert {(0x1F, 0x5F, 0xB4), (0xD1, 0x60, 0x2A)} <= colours
    draw_curve([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    assert [y for _, y in smoothed([(i, float(i)) for i in range(40)])][-1] == 38.5
    assert [nice(x) for x in (0, 0.3, 1.0, 2.2, 7, 43)] == [1.0, 0.5, 1.0, 2.5, 10.0, 50.0]


def test_a_log_that_a_kill_cut_short_goes_on(tmp_path):
    update = Update(1, 0, 0.5, {"gate": 0.1}, 1.0, 10, 3, 1, 0.1, 100)
    log = Log(tmp_path, 0, 0, as_csv=True)
    log.update(update)
    log.update(replace(update, step=2))
    text = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(text[:-9])
    assert [e["step"] for e in read(tmp_path)] == [1]
    (tmp_path / "log.jsonl").write_text(text)
    Log(tmp_path, 1, 0, as_csv=True)
    assert [e["step"] for e in read(tmp_path)] == [1]
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0].startswith("step,epoch,loss") and lines[1].startswith("1,0,0.5,1.0") and len(lines) == 2
    (tmp_path / "log.jsonl").write_text("nonsense\n" + text)
    with pytest.raises(ModelError, match=r"log.jsonl, line 1: not valid JSON"):
        read(tmp_path)


def test_durations_read_well():
    assert [clock(s) for s in (0, 59.6, 61, 3600, 36061)] == ["0:00", "1:00", "1:01", "1:00:00", "10:01:01"]


# Memory


def test_a_run_that_cannot_fit_names_the_option_that_would_help(data, monkeypatch):
    lmm, _, settings = prepared(batch_size=64)
    rows = open_dataset(data, lmm)
    need = estimate(lmm, settings, rows)
    assert need.total == need.weights + need.state + need.activations
    monkeypatch.setattr("rave_mlx.backend.memory", type("M", (), {"available": 1000}))
    with pytest.raises(MemoryLimitError, match=r"training: .* needed.*use --batch-size 1 --accumulate 64, which"):
        check(lmm, settings, rows)


@pytest.mark.parametrize(
    ("changes", "need", "advice"),
    [
        ({"batch_size": 4, "accumulate": 2}, Estimate(0, 0, 1), "--batch-size 1 --accumulate 8"),
        ({"batch_size": 1}, Estimate(0, 0, 1), "--checkpointing"),
        ({"batch_size": 1, "checkpointing": True}, Estimate(0, 0, 1), "--image-tokens"),
        ({}, Estimate(0, 1, 0), "--optimizer lion or adafactor"),
        ({"optimizer": "lion"}, Estimate(0, 1, 0), "a quantized base"),
        ({"adapter": None, "full": ("decoder",)}, Estimate(0, 1, 0), "low-rank updates instead of whole parts"),
    ],
)
def test_advice(changes, need, advice):
    lmm, _, settings = prepared(**changes)
    assert advice in remedy(lmm, settings, need)


def test_a_text_only_model_has_nothing_to_gate():
    lmm = tiny_model()
    lmm.config = replace(
        lmm.config, vision=None, connector=None, image=None, tokens=replace(lmm.config.tokens, image=None)
    )
    with pytest.raises(UsageError, match="reads text only and a gate acts on images; train with --lora-only"):
        prepare(lmm, config())


def test_history_is_complete(tmp_path, data):
    run(tiny_model(), data, tmp_path, config(steps=3, eval_answers=2, save_every=3))
    entries = history(tmp_path)
    assert [e["step"] for e in entries] == [1, 2, 3, 3]
    assert 0 <= entries[-1]["exact"] <= 1 and entries[-1]["answers"] == 2
    assert {p.name for p in tmp_path.iterdir()} == {
        *("adapter_config.json", "adapters.safetensors", "best", "checkpoints"),
        *("curve.png", "gates.json", "log.jsonl"),
    }
    assert isinstance(adapters.read_config(tmp_path), AdapterConfig)
    assert issubclass(MemoryLimitError, RaveError)
