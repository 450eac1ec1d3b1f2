"""A whole training run: open the data, prepare the model, go on where it was, train, and leave the adapter in place.

What a run leaves:

OUT/adapters.safetensors, adapter_config.json    the result (last update); `chat --adapter OUT` takes it
OUT/best                                         the checkpoint with the lowest validation loss
OUT/checkpoints/                                 see `checkpoint`
OUT/log.jsonl, log.csv, curve.png, gates.json    see `log`, `curve`, `gate_report`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.errors import ModelError, UsageError
from rave_mlx.models.lmm import LMM
from rave_mlx.train import checkpoint
from rave_mlx.train.checkpoint import State
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.curve import draw_curve
from rave_mlx.train.dataset import Dataset, open_dataset
from rave_mlx.train.distributed import World
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.gate_report import GateFigures, gate_report, write_report
from rave_mlx.train.interrupt import interruptible
from rave_mlx.train.log import Log, read
from rave_mlx.train.memory import check as check_memory
from rave_mlx.train.mutual_mask import use_mutual_mask
from rave_mlx.train.optimizer import Optimizer
from rave_mlx.train.parameters import prepare, trained_parameters, trained_weights
from rave_mlx.train.report import Listener
from rave_mlx.train.sink_loss import check_sink_loss
from rave_mlx.train.sources import has_split
from rave_mlx.train.trainer import Trainer, total_steps
from rave_mlx.train.validation import Validator

CURVE = "curve.png"
_REPORTED = 4
"""Held-out conversations of which the gate report is made."""
Listeners = Callable[[int, int], Sequence[Listener]]
"""Makes the listeners of a run of so many updates, so many of which are done."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        steps: updates of the whole run.
        best_step, best_loss: the update with the lowest validation loss; None without held-out rows.
        estimated_bytes, peak_bytes: memory as it was estimated before, and as it was.
        gates: figures of the gates; empty without any.
    """

    steps: int
    best_step: int | None
    best_loss: float | None
    estimated_bytes: int
    peak_bytes: int
    gates: list[GateFigures]


def run(
    lmm: LMM,
    data: str | Path,
    out: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    world: World | None = None,
    as_csv: bool = False,
    features_folder: Path | None = None,
    listeners: Listeners | None = None,
) -> Outcome:
    """Train `lmm` on `data` and leave the result in `out`.

    Args:
        lmm: the base model; changed in place.
        data: what `open_dataset` takes; without a split "valid" nothing is validated.
        out: the run's directory.
        config: what to do.
        resume: go on from the newest checkpoint in `out`, or begin where there is none.
        world: this process among those of the run.
        as_csv: keep the log as CSV as well.
        features_folder: where features of a frozen tower are kept beside memory, for later runs too.
        listeners: who follows the run, besides the log.

    Raises:
        RaveError: for data, options, checkpoints or a disk that a run cannot work with.
        KeyboardInterrupt: when asked to stop; the state is saved.
    """
    world = world or World()
    if not resume and checkpoint.latest(out) is not None:
        raise UsageError(f"{out}: holds a run already; go on with --resume, or choose another --out")
    mx.reset_peak_memory()
    if config.mask == "mutual":
        use_mutual_mask(lmm)
    rows = _opened(data, "train", lmm, config)
    held_out = _opened(data, "valid", lmm, config) if has_split(data, "valid") else None
    lmm, adapter = prepare(lmm, config)
    if config.sink_loss:
        check_sink_loss(lmm)
    optimizer = Optimizer(config, trained_parameters(lmm), trained_weights(lmm), total_steps(rows, config))
    world.check_same(json.dumps([config.result(), adapter.to_dict(), digest(rows)]))
    estimate = check_memory(lmm, config, rows, world.size)
    with ExitStack() as stack:
        start = State(0, 0, 0, config, digest(rows))
        if world.is_writer:
            stack.enter_context(checkpoint.only_run(out))
            start = _resumed(out, start, adapter, optimizer)
        start = _shared(world, start, optimizer)
        following: list[Listener] = []
        if world.is_writer:
            following.append(Log(out, start.step, start.validated, as_csv=as_csv))
        if listeners is not None:
            following += listeners(total_steps(rows, config), start.step)
        for listener in following:
            stack.enter_context(closing(listener))
        for name in (bad for split in (rows, held_out) if split is not None for bad in split.bad):
            for listener in following:
                listener.note(f"left out: {name}")
        # A tower that does not change gives an image the same features every time.
        frozen = lmm.config.vision is not None and not {"vision", "connector"} & set(config.full)
        features = FeatureCache(lmm, folder=features_folder) if frozen else None
        validator = Validator(lmm, held_out, config, features, world) if held_out is not None else None
        trainer = Trainer(
            lmm,
            adapter,
            optimizer,
            rows,
            start,
            out,
            validator=validator,
            features=features,
            world=world,
            listeners=following,
            interrupt=stack.enter_context(interruptible(alone=world.size == 1)),
        )
        trainer.run()
        gates: list[GateFigures] = []
        if world.is_writer:
            gates = _finish(lmm, out, trainer, validator)
        state = trainer.state
        return Outcome(trainer.steps, state.best_step, state.best_loss, estimate, mx.get_peak_memory(), gates)


def digest(rows: Dataset) -> str:
    """A hash that changes when rows are added, removed, reordered or become longer or shorter."""
    return hashlib.sha256(repr([(s.tokens, s.visual, s.trained) for s in rows.stats]).encode()).hexdigest()


def _opened(data: str | Path, split: str, lmm: LMM, config: TrainConfig) -> Dataset:
    return open_dataset(
        data,
        lmm,
        split=split,
        image_tokens=config.image_tokens,
        max_tokens=config.max_tokens,
        bad_rows=config.bad_rows,
    )


def _resumed(out: Path, start: State, adapter: AdapterConfig, optimizer: Optimizer) -> State:
    """The state to begin with; weights and optimizer state are taken up from the newest checkpoint."""
    newest = checkpoint.latest(out)
    if newest is None:
        return start
    found = checkpoint.read(newest)
    checkpoint.check_same(found, start.config, adapter, start.data)
    optimizer.restore(found.tensors.exact, found.tensors.optimizer, str(newest))
    mx.eval(optimizer.arrays())
    return replace(found.state, config=start.config)


def _shared(world: World, start: State, optimizer: Optimizer) -> State:
    """The first process' state, weights and optimizer state, in every process."""
    if world.size == 1:
        return start
    numbers = mx.array([start.step, start.epoch, start.position, start.validated], mx.float32)
    found = world.broadcast({"": numbers, **{f"w/{n}": x for n, x in optimizer.weights.items()}})
    step, epoch, position, validated = (round(n) for n in map(float, np.array(found.pop(""))))
    weights = {name.removeprefix("w/"): x for name, x in found.items()}
    state = optimizer.state()
    types = {name: x.dtype for name, x in state.items()}
    shared = world.broadcast({name: x.astype(mx.float32) for name, x in state.items()})
    optimizer.restore(weights, {name: x.astype(types[name]) for name, x in shared.items()}, "process 0")
    return replace(start, step=step, epoch=epoch, position=position, validated=validated)


def _finish(lmm: LMM, out: Path, trainer: Trainer, validator: Validator | None) -> list[GateFigures]:
    """Put the result, the curve and the gate report into place."""
    assert trainer.last is not None
    try:
        checkpoint.write_result(out, trainer.last)
        draw_curve(read(out), out / CURVE)
        lmm.eval()
        figures = gate_report(lmm, validator.prompts(_REPORTED)) if validator is not None else []
        if figures:
            write_report(figures, out)
    except OSError as error:
        raise ModelError(f"{error.filename or out}: cannot be written ({error.strerror})") from None
    return figures
