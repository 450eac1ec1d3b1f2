"""MLX's optimizers over named parameters: groups with rates of their own, float32 copies, a state that can be saved.

Weight decay is decoupled and the same for every optimizer (MLX's Muon would mix it into the gradient): before its
step a weight that decays is multiplied with 1 - rate * decay. Muon takes matrices; what is none (gates, norms,
biases, embeddings) goes to AdamW at the same rate.

Not `mlx.optimizers.MultiOptimizer`: it rebuilds nested trees, whose lists have holes where layers are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from rave_mlx.checkpoint import directory
from rave_mlx.train.config import TrainConfig
from rave_mlx.train.parameters import TrainedParameter
from rave_mlx.train.schedules import Schedule, build_schedule

Weights = dict[str, mx.array]


@dataclass(frozen=True)
class _Group:
    """Parameters that one MLX optimizer updates."""

    label: str
    names: tuple[str, ...]
    decay: float
    schedule: Schedule
    optimizer: optim.Optimizer


class Optimizer:
    """Updates weights from gradients, both by name; everything in float32.

    Args:
        config: which optimizer, how fast.
        parameters, weights: what trains, and its values.
        steps: updates of the whole run.
    """

    def __init__(
        self, config: TrainConfig, parameters: Sequence[TrainedParameter], weights: Mapping[str, mx.array], steps: int
    ):
        members: dict[tuple[str, bool, bool], list[str]] = {}
        for p in parameters:
            key = (p.group, p.decays, p.is_matrix and config.optimizer == "muon")
            members.setdefault(key, []).append(p.name)
        self._groups = [_group(config, key, tuple(names), steps) for key, names in members.items()]
        self._clip = config.clip
        self.weights: Weights = {name: x.astype(mx.float32) for name, x in weights.items()}
        for group in self._groups:
            group.optimizer.init({name: self.weights[name] for name in group.names})

    def update(self, gradients: Mapping[str, mx.array], norm: mx.array) -> None:
        """One step with gradients of this norm; the new values are in `weights`, lazy."""
        if self._clip:
            factor = mx.minimum(self._clip / (norm + 1e-6), 1.0)
            gradients = {name: g * factor for name, g in gradients.items()}
        for group in self._groups:
            optimizer = group.optimizer
            own = {name: gradients[name] for name in group.names}
            held = {name: self.weights[name] for name in group.names}
            if group.decay:
                rate = group.schedule(optimizer.step)
                held = {name: x * (1 - rate * group.decay) for name, x in held.items()}
            self.weights |= optimizer.apply_gradients(own, held)

    def rates(self) -> dict[str, float]:
        """Learning rates of the latest update by group."""
        return {g.label.partition(".")[0]: float(np.asarray(g.optimizer.learning_rate)) for g in self._groups}

    def arrays(self) -> list[mx.array]:
        """Everything that an update changes, to evaluate."""
        return [*self.weights.values(), *self.state().values()]

    def state(self) -> Weights:
        """The optimizers' state by "group/parameter/name" and "group//name"."""
        flat: Weights = {}
        for group in self._groups:
            for key, value in group.optimizer.state.items():
                if isinstance(value, dict):
                    flat |= {f"{group.label}/{key}/{leaf}": x for leaf, x in value.items()}
                else:
                    flat[f"{group.label}//{key}"] = value
        return flat

    def restore(self, weights: Mapping[str, mx.array], state: Mapping[str, mx.array], where: str) -> None:
        """Take up weights and state that were saved.

        Raises:
            ModelError: when they are not those of this run.
        """
        for found, expected in ((weights, self.weights), (state, self.state())):
            directory.check_tensors(
                {n: tuple(x.shape) for n, x in found.items()},
                {n: tuple(x.shape) for n, x in expected.items()},
                where,
            )
        # In the order of before: sums over all weights depend on it in their last bit.
        self.weights = {name: weights[name] for name in self.weights}
        for group in self._groups:
            fresh: dict[str, object] = {name: {} for name in group.names}
            for key, value in state.items():
                label, name, leaf = key.split("/")
                if label == group.label and name:
                    fresh[name][leaf] = value  # type: ignore[index]  # the dictionaries of the line above
                elif label == group.label:
                    fresh[leaf] = value
            group.optimizer.state = fresh


def gradient_norm(gradients: Mapping[str, mx.array]) -> mx.array:
    """Euclidean norm of all gradients together."""
    return mx.sqrt(sum((mx.sum(mx.square(g)) for g in gradients.values()), mx.array(0.0)))


def _group(config: TrainConfig, key: tuple[str, bool, bool], names: tuple[str, ...], steps: int) -> _Group:
    group, decays, is_matrix = key
    schedule = build_schedule(config.schedule, config.rate(group), steps, config.warmup)
    optimizer: optim.Optimizer
    if config.optimizer == "adafactor":
        optimizer = optim.Adafactor(schedule, scale_parameter=False, relative_step=False)
    elif config.optimizer == "lion":
        optimizer = optim.Lion(schedule, weight_decay=0.0)
    elif is_matrix:
        optimizer = optim.Muon(schedule, weight_decay=0.0)
    else:
        optimizer = optim.AdamW(schedule, weight_decay=0.0, bias_correction=True)
    label = group + ("" if decays else ".plain") + (".matrix" if is_matrix else "")
    return _Group(label, names, config.weight_decay if decays else 0.0, schedule, optimizer)
