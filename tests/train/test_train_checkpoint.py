"""Checkpoints: whole or not there, whatever happens to the process, the disk or the numbers."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest
from support import tiny_model
from training import (
    config,
    environment,
    history,
    message,
    result,
    train_cli,
    write_data,
    write_model,
    write_rows,
)

from rave_mlx.checkpoint import adapters
from rave_mlx.cli import main
from rave_mlx.errors import ConfigError, ModelError, RaveError, UsageError
from rave_mlx.train import checkpoint
from rave_mlx.train.checkpoint import State, Tensors
from rave_mlx.train.run import run

KILLS, STEPS = 12, 30


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def steps_of(out: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*"))


def tensors(value: float = 1.0, size: int = 4) -> Tensors:
    weights = {"decoder.layers.0.attention.q_proj.lora_a": mx.full((size, 2), value)}
    return Tensors(weights, weights, {"adapter//step": mx.array(3, mx.uint64)})


ADAPTER = adapters.AdapterConfig(rank=2, scale=1.0, modules=("decoder.layers.0.attention.q_proj",))


def state(step: int, **changes) -> State:
    return State(step, 0, step, config(keep=2), "digest", **changes)


def test_a_checkpoint_comes_back(tmp_path):
    written = checkpoint.write(tmp_path, state(7, best_step=7, best_loss=0.5), ADAPTER, tensors(0.1))
    found = checkpoint.read(checkpoint.latest(tmp_path))
    assert found.path == written
    assert found.state == state(7, best_step=7, best_loss=0.5)
    assert found.adapter == ADAPTER
    assert mx.array_equal(found.tensors.exact["decoder.layers.0.attention.q_proj.lora_a"], mx.full((4, 2), 0.1))
    assert found.tensors.optimizer["adapter//step"].item() == 3


def test_sixteen_bit_weights_keep_their_float32_copy(tmp_path):
    exact = {"connector.up.weight": mx.array([1.0001, 2.0])}
    model = {name: x.astype(mx.bfloat16) for name, x in exact.items()}
    adapter = adapters.AdapterConfig(rank=2, scale=1.0, full=("connector",))
    checkpoint.write(tmp_path, state(1), adapter, Tensors(model, exact, {"connector//step": mx.array(1, mx.uint64)}))
    found = checkpoint.read(checkpoint.latest(tmp_path)).tensors
    assert found.exact["connector.up.weight"].tolist() == exact["connector.up.weight"].tolist()
    assert found.model["connector.up.weight"].dtype == mx.bfloat16


def test_the_newest_and_the_best_stay(tmp_path):
    best = {3: 3, 4: 3, 5: 3, 6: 6}
    for step in range(3, 7):
        checkpoint.write(tmp_path, state(step, best_step=best[step], best_loss=1.0), ADAPTER, tensors(step))
        assert (tmp_path / "best" / "state.json").is_file()
        assert checkpoint.read(tmp_path / "best").state.step == best[step]
    assert steps_of(tmp_path) == [5, 6]
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith(".")]


def test_the_best_of_a_run_has_the_lowest_validation_loss(tmp_path, data):
    run(tiny_model(), data, tmp_path, config(steps=12, eval_every=2, save_every=12, learning_rate=0.1, keep=1))
    found = {e["step"]: e["valid_loss"] for e in history(tmp_path) if "valid_loss" in e}
    assert len(found) == 6
    lowest = min(found, key=found.get)
    assert checkpoint.read(tmp_path / "best").state.step == lowest
    assert steps_of(tmp_path) == sorted({lowest, 12})


def test_only_one_run_at_a_time(tmp_path):
    refused = pytest.raises(UsageError, match="another process is training into")
    with checkpoint.only_run(tmp_path), refused, checkpoint.only_run(tmp_path):
        pass


def test_what_a_killed_process_left_is_swept_up(tmp_path):
    left = tmp_path / "checkpoints" / ".step-00000004.x7"
    left.mkdir(parents=True)
    (left / "adapters.safetensors").write_bytes(b"half")
    with checkpoint.only_run(tmp_path):
        assert checkpoint.latest(tmp_path) is None
        assert not left.exists()


def test_damaged_checkpoints_are_named(tmp_path):
    path = checkpoint.write(tmp_path, state(1), ADAPTER, tensors())
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(json.dumps({**json.loads(text), "colour": 1}))
    with pytest.raises(ConfigError, match=r"state.json: unknown key colour"):
        checkpoint.read(path)
    (path / "state.json").write_text(text)
    file = path / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"adapters.safetensors: not a complete safetensors file"):
        checkpoint.read(path)


@pytest.mark.parametrize("limit", [200, 3_000], ids=["adapter", "optimizer"])
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, limit):
    first = checkpoint.write(tmp_path, state(1), ADAPTER, tensors(1.0))
    script = (
        "import resource; from test_train_checkpoint import *;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "big = {'adapter/x/m': mx.zeros((1000,))};"
        f"checkpoint.write(Path({str(tmp_path)!r}), state(2), ADAPTER, Tensors(tensors().model, tensors().exact, big))"
    )
    done = python(script)
    assert done.returncode == 1
    assert "ModelError" in done.stderr and "step-00000002: cannot be written (" in done.stderr
    assert checkpoint.latest(tmp_path) == first
    checkpoint.read(first)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_disk_that_fills_up_during_a_run(tmp_path, data):
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    options = ("--data", data, "--out", out, "--model", model, "--rank", 2, "--save-every", 2)
    whole = tmp_path / "whole"
    train_cli("--data", data, "--out", whole, "--model", model, "--rank", 2, "--save-every", 2, "--steps", 6)
    # From the fourth update on no file may grow beyond 9,000 bytes, which is what a full disk comes to.
    script = f"""
