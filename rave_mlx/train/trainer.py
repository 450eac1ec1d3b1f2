"""The training loop: every epoch shows each row once; every few updates the run is looked at and saved.

Loss and gradient of an update are sums over the trained tokens of its micro-batches and of all processes, divided by
the number of those tokens. So neither padding nor how rows fall into micro-batches changes what a token weighs.

A process that cannot go on says so at the next sum, and all of them stop with its reason; see `World.raise_shared`.

Before each micro-batch the random numbers are seeded with the run's seed and the position in the data. What is drawn
therefore does not depend on where a run was stopped, nor on what else draws numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from rave_mlx import backend
from rave_mlx.backend.distributed import World
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.errors import ModelError, RaveError
from rave_mlx.models.lmm import LMM
from rave_mlx.train import checkpoint
from rave_mlx.train.batch import Batch
from rave_mlx.train.batch_sampler import BatchSampler
from rave_mlx.train.checkpoint import State, Tensors
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.dataset import Dataset
from rave_mlx.train.features import FeatureCache
from rave_mlx.train.interrupt import Interrupt
from rave_mlx.train.loader import Loader
from rave_mlx.train.objective import Objective
from rave_mlx.train.optimizer import Optimizer, gradient_norm
from rave_mlx.train.parameters import trained_weights
from rave_mlx.train.progress import Stopwatch
from rave_mlx.train.report import Listener, Update
from rave_mlx.train.validation import NotFiniteError, Validator, row_names


@dataclass
class _Sums:
    """What the micro-batches of an update add up to, in this process."""

    gradients: dict[str, mx.array]
    loss: float = 0.0
    sink: float = 0.0
    trained_tokens: int = 0
    tokens: int = 0
    images: int = 0
    batches: int = 0


class Trainer:
    """Trains a prepared model (`parameters.prepare`).

    Args:
        lmm, adapter: the model, and what of it trains.
        optimizer: holds the weights and their state.
        rows: what to train on.
        state: where the run is.
        out: the run's directory.
        validator: looks at the held-out rows; None without any.
        features: of images, where the tower does not train; None where it does.
        world: this process among those of the run.
        listeners: who is told of updates, validations and checkpoints.
        interrupt: whether the run was asked to stop.

    Attributes:
        state: where the run is.
        steps: updates of the whole run.
        last: the newest checkpoint, None before the first.
    """

    def __init__(
        self,
        lmm: LMM,
        adapter: AdapterConfig,
        optimizer: Optimizer,
        rows: Dataset,
        state: State,
        out: Path,
        *,
        validator: Validator | None = None,
        features: FeatureCache | None = None,
        world: World | None = None,
        listeners: Sequence[Listener] = (),
        interrupt: Interrupt | None = None,
    ):
        self.state = state
        self.last = checkpoint.latest(out)
        self._lmm, self._adapter, self._optimizer = lmm, adapter, optimizer
        self._rows, self._out, self._validator, self._features = rows, out, validator, features
        self._world = world or World()
        self._listeners = listeners
        self._interrupt = interrupt or Interrupt()
        world = self._world
        self._sampler = BatchSampler(rows.lengths, self.config.batch_size, self.config.seed, world.rank, world.size)
        self.steps = total_steps(rows, state.config)
        self._dtypes = {name: x.dtype for name, x in trained_weights(lmm).items()}
        self._clock = Stopwatch()
        self._failure: RaveError | None = None
        self._objective = Objective(lmm, state.config, rows)

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        return self.state.config

    def run(self) -> None:
        """Train to the end, and save.

        Raises:
            KeyboardInterrupt: when asked to stop, after the state was saved.
            RaveError: for a loss that is not finite, after the state before it was saved; for a checkpoint that cannot
                be written; for a row that cannot be read.
        """
        self._lmm.load_weights(self._weights(), strict=False)
        self._clock.lap()
        try:
            self._validate_and_save()
            while self.state.step < self.steps:
                self._epoch()
        except _StopAskedError:
            self._save()
            self._note(f"stopped after step {self.state.step} of {self.steps}; --resume goes on from there")
            raise KeyboardInterrupt from None
        except NotFiniteError as error:
            if self._weights_are_finite():
                self._save()
            kept = f"{self.last} is kept" if self.last else "there is no checkpoint yet"
            raise RaveError(f"{error}. Training has stopped, {kept}; look at these rows, or lower --lr") from None

    def _epoch(self) -> None:
        """The rest of an epoch, or as much of it as there are updates left."""
        epoch, first = self.state.epoch, self.state.position
        with Loader(self._rows, self._sampler, epoch, first, workers=self.config.workers) as loader:
            batches = iter(loader)
            while self.state.epoch == epoch and self.state.step < self.steps:
                sums, read = self._accumulate(batches)
                self._update(sums, read)
                self._validate_and_save()

    def _accumulate(self, batches: Iterator[Batch]) -> tuple[_Sums, list[Batch]]:
        """Loss and gradient of the next update's micro-batches, and these."""
        sums, read = self._new_sums(), list[Batch]()
        try:
            for batch in islice(batches, self.config.accumulate):
                self._check_stop()
                self._add(sums, batch, self.state.position + len(read))
                read.append(batch)
        except NotFiniteError:
            raise
        except RaveError as error:
            self._fail(error)
        return sums, read

    def _add(self, sums: _Sums, batch: Batch, position: int) -> None:
        """Add loss and gradient of one micro-batch."""
        sums.batches += 1
        if not batch.count:
            return
        mx.random.seed(seed_of(self.config.seed, self.state.epoch, position, self._world.rank))
        known = None if self._features is None else self._features.read(batch.images)
        step = nn.value_and_grad(self._lmm, self._objective.of(batch, known, self.state.epoch, position))
        with backend.row_parallel():
            (_, value, sink), gradients = step()
            for name, gradient in dict(tree_flatten(gradients)).items():
                sums.gradients[name] = sums.gradients[name] + gradient.astype(mx.float32)
            mx.eval(value, sink, sums.gradients)
        sums.loss += float(np.asarray(value))
        sums.sink += float(np.asarray(sink))
        sums.trained_tokens += batch.count
        sums.tokens += batch.tokens
        sums.images += len(batch.images)
        if self._world.size == 1:
            # Several processes learn of it together, from the sum: one that left would keep the others waiting.
            self._check_finite(sums.loss, "loss", [batch])

    def _fail(self, error: RaveError) -> None:
        """Stop at once, or with the other processes when they add up the next numbers."""
        if self._world.size == 1:
            raise error
        self._failure = error

    def _tell(self, news: Callable[[Listener], None]) -> None:
        """Give the listeners some news; they may fail to write it down."""
        try:
            for listener in self._listeners:
                news(listener)
        except RaveError as error:
            self._fail(error)

    def _update(self, sums: _Sums, batches: Sequence[Batch]) -> None:
        """One step of the optimizer."""
        counts = (sums.trained_tokens, sums.tokens, sums.images, self._interrupt.asked, self._failure is not None)
        figures = mx.array([sums.loss, sums.sink, *counts], mx.float32)
        whole = self._world.sum({**sums.gradients, "": figures})
        value, sink, trained, tokens, images, asked, failed = map(float, np.array(whole.pop("")))
        if failed:
            self._world.raise_shared(self._failure)
        own = self._world.size == 1 or not math.isfinite(sums.loss)
        self._check_finite(value, "loss", batches if own else [])
        gradients = {name: g / trained for name, g in whole.items()}
        norm = gradient_norm(gradients)
        length = float(np.asarray(norm))
        self._check_finite(length, "gradient", batches)
        self._optimizer.update(gradients, norm)
        self._lmm.load_weights(self._weights(), strict=False)
        mx.eval(self._lmm.trainable_parameters(), self._optimizer.arrays())
        sink_mean = self._objective.mean_sink(sink, self.state.epoch, self.state.position)
        self.state = self._advanced(sums.batches)
        update = Update(
            step=self.state.step,
            epoch=self.state.epoch if self.state.position else self.state.epoch - 1,
            loss=value / trained,
            rates=self._optimizer.rates(),
            norm=length,
            tokens=round(tokens),
            trained_tokens=round(trained),
            images=round(images),
            seconds=self._clock.lap(),
            peak_bytes=mx.get_peak_memory(),
            sink=sink_mean,
        )
        self._tell(lambda listener: listener.update(update))
        if asked:
            self._interrupt.asked = True
            raise _StopAskedError

    def _validate_and_save(self) -> None:
        """What is due after an update; after a resumption, what was due and did not happen."""
        step, config = self.state.step, self.config
        if not step:
            return
        save_every = config.save_every or -(-len(self._sampler) // config.accumulate)
        last = step == self.steps
        improved = False
        if self._validator is not None and (last or step % (config.eval_every or save_every) == 0):
            improved = self._validate(self._validator)
        if last or improved or step % save_every == 0:
            self._save()

    def _validate(self, validator: Validator) -> bool:
        """Look at the held-out rows unless that was done; returns whether they were never better."""
        step = self.state.step
        if self.state.validated == step:
            return False
        found = validator.validate(step, self._check_stop)
        self._tell(lambda listener: listener.validation(found))
        improved = self.state.best_loss is None or found.valid_loss < self.state.best_loss
        self.state = replace(self.state, validated=step)
        if improved:
            self.state = replace(self.state, best_step=step, best_loss=found.valid_loss)
        self._clock.lap()
        return improved

    def _save(self) -> None:
        """Write a checkpoint; all processes learn of it when that fails."""
        if not self.state.step:
            return
        failure = self._failure
        if self._world.is_writer and failure is None:
            try:
                self._write()
            except RaveError as error:
                failure = error
        self._world.raise_together(failure)
        self._clock.lap()

    def _write(self) -> None:
        optimizer = self._optimizer
        tensors = Tensors(dict(self._weights()), optimizer.weights, optimizer.state())
        try:
            path = checkpoint.write(self._out, self.state, self._adapter, tensors)
        except ModelError as error:
            left = f"the last good checkpoint is {self.last}" if self.last else "there is no earlier checkpoint"
            raise ModelError(f"{error}; {left}. Make room and go on with --resume") from None
        if path != self.last:
            self.last = path
            for listener in self._listeners:
                listener.saved(path)

    def _weights_are_finite(self) -> bool:
        finite = [mx.all(mx.isfinite(x)) for x in self._optimizer.weights.values()]
        return bool(np.asarray(mx.all(mx.stack(finite))))

    def _weights(self) -> list[tuple[str, mx.array]]:
        """The optimizer's weights in the model's types."""
        return [(name, x.astype(self._dtypes[name])) for name, x in self._optimizer.weights.items()]

    def _new_sums(self) -> _Sums:
        return _Sums({name: mx.zeros(x.shape) for name, x in self._optimizer.weights.items()})

    def _advanced(self, batches: int) -> State:
        position = self.state.position + batches
        epoch = self.state.epoch
        if position == len(self._sampler):
            epoch, position = epoch + 1, 0
        return replace(self.state, step=self.state.step + 1, epoch=epoch, position=position)

    def _check_stop(self) -> None:
        """Stop when asked. Several processes have to agree, which they do after each update."""
        if self._interrupt.asked and self._world.size == 1:
            raise _StopAskedError

    def _check_finite(self, value: float, what: str, batches: Sequence[Batch]) -> None:
        if not math.isfinite(value):
            rows = row_names(name for batch in batches for name in batch.where)
            raise NotFiniteError(f"the {what} of step {self.state.step + 1} is {value}; rows: {rows}")

    def _note(self, text: str) -> None:
        self._tell(lambda listener: listener.note(text))


def total_steps(rows: Dataset, config: TrainConfig) -> int:
    """Updates of a whole run."""
    batches = -(-len(rows) // config.batch_size)
    return config.steps or config.epochs * -(-batches // config.accumulate)


def seed_of(*numbers: int) -> int:
    """A seed for MLX that differs wherever one of the numbers does."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class _StopAskedError(Exception):
    """The run was asked to stop."""
