"""A whole training run: open the data, prepare the model, go on where it was, train, and leave the adapter in place.

What a run leaves:

OUT/adapters.safetensors, adapter_config.json    the result (last update); `chat --adapter OUT` takes it
OUT/best                                         the checkpoint with the lowest validation loss
OUT/checkpoints/                                 see `checkpoint`
OUT/options.json                                 see `options`
OUT/log.jsonl, log.csv, curve.png, gates.json    see `log`, `curve`, `gate_report`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.backend.distributed import World
from rave_mlx.backend.gpu_memory import wired_memory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.errors import ConfigError, ModelError, UsageError
from rave_mlx.models.lmm import LMM
from rave_mlx.train import checkpoint
from rave_mlx.train.checkpoint import State
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.curve import draw_curve
from rave_mlx.train.dataset import Dataset, open_dataset
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.gate_report import GateFigures, gate_report, write_report
from rave_mlx.train.interrupt import interruptible
from rave_mlx.train.log import Log, read
from rave_mlx.train.memory import check as check_memory
from rave_mlx.train.mutual_mask import use_mutual_mask
from rave_mlx.train.optimizer import Optimizer
from rave_mlx.train.options import write_options
from rave_mlx.train.parameters import prepare, trained_parameters, trained_weights
from rave_mlx.train.report import Listener
from rave_mlx.train.sink_gate_report import SinkGateFigures, sink_gate_report, write_sink_report
from rave_mlx.train.sink_gates import use_sink_gates
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
        gates, sink_gates: figures of the gates; empty without any.
    """

    steps: int
    best_step: int | None
    best_loss: float | None
    estimated_bytes: int
    peak_bytes: int
    gates: list[GateFigures]
    sink_gates: list[SinkGateFigures]


@dataclass(frozen=True)
class _Setup:
    """What a run works with: the prepared model and what trains of it, the rows, and hashes of all of it."""

    lmm: LMM
    adapter: AdapterConfig
    optimizer: Optimizer
    rows: Dataset
    held_out: Dataset | None
    fingerprint: str
    estimated_bytes: int

    def description(self, config: TrainConfig) -> str:
        """What has to be the same in every process, as text."""
        held_out = None if self.held_out is None else self.held_out.lengths
        return json.dumps([config.to_dict(), self.adapter.to_dict(), self.fingerprint, held_out])


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
    options: Mapping[str, Any] | None = None,
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
        options: what the command line was told, kept in `out` for `--resume`; see `options`.

    Raises:
        RaveError: for data, options, checkpoints or a disk that a run cannot work with; in every process.
        KeyboardInterrupt: when asked to stop; the state is saved.
    """
    world = world or World()
    mx.reset_peak_memory()
    with world.together():
        if not resume and checkpoint.latest(out) is not None:
            raise UsageError(f"{out}: holds a run already; go on with --resume, or choose another --out")
        setup = _set_up(lmm, data, config, world)
    world.check_same(setup.description(config))
    with ExitStack() as stack:
        with world.together():
            start = State(0, 0, 0, config, setup.fingerprint)
            if world.is_writer:
                stack.enter_context(checkpoint.only_run(out))
                start = _resumed(out, start, setup)
                if options is not None:
                    write_options(out, options)
        start = _shared(world, start, setup.optimizer)
        with world.together():
            following = _listeners(out, start, setup, world, listeners, as_csv=as_csv)
            for listener in following:
                stack.enter_context(closing(listener))
            _note_data(following, setup)
            # A tower that does not change gives an image the same features every time.
            frozen = setup.lmm.config.vision is not None and not {"vision", "connector"} & set(config.full)
            features = FeatureCache(setup.lmm, folder=features_folder) if frozen else None
        held_out = setup.held_out
        validator = None if held_out is None else Validator(setup.lmm, held_out, config, features, world)
        trainer = Trainer(
            setup.lmm,
            setup.adapter,
            setup.optimizer,
            setup.rows,
            start,
            out,
            validator=validator,
            features=features,
            world=world,
            listeners=following,
            interrupt=stack.enter_context(interruptible(alone=world.size == 1)),
        )
        with wired_memory():
            trainer.run()
        gates, sink_gates = list[GateFigures](), list[SinkGateFigures]()
        with world.together():
            if world.is_writer:
                gates, sink_gates = _finish(setup.lmm, out, trainer, validator)
        best = trainer.state.best_step, trainer.state.best_loss
        return Outcome(trainer.steps, *best, setup.estimated_bytes, mx.get_peak_memory(), gates, sink_gates)


def _set_up(lmm: LMM, data: str | Path, config: TrainConfig, world: World) -> _Setup:
    """Open the data and prepare the model; what is wrong with either is found here."""
    if config.mask == "mutual":
        use_mutual_mask(lmm)
    # Before the data, whose prompts say how far an image's keys depend on its turn.
    lmm = use_sink_gates(lmm, config)
    rows = _opened(data, "train", lmm, config)
    held_out = _opened(data, "valid", lmm, config) if has_split(data, "valid") else None
    lmm, adapter = prepare(lmm, config)
    if config.sink_loss:
        check_sink_loss(lmm)
    optimizer = Optimizer(config, trained_parameters(lmm), trained_weights(lmm), total_steps(rows, config))
    estimate = check_memory(lmm, config, rows, world.size)
    return _Setup(lmm, adapter, optimizer, rows, held_out, rows.fingerprint(), estimate)


def _opened(data: str | Path, split: str, lmm: LMM, config: TrainConfig) -> Dataset:
    return open_dataset(
        data,
        lmm,
        split=split,
        image_tokens=config.image_tokens,
        max_tokens=config.max_tokens,
        bad_rows=config.bad_rows,
    )


def _resumed(out: Path, start: State, setup: _Setup) -> State:
    """The state to begin with; weights and optimizer state are taken up from the newest checkpoint.

    Raises:
        ConfigError: when the checkpoint is of another run, or beyond the end of this one.
    """
    newest = checkpoint.latest(out)
    if newest is None:
        return start
    found = checkpoint.read(newest)
    checkpoint.check_same(found, start.config, setup.adapter, start.data)
    steps = total_steps(setup.rows, start.config)
    if found.state.step > steps:
        raise ConfigError(f"{newest}: {found.state.step} steps are done, and {steps} were asked for; raise --steps")
    setup.optimizer.restore(found.tensors.exact, found.tensors.optimizer, str(newest))
    mx.eval(setup.optimizer.arrays())
    return replace(found.state, config=start.config)


def _shared(world: World, start: State, optimizer: Optimizer) -> State:
    """The first process' state, weights and optimizer state, in every process."""
    if world.size == 1:
        return start
    found = State.from_dict(json.loads(world.broadcast_text(json.dumps(start.to_dict()))))
    weights = world.broadcast(optimizer.weights)
    state = optimizer.state()
    types = {name: x.dtype for name, x in state.items()}
    shared = world.broadcast({name: x.astype(mx.float32) for name, x in state.items()})
    optimizer.restore(weights, {name: x.astype(types[name]) for name, x in shared.items()}, "process 0")
    return found