import resource, sys
from rave_mlx.cli.main import run
from rave_mlx.train import checkpoint
write = checkpoint.write
def full(out, state, adapter, tensors):
    if state.step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
    return write(out, state, adapter, tensors)
checkpoint.write = full
sys.argv = ["rave-mlx", "train", *{[*map(str, options), "--steps", "6"]!r}]
run()
"""
    done = python(script)
    assert done.returncode == 1, done.stderr
    assert "step-00000004: cannot be written (" in done.stderr
    assert f"the last good checkpoint is {out}/checkpoints/step-00000002. Make room and go on with" in done.stderr
    assert "Traceback" not in done.stderr
    assert steps_of(out) == [2]
    train_cli(*options, "--steps", 6, "--resume")
    assert result(out) == result(whole)


def test_a_loss_that_is_no_number_names_its_rows(tmp_path, data):
    asked = [message("user", "Q?"), message("assistant", "~")]
    write_rows(tmp_path / "valid.jsonl", [{"messages": [message("user", "A?"), message("assistant", "B")]}])
    rows = [{"messages": [message("user", f"{i}?"), message("assistant", "yes")]} for i in range(5)]
    write_rows(tmp_path / "train.jsonl", [*rows, {"messages": asked}])
    lmm = tiny_model()
    # A token that only the last row has.
    token = next(i for i in range(272) if lmm.tokenizer.token(i) == "~")
    lmm.decoder.embed.weight[token] = mx.nan
    with pytest.raises(RaveError) as caught:
        run(lmm, tmp_path, tmp_path / "out", config(steps=12, batch_size=1, save_every=1, seed=3, gates=True))
    first = steps_of(tmp_path / "out")
    assert first, "the row came first: choose another seed"
    step = first[-1] + 1
    said = str(caught.value)
    assert said.startswith(f"the loss of step {step} is nan; rows: ") and "train.jsonl" in said and "line 6" in said
    assert f"step-{step - 1:08d} is kept" in said
    kept = checkpoint.read(checkpoint.latest(tmp_path / "out"))
    assert all(mx.isfinite(x).all().item() for x in kept.tensors.exact.values())


def test_a_validation_loss_that_is_no_number_is_never_the_best(tmp_path):
    """It stops the run, and once the held-out rows are mended the run goes on as if nothing had been."""
    rows = [{"messages": [message("user", f"{i}?"), message("assistant", "yes")]} for i in range(5)]
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "valid.jsonl", [*rows[:2], {"messages": [message("user", "~?"), message("assistant", "B")]}])

    def model():
        lmm = tiny_model()
        token = next(i for i in range(272) if lmm.tokenizer.token(i) == "~")
        lmm.decoder.embed.weight[token] = mx.nan
        return lmm

    settings, out = config(steps=4, batch_size=1, eval_every=2, save_every=4), tmp_path / "out"
    with pytest.raises(RaveError) as caught:
        run(model(), tmp_path, out, settings)
    said = str(caught.value)
    assert said.startswith("the validation loss after step 2 is nan; rows: valid.jsonl, line 3. Training has stopped, ")
    assert f"{out}/checkpoints/step-00000002 is kept" in said
    kept = checkpoint.read(checkpoint.latest(out)).state
    assert (kept.step, kept.best_step, kept.best_loss, kept.validated) == (2, None, None, 0)
    assert not (out / "best").exists() and "NaN" not in (out / "log.jsonl").read_text()
    with pytest.raises(RaveError, match="the validation loss after step 2 is nan"):
        run(model(), tmp_path, out, settings, resume=True)
    write_rows(tmp_path / "valid.jsonl", rows[:2])
    run(model(), tmp_path, out, settings, resume=True)
    run(model(), tmp_path, tmp_path / "whole", settings)
    assert history(out) == history(tmp_path / "whole")
    assert result(out) == result(tmp_path / "whole")


def readable(out: Path) -> None:
    """Read every checkpoint to the last byte."""
    for step in steps_of(out):
        found = checkpoint.read(out / "checkpoints" / f"step-{step:08d}")
        mx.eval(found.tensors.exact, found.tensors.optimizer)
        assert found.state.step == step
    if (out / "best").exists():
        checkpoint.read(out / "best")


def forked(function, *args) -> int:
    """Start a function in a child process; its id. Nothing may have been computed in this process before."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = int(function(*args) or 0)
        finally:
            os._exit(code)
    return child


