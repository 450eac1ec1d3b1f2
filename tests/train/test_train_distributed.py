"""Several processes train as one process would with the same rows: MLX's ring over loopback, no stand-ins."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack

import mlx.core as mx
import numpy as np
import pytest
from training import command, environment, history, losses, message, train_cli, write_data, write_model, write_rows

from rave_mlx.backend import distributed
from rave_mlx.backend.distributed import World
from rave_mlx.errors import UsageError
from rave_mlx.train import checkpoint
from rave_mlx.train.batch_sampler import BatchSampler


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def launch(folder, *options):
    """Start a process of `rave-mlx train` with each of these options; they know each other, as of `mlx.launch`."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(len(options))]))
    return [
        subprocess.Popen(
            command(*own),
            env=environment(MLX_HOSTFILE=str(hosts), MLX_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(options)
    ]


def together(folder, size, *options):
    """Run them to the end; what each said."""
    processes = launch(folder, *[options] * size)
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * size, said
    return said


def options(data, out, model, *more):
    return (*("--data", data, "--out", out, "--model", model, "--rank", 2, "--modules", "q_proj,v_proj"), *more)


@pytest.mark.parametrize("processes", [2])
def test_several_processes_are_one_with_the_summed_batch(tmp_path, processes):
    # Answers of 1 to 40 characters: a mean of means would be far off. 9 rows: the last batch leaves one without any.
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row["messages"][1] = message("assistant", "abc "[: i % 4 + 1] * (1 + 9 * (i % 2)) + "x")
    write_rows(data / "train.jsonl", rows)
    more = ("--batch-size", 4, "--accumulate", 2, "--steps", 6, "--save-every", 3, "--lr", 1e-3, "--sink-loss", 30)
    train_cli(*options(data, tmp_path / "one", model, *more))
    said = together(tmp_path, processes, *options(data, tmp_path / "many", model, *more))
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "one"), rtol=2e-5)
    one, many = history(tmp_path / "one"), history(tmp_path / "many")
    for key in ("valid_loss", "norm", "exact", "sink"):
        found = [[e[key] for e in entries if e.get(key) is not None] for entries in (one, many)]
        assert found[0]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
    for key in ("tokens", "trained_tokens", "images", "answers"):
        assert [e.get(key) for e in many] == [e.get(key) for e in one]
    weights = [mx.load(str(tmp_path / out / "adapters.safetensors")) for out in ("one", "many")]
    for name, x in weights[0].items():
        np.testing.assert_allclose(np.array(weights[1][name]), np.array(x), atol=2e-4, err_msg=name)
    # Only the first process writes and speaks.
    assert "step" in said[0][1] and all(not err for _, err in said[1:])


def test_two_processes_resume_to_the_bit(tmp_path):
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    more = ("--batch-size", 2, "--steps", 20, "--dropout", 0.1, "--save-every", 20)
    together(tmp_path, 2, *options(data, tmp_path / "whole", model, *more))
    out = tmp_path / "parts"
    processes = launch(tmp_path, *[options(data, out, model, *more)] * 2)
    log = out / "log.jsonl"
    while not (log.is_file() and log.stat().st_size):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    # One process is told to stop; both do, after the same update.
    processes[1].send_signal(signal.SIGINT)
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [130, 130], said
    assert 0 < checkpoint.read(checkpoint.latest(out)).state.step < 20
    together(tmp_path, 2, *options(data, out, model, *more, "--resume"))
    assert history(out) == history(tmp_path / "whole")
    assert (out / "adapters.safetensors").read_bytes() == (tmp_path / "whole/adapters.safetensors").read_bytes()


def test_processes_with_other_data_are_refused(tmp_path):
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    more = ("--batch-size", 2, "--steps", 2)
    other = write_data(tmp_path / "other", seed=1)
    processes = launch(tmp_path, options(data, tmp_path / "out", model, *more), options(other, tmp_path, model, *more))
    for rank, process in enumerate(processes):
        _, said = process.communicate(timeout=120)
        assert process.returncode == 2
        assert said.startswith(f"rave-mlx: process {rank}: data, model and options are not the same in all 2 processes")


