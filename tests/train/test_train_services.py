"""TensorBoard and Weights & Biases, each with its real package: what their files say afterwards."""

from __future__ import annotations

import json
import struct
import sys

import pytest
from support import tiny_model
from test_train_resume import stopped
from training import config, history, train_process, write_data, write_model

from rave_mlx.errors import UsageError
from rave_mlx.train.run import run
from rave_mlx.train.services import TensorBoard, WandB


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base") / "model")


def figures(entries, kind, name):
    """(step, value) of the run's own log."""
    key = {"train": "loss", "valid": "valid_loss"}[kind]
    return [(e["step"], e[name]) for e in entries if key in e and e.get(name) is not None]


def events(folder):
    """(tag, step, value) of every scalar in the event files of a folder, in the order written, purged ones left out."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        raw, at = file.read_bytes(), 0
        while at < len(raw):
            (size,) = struct.unpack_from("<Q", raw, at)
            event = event_pb2.Event.FromString(raw[at + 12 : at + 12 + size])
            at += 12 + size + 4
            if event.session_log.status == event_pb2.SessionLog.START and event.step:
                found = [entry for entry in found if entry[1] < event.step]
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def wandb_records(folder):
    """What a run's file holds: records in LevelDB's log format behind a header of seven bytes."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    raw, at, whole, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, part = struct.unpack_from("<IHB", raw, at)
        whole += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if part in (1, 4):  # whole, or the last part of one
            found.append(pb.Record.FromString(whole))
            whole = b""
    return found


def test_tensorboard_has_the_figures_of_the_log(tmp_path, data):
    pytest.importorskip("tensorboardX")
    settings = config(steps=3, save_every=2, sink_loss=10.0, eval_answers=2)
    run(tiny_model(), data, tmp_path, settings, listeners=lambda steps, done: [TensorBoard(tmp_path, done)])
    entries, found = history(tmp_path), events(tmp_path / "tensorboard")
    for kind, names in {"train": ("loss", "sink", "norm", "tokens"), "valid": ("valid_loss", "exact")}.items():
        for name in names:
            written = [(step, value) for tag, step, value in found if tag == f"{kind}/{name}"]
            right = figures(entries, kind, name)
            assert right and [step for step, _ in written] == [step for step, _ in right], name
            assert [value for _, value in written] == pytest.approx([value for _, value in right], rel=1e-6), name
    assert {tag for tag, _, _ in found} >= {"train/rate_gate", "train/rate_adapter", "train/seconds"}


def test_a_resumed_run_replaces_what_tensorboard_knew_of_later_updates(tmp_path, data):
    pytest.importorskip("tensorboardX")
    settings = config(steps=4, save_every=2)
    stopped(data, tmp_path, settings, 2)
    ahead = TensorBoard(tmp_path)
    for step in (1, 2, 3):
        ahead._writer.add_scalar("train/loss", 99.0, step)
    ahead.close()
    run(
        tiny_model(), data, tmp_path, settings, resume=True, listeners=lambda steps, done: [TensorBoard(tmp_path, done)]
    )
    losses = [(step, value) for tag, step, value in events(tmp_path / "tensorboard") if tag == "train/loss"]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert [value == 99.0 for _, value in losses] == [True, True, False, False]


def test_wandb_has_the_figures_of_the_log(tmp_path, data, model):
    pytest.importorskip("wandb")
    out = tmp_path / "my-run"
    options = ("--steps", 3, "--rank", 2, "--sink-loss", 10, "--save-every", 2, "--wandb")
    train_process("--data", data, "--out", out, "--model", model, *options, WANDB_MODE="offline")
    records = wandb_records(out)
    begun = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (begun.project, begun.display_name) == ("rave-mlx", "my-run")
    settings = {u.key: json.loads(u.value_json) for u in begun.config.update}
    assert (settings["steps"], settings["sink_loss"], settings["adapter"]["rank"]) == (3, 10.0, 2)
    rows = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    entries = history(out)
    for kind, names in {"train": ("loss", "sink", "norm"), "valid": ("valid_loss",)}.items():
        for name in names:
            right = figures(entries, kind, name)
            assert right and [(r["_step"], r[f"{kind}/{name}"]) for r in rows if f"{kind}/{name}" in r] == right
    assert any(r.WhichOneof("record_type") == "exit" and r.exit.exit_code == 0 for r in records)


def test_wandb_without_an_account_is_one_line(tmp_path, data, model):
    pytest.importorskip("wandb")
    nowhere = {
        "HOME": str(tmp_path),
        "WANDB_API_KEY": "",
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }
    options = ("--data", data, "--out", tmp_path / "out", "--model", model, "--steps", 1, "--rank", 2, "--wandb")
    said = train_process(*options, code=2, **nowhere).stderr
    (line,) = [line for line in said.splitlines() if line.startswith("rave-mlx: ")]
    assert line.startswith("rave-mlx: --wandb: No API key configured")
    assert line.endswith("set WANDB_MODE=offline to upload later, or leave --wandb out")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("package", "make"),
    [("tensorboardX", TensorBoard), ("wandb", lambda out: WandB(out, config()))],
)
def test_missing_packages_are_named(tmp_path, monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    flag = "--" + package.removesuffix("X").lower()
    with pytest.raises(UsageError, match=f"{flag} needs the package {package}; pip install {package}, or leave {flag}"):
        make(tmp_path)