def _listeners(
    out: Path, start: State, setup: _Setup, world: World, more: Listeners | None, *, as_csv: bool
) -> list[Listener]:
    """Who follows the run: in the process that writes, the log first."""
    found: list[Listener] = []
    if world.is_writer:
        found.append(Log(out, start.step, start.validated, as_csv=as_csv))
    if more is not None:
        found += more(total_steps(setup.rows, start.config), start.step)
    return found


def _note_data(listeners: Sequence[Listener], setup: _Setup) -> None:
    """Say what of the data is not trained on."""
    notes = []
    for rows in (setup.rows, setup.held_out):
        if rows is None:
            continue
        notes += [f"left out: {name}" for name in rows.bad]
        if rows.unused:
            notes.append(f"{rows.name}: nothing is read from {', '.join(sorted(rows.unused))}")
        if rows.several_answers:
            notes.append(f"{rows.name}: of several answers the first is trained on, in {rows.several_answers:,} rows")
    for note in notes:
        for listener in listeners:
            listener.note(note)


def _finish(
    lmm: LMM, out: Path, trainer: Trainer, validator: Validator | None
) -> tuple[list[GateFigures], list[SinkGateFigures]]:
    """Put the result, the curve and the reports of gates into place."""
    assert trainer.last is not None
    try:
        checkpoint.write_result(out, trainer.last)
        draw_curve(read(out), out / CURVE)
        lmm.eval()
        prompts = [] if validator is None else validator.prompts(_REPORTED)
        figures, sinks = gate_report(lmm, prompts), sink_gate_report(lmm, prompts)
        if figures:
            write_report(figures, out)
        if sinks:
            write_sink_report(sinks, out)
    except OSError as error:
        raise ModelError(f"{error.filename or out}: cannot be written ({error.strerror})") from None
    return figures, sinks