def ended_with(processes, code):
    """What the processes said before all of them left with this code."""
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), said
    assert not any("Traceback" in text for text in said), said
    return [[line for line in text.splitlines() if line.startswith("rave-mlx: ")][-1] for text in said]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_cannot_begin_tells_the_others_why(tmp_path, rank):
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    given = [options(data, tmp_path / "out", model, "--batch-size", 2, "--steps", 2)] * 2
    given[rank] = options(data, tmp_path / "out", tmp_path / "absent", "--batch-size", 2, "--steps", 2)
    said = ended_with(launch(tmp_path, *given), 1)
    assert "absent: no such model directory" in said[rank] and not said[rank].startswith("rave-mlx: process")
    assert said[1 - rank].startswith(f"rave-mlx: process {rank}: ") and "absent: no such model" in said[1 - rank]


def test_a_process_that_cannot_go_on_tells_the_others_why(tmp_path):
    """Pictures of one machine are damaged while both train."""
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(data, copy)
    more = ("--batch-size", 2, "--steps", 4000, "--save-every", 1)
    processes = launch(tmp_path, options(data, out, model, *more), options(copy, out, model, *more))
    while checkpoint.latest(out) is None:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    for file in copy.glob("train*.png"):
        file.write_bytes(file.read_bytes()[:-40])
    first, second = ended_with(processes, 1)
    assert re.match(r"rave-mlx: train.jsonl, line \d: .*copy/train\d.png: damaged", second)
    assert first == second.replace("rave-mlx: ", "rave-mlx: process 1: ")
    checkpoint.read(checkpoint.latest(out))


def test_a_disk_that_is_full_stops_all_processes(tmp_path):
    data, model, out = write_data(tmp_path / "data"), write_model(tmp_path / "model"), tmp_path / "out"
    more = ("--batch-size", 2, "--steps", 4000, "--save-every", 1)
    processes = launch(tmp_path, *[options(data, out, model, *more)] * 2)
    while checkpoint.latest(out) is None:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    # No file of the process that writes may grow beyond this, which is what a full disk comes to.
    resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    first, second = ended_with(processes, 1)
    assert "cannot be written" in first and second == first.replace("rave-mlx: ", "rave-mlx: process 0: ")


def test_one_process_needs_no_engine():
    x = {"a": mx.array([1.0, 2.0])}
    assert World().sum(x) == x
    assert World().totals(1, 2.5) == [1, 2.5]


def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(UsageError, match="raise --batch-size to at least 4"):
        BatchSampler([1, 2, 3, 4], 2, size=4)


def test_a_process_whose_peer_died_says_so_and_ends(tmp_path):
    """Started by hand, so that no launcher ends it. The one that is left is the one that writes."""
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    out = tmp_path / "out"
    more = ("--batch-size", 2, "--steps", 400, "--save-every", 1)
    processes = launch(tmp_path, *[options(data, out, model, *more)] * 2)
    while checkpoint.latest(out) is None:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[1].kill()
    said = processes[0].communicate(timeout=120)[1]
    processes[1].communicate(timeout=60)
    assert processes[0].returncode == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("rave-mlx: ")]
    assert line.startswith("rave-mlx: process 0: another of the 2 processes is gone (")
    assert line.endswith("start all of them again with --resume") and "Traceback" not in said
    assert checkpoint.read(checkpoint.latest(out)).state.step >= 1


def test_a_process_that_waits_long_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(distributed, "_WARN_AFTER", 0.05)
    monkeypatch.setattr(mx, "eval", lambda *arrays: time.sleep(0.5))
    World(rank=1, size=2)._evaluate([mx.zeros((1,))])
    said = capfd.readouterr().err
    assert said.startswith("rave-mlx: process 1 has waited") and said.count("\n") == 1