def one_run(options: list[str]) -> int:
    """`rave-mlx train --resume` in this process."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return main.main(["train", *options, "--resume"])


def kill_and_resume(out: Path, options: list[str], kills: int, seed: int) -> None:
    """Kill a run with SIGKILL at `kills` random moments, resuming it each time, then let it finish; runs in a process
    of its own, whose children have the imports behind them. Prints how many of the kills came after new checkpoints.
    """
    for slow in ("mlx_lm.tuner.lora", "mlx_lm.tuner.dora", "rave_mlx.convert"):
        importlib.import_module(slow)
    rng, advanced = random.Random(seed), 0
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    for _ in range(kills):
        seen = steps_of(out)
        child = forked(one_run, options)
        # Every fourth dies somewhere while it starts, the others while they train and save.
        starting = rng.random() < 0.25
        while not starting and steps_of(out) == seen and not os.waitid(os.P_PID, child, ended):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5 if starting else 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        advanced += steps_of(out) != seen
        assert os.waitpid(forked(readable, out), 0)[1] == 0, "a checkpoint cannot be read"
    assert os.waitpid(forked(one_run, options), 0)[1] == 0
    print(advanced)


def test_killed_at_random_moments(tmp_path, data):
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    options = ["--data", data, "--model", model, "--rank", 2, "--modules", "q_proj,o_proj", "--dropout", 0.1]
    options += ["--steps", STEPS, "--save-every", 1, "--eval-every", 10]
    train_cli(*options, "--out", tmp_path / "whole")
    arguments = (str(out), [*map(str, options), "--out", str(out)], KILLS, 0)
    call = "from test_train_checkpoint import *; {}, *more = {!r}; kill_and_resume(Path(out), *more)"
    done = python(call.format("out", arguments))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= KILLS // 3
    assert result(out) == result(tmp_path / "whole")
    assert history(out) == history(tmp_path / "whole")


def python(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that may import the tests."""
    here = Path(__file__).parent
    env = environment(PYTHONPATH=f"{here.parents[1]}:{here.parent}:{here}")
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
