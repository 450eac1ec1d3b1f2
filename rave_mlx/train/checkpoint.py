"""Checkpoints: everything a run needs to go on as if it had never stopped.

    OUT/checkpoints/step-00000040/
        adapter_config.json, adapters.safetensors   an adapter like any other; `chat --adapter` takes it
        optimizer/model.safetensors                 the optimizer's state, and float32 copies of 16-bit weights
        state.json                                  a State
    OUT/best -> checkpoints/step-00000020           lowest validation loss so far

Random numbers need no file: they are a function of the seed and the position in the data (`trainer`).

A checkpoint is written into a hidden directory, flushed to the disk and renamed, so a name that can be read is a
whole checkpoint, whenever the process is killed. One that goes is renamed before it is removed, for the same reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from rave_mlx.checkpoint import adapters, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.checkpoint.safetensors_writer import write_files
from rave_mlx.config.part import Part
from rave_mlx.errors import ConfigError, UsageError
from rave_mlx.train.config import TrainConfig

FOLDER, BEST = "checkpoints", "best"
_STATE, _OPTIMIZER, _LOCK = "state.json", "optimizer", ".lock"
_NAME = re.compile(r"step-(\d{8,})")
_EXACT = "weights//"


@dataclass(frozen=True)
class State(Part):
    """Where a run is.

    Attributes:
        step: updates done.
        epoch, position: the next micro-batch.
        config: the run's settings.
        data: digest of the training rows.
        validated: the update after which the held-out rows were last looked at.
        best_step, best_loss: the update with the lowest validation loss, and that loss.
    """

    step: int
    epoch: int
    position: int
    config: TrainConfig
    data: str
    validated: int = 0
    best_step: int | None = None
    best_loss: float | None = None


@dataclass(frozen=True)
class Tensors:
    """The arrays of a checkpoint: the trained weights in the model's types and in float32; the optimizer's state."""

    model: Mapping[str, mx.array]
    exact: Mapping[str, mx.array]
    optimizer: Mapping[str, mx.array]


@dataclass(frozen=True)
class Checkpoint:
    """What was read of one: its directory, where the run was, what trains, and the arrays."""

    path: Path
    state: State
    adapter: AdapterConfig
    tensors: Tensors


def write(out: Path, state: State, adapter: AdapterConfig, tensors: Tensors) -> Path:
    """Write a checkpoint of the run in `out` and remove those that are no longer kept.

    Raises:
        ModelError: when it cannot be written; then nothing of it is left, and the others are as they were.
    """
    target = _path(out, state.step)
    if not target.exists():
        copies = {_EXACT + n: x for n, x in tensors.exact.items() if tensors.model[n].dtype != mx.float32}
        with directory.new_directory(target) as part:
            adapters.write(part, adapter, tensors.model)
            (part / _OPTIMIZER).mkdir()
            write_files(part / _OPTIMIZER, [*tensors.optimizer.items(), *copies.items()])
            (part / _STATE).write_text(json.dumps(state.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
            _flush(part)
        _sync(target.parent)
    _point_to_best(out, state)
    _prune(out, state)
    return target


def latest(out: Path) -> Path | None:
    """The newest checkpoint of a run; None when there is none yet."""
    found = _all(out)
    return found[max(found)] if found else None


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ConfigError, ModelError: when it is not whole.
    """
    file = path / _STATE
    state = State.from_dict(directory.read_json(file), str(file))
    model = adapters.read_weights(path)
    weights = {name: x.astype(mx.float32) for name, x in model.items()}
    saved = directory.read_tensors(path / _OPTIMIZER)
    exact = {name.removeprefix(_EXACT): x for name, x in saved.items() if name.startswith(_EXACT)}
    optimizer = {name: x for name, x in saved.items() if not name.startswith(_EXACT)}
    return Checkpoint(path, state, adapters.read_config(path), Tensors(model, weights | exact, optimizer))


def check_same(checkpoint: Checkpoint, config: TrainConfig, adapter: AdapterConfig, data: str) -> None:
    """Refuse to go on with other settings, another model or other data than the run began with.

    Raises:
        ConfigError: naming what differs.
    """
    then, now = checkpoint.state.config.result(), config.result()
    for name, value in then.items():
        if now[name] != value:
            raise ConfigError(
                f"{checkpoint.path}: the run began with {name} = {json.dumps(value)}, now it is "
                f"{json.dumps(now[name])}; resume with the same options, or start anew in another --out"
            )
    if checkpoint.adapter.base != adapter.base:
        raise ConfigError(f"{checkpoint.path}: the run began with another base model; resume with the same --model")
    if checkpoint.adapter != adapter:
        raise ConfigError(f"{checkpoint.path}: {adapters.CONFIG} describes another adapter than these options do")
    if checkpoint.state.data != data:
        raise ConfigError(
            f"{checkpoint.path}: the training rows are not those the run began with; "
            "restore the data, or start anew in another --out"
        )


def write_result(out: Path, source: Path) -> None:
    """Put a checkpoint's adapter into `out` itself, each file replaced whole."""
    for name in (adapters.WEIGHTS, adapters.CONFIG):
        part = out / f".{name}.part"
        shutil.copyfile(source / name, part)
        part.replace(out / name)


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Hold a run's directory, and remove what a killed process left half-written in it.

    Raises:
        UsageError: while another process trains into it.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{out}: another process is training into this directory; choose another --out") from None
        for left in folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _path(out: Path, step: int) -> Path:
    return out / FOLDER / f"step-{step:08d}"


def _all(out: Path) -> dict[int, Path]:
    """Every checkpoint by its step."""
    named = ((_NAME.fullmatch(path.name), path) for path in (out / FOLDER).glob("step-*"))
    return {int(match[1]): path for match, path in named if match}


def _point_to_best(out: Path, state: State) -> None:
    """Make OUT/best name the best checkpoint; a symbolic link can be replaced in one step."""
    if state.best_step is None:
        return
    link, part = out / BEST, out / f".{BEST}.part"
    part.unlink(missing_ok=True)
    part.symlink_to(_path(Path(), state.best_step), target_is_directory=True)
    part.replace(link)


def _prune(out: Path, state: State) -> None:
    found = _all(out)
    kept = {*sorted(found)[-state.config.keep :], state.best_step}
    for step in set(found) - kept:
        gone = found[step].with_name(f".{found[step].name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        found[step].rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Have the disk hold every file of a folder before its name does."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
