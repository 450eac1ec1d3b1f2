"""A run that was stopped and resumed is the run that was not: same losses, same weights, to the bit."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import replace

import mlx.core as mx
import pytest
from PIL import Image, ImageOps
from support import tiny_model
from training import DROPOUT, LORA, command, config, environment, history, losses, result, write_data, write_model

from rave_mlx.errors import ConfigError, UsageError
from rave_mlx.train import checkpoint
from rave_mlx.train.run import run
from rave_mlx.train.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


class StopAfter:
    """Presses Ctrl-C, as it were, when the updates reach a number."""

    def __init__(self, step):
        self.step = step

    def update(self, update):
        if update.step == self.step:
            signal.raise_signal(signal.SIGINT)

    def validation(self, validation):
        pass

    note = saved = validation

    def close(self):
        pass


def stopped(data, out, settings, step, resume=False, model=tiny_model):
    with pytest.raises(KeyboardInterrupt):
        run(model(), data, out, settings, resume=resume, listeners=lambda steps, done: [StopAfter(step)])
    assert checkpoint.read(checkpoint.latest(out)).state.step == step


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": DROPOUT, "accumulate": 2},
        {"adapter": DROPOUT, "checkpointing": True, "optimizer": "muon"},
        {"adapter": replace(LORA, kind="dora"), "optimizer": "adafactor", "schedule": "linear"},
        {"adapter": None, "full": ("connector", "vision"), "optimizer": "lion", "learning_rate": 1e-4},
    ],
    ids=["lora-accumulated", "muon-recomputed", "dora-adafactor", "whole-parts-lion"],
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, data, changes):
    settings = config(steps=8, save_every=3, **changes)
    run(tiny_model(), data, tmp_path / "whole", settings)
    out = tmp_path / "parts"
    for step in (1, 4, 5):
        stopped(data, out, settings, step, resume=step > 1)
    run(tiny_model(), data, out, settings, resume=True)
    assert len(losses(out)) == 8
    assert history(out) == history(tmp_path / "whole")
    assert result(out) == result(tmp_path / "whole")


def test_sixteen_bit_weights_resume_from_their_float32_copies(tmp_path, data):
    def model():
        lmm = tiny_model()
        lmm.set_dtype(mx.bfloat16)
        return lmm

    settings = config(steps=6, adapter=None, full=("connector", "decoder"), learning_rate=1e-3)
    run(model(), data, tmp_path / "whole", settings)
    for step in (2, 3):
        stopped(data, tmp_path / "parts", settings, step, resume=step > 2, model=model)
    run(model(), data, tmp_path / "parts", settings, resume=True)
    assert mx.load(str(tmp_path / "parts/adapters.safetensors"))["decoder.norm.weight"].dtype == mx.bfloat16
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


def test_losses_go_down(tmp_path, data):
    run(tiny_model(), data, tmp_path / "out", config(steps=30, batch_size=9))
    found = losses(tmp_path / "out")
    assert sum(found[-3:]) < 0.6 * sum(found[:3])


def test_validation_that_was_interrupted_is_made_up_for(tmp_path, data):
    settings = config(steps=4, save_every=2)
    run(tiny_model(), data, tmp_path / "whole", settings)
    # The signal comes with update 2, before its validation: the checkpoint knows that it is due.
    stopped(data, tmp_path / "parts", settings, 2)
    assert checkpoint.read(checkpoint.latest(tmp_path / "parts")).state.validated == 0
    run(tiny_model(), data, tmp_path / "parts", settings, resume=True)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_ctrl_c_saves_and_exits_with_130(tmp_path, data):
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    options = ("--data", data, "--out", out, "--model", model, "--steps", 400, "--rank", 2)
    process = subprocess.Popen(command(*options), env=environment(), stderr=subprocess.PIPE, text=True)
    log = out / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    step = checkpoint.read(checkpoint.latest(out)).state.step
    assert f"stopped after step {step} of 400; --resume goes on from there" in said
    assert "Traceback" not in said


def test_a_run_is_not_overwritten_without_asking(tmp_path, data):
    run(tiny_model(), data, tmp_path / "out", config(steps=1))
    with pytest.raises(UsageError, match="holds a run already; go on with --resume"):
        run(tiny_model(), data, tmp_path / "out", config(steps=1))


def test_a_finished_run_resumes_to_itself(tmp_path, data):
    found = []
    for resume in (False, True):
        run(tiny_model(), data, tmp_path / "out", config(steps=2), resume=resume)
        found.append((result(tmp_path / "out"), history(tmp_path / "out")))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("settings", "model", "message"),
    [
        (config(steps=2, learning_rate=1e-3), {}, "began with learning_rate = 0.01, now it is 0.001"),
        (config(steps=2), {"seed": 1}, "another base model"),
    ],
)
def test_other_settings_do_not_resume(tmp_path, data, settings, model, message):
    run(tiny_model(), data, tmp_path / "out", config(steps=2))
    with pytest.raises(ConfigError, match=message):
        run(tiny_model(**model), data, tmp_path / "out", settings, resume=True)


def test_a_run_may_become_longer_but_not_shorter_than_it_is(tmp_path, data):
    run(tiny_model(), data, tmp_path / "out", config(steps=2, schedule="constant"))
    run(tiny_model(), data, tmp_path / "out", config(steps=4, schedule="constant"), resume=True)
    run(tiny_model(), data, tmp_path / "whole", config(steps=4, schedule="constant", save_every=2))
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")
    assert result(tmp_path / "out") == result(tmp_path / "whole")
    with pytest.raises(ConfigError, match="4 steps are done, and 3 were asked for; raise --steps"):
        run(tiny_model(), data, tmp_path / "out", config(steps=3, schedule="constant"), resume=True)


def test_other_pixels_or_words_do_not_resume(tmp_path):
    """Of the same size and in as many tokens: only what is in them differs."""
    data = write_data(tmp_path / "data")
    run(tiny_model(), data, tmp_path / "out", config(steps=2))
    rows, page = (data / "train.jsonl").read_bytes(), (data / "train3.png").read_bytes()
    with Image.open(data / "train3.png") as image:
        changed = ImageOps.invert(image.convert("RGB"))
    changed.save(data / "train3.png")
    refused = pytest.raises(ConfigError, match="rows are not those the run began with")
    with refused:
        run(tiny_model(), data, tmp_path / "out", config(steps=2), resume=True)
    (data / "train3.png").write_bytes(page)
    (data / "train.jsonl").write_bytes(rows.replace(b"vendor?", b"bender?"))
    with refused:
        run(tiny_model(), data, tmp_path / "out", config(steps=2), resume=True)
    (data / "train.jsonl").write_bytes(rows)
    run(tiny_model(), data, tmp_path / "out", config(steps=2), resume=True)


def test_other_data_do_not_resume(tmp_path, data):
    run(tiny_model(), data, tmp_path / "out", config(steps=2))
    with pytest.raises(ConfigError, match="rows are not those the run began with"):
        run(tiny_model(), write_data(tmp_path / "data", seed=1), tmp_path / "out", config(steps=2), resume=True)


def test_how_a_run_is_saved_may_change(tmp_path, data):
    run(tiny_model(), data, tmp_path / "whole", config(steps=4))
    stopped(data, tmp_path / "out", config(steps=4), 2)
    run(tiny_model(), data, tmp_path / "out", config(steps=4, save_every=1, keep=1, workers=3), resume=True)
    assert result(tmp_path / "out") == result(tmp_path / "whole")


def test_every_row_is_trained_on_once_an_epoch(tmp_path, data, monkeypatch):
    seen = []
    add = Trainer._add

    def noting(self, sums, batch, position):
        seen.append((self.state.epoch, batch.where))
        add(self, sums, batch, position)

    monkeypatch.setattr(Trainer, "_add", noting)
    run(tiny_model(), data, tmp_path / "out", config(epochs=2, accumulate=2))
    for epoch in (0, 1):
        rows = [row for e, where in seen if e == epoch for row in where]
        assert len(rows) == len(set(rows)) == 9
    assert len(losses(tmp_path / "out")) == 2 * 3
    state = json.loads((checkpoint.latest(tmp_path / "out") / "state.json").read_text())
    assert (state["epoch"], state["position"]) == (2, 0)
