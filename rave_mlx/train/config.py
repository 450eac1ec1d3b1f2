"""Everything a training run depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rave_mlx.checkpoint.adapters import ModelPart
from rave_mlx.config.part import Part, positive
from rave_mlx.config.sink_gate import OUTLIER
from rave_mlx.errors import ConfigError

OptimizerName = Literal["adamw", "adafactor", "muon", "lion"]
ScheduleName = Literal["cosine", "linear", "constant"]

DEFAULT_RATES: dict[str, float] = {"adamw": 2e-4, "adafactor": 2e-4, "muon": 2e-3, "lion": 3e-5}
"""Learning rates for low-rank updates. Lion's steps have the size of its rate in every weight, Muon's that of an
orthogonal matrix."""
GATE_FACTOR = 5.0
"""How much faster gates learn by default: they start at zero, and nothing else depends on them yet."""


@dataclass(frozen=True)
class AdapterSettings(Part):
    """The low-rank updates.

    Attributes:
        rank: of the updates.
        scale: what the product of the factors is multiplied with.
        kind: "lora" or "dora".
        dropout: share of inputs left out in training.
        modules: projections of the decoder: last parts of their names ("q_proj", "mlp.up_proj"), or "all".
    """

    rank: int = 8
    scale: float = 2.0
    kind: Literal["lora", "dora"] = "lora"
    dropout: float = 0.0
    modules: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        positive(self, "rank")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout} is not in [0, 1)")


@dataclass(frozen=True)
class TrainConfig(Part):
    """A training run.

    What trains:
        gates, adapter: pair gates; low-rank updates (None: none). sink_gates: layers of sink gates, or "auto"
        (`sink_gates.default_layers`); None: none. outlier: as of `SinkGateConfig`. full: parts of the model trained
        whole.
        learning_rate: of low-rank updates; None for the optimizer's usual one. rates: learning rates of other groups
        ("gate", "decoder", "connector", "vision"); gates learn `GATE_FACTOR` times faster by default, parts as
        low-rank updates do.

    How:
        mask: "mutual" trains with the mask of `mutual`; None with the model's own. steps: updates; None for `epochs`.
        batch_size: conversations of a micro-batch, over all processes. accumulate: micro-batches of an update.
        optimizer, weight_decay (of matrices only), clip: largest norm of the gradient (0: no limit), schedule, warmup:
        updates until the full learning rate; below 1 a share of all. sink_loss: weight of the sink decorrelation loss
        (`sinks`) beside the cross-entropy; 0: none. checkpointing: compute activations again in the backward pass
        instead of keeping them. dtype: compute type; trained weights and optimizer state are float32 in any case.
        seed: of everything that is drawn.

    Data:
        image_tokens, max_tokens, bad_rows: see `open_dataset`.

    What is kept and shown:
        save_every, eval_every: updates between checkpoints and between validations; None for once an epoch and
        with every checkpoint. keep: newest checkpoints that stay (the best one stays anyway). eval_batches: most
        micro-batches of a validation; eval_answers: held-out questions answered for the exact match. report_every:
        updates between lines of progress where stderr is no terminal. workers: threads that read ahead.
    """

    gates: bool = True
    adapter: AdapterSettings | None = field(default_factory=AdapterSettings)
    sink_gates: Literal["auto"] | tuple[int, ...] | None = None
    outlier: float = OUTLIER
    full: tuple[ModelPart, ...] = ()
    learning_rate: float | None = None
    rates: dict[str, float] = field(default_factory=dict)
    mask: Literal["mutual"] | None = None
    steps: int | None = None
    epochs: int = 3
    batch_size: int = 1
    accumulate: int = 1
    optimizer: OptimizerName = "adamw"
    weight_decay: float = 0.01
    clip: float = 1.0
    schedule: ScheduleName = "cosine"
    warmup: float = 0.03
    sink_loss: float = 0.0
    checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] | None = None
    seed: int = 0
    image_tokens: int | None = None
    max_tokens: int | None = None
    bad_rows: int = 0
    save_every: int | None = None
    eval_every: int | None = None
    keep: int = 3
    eval_batches: int = 64
    eval_answers: int = 32
    report_every: int = 10
    workers: int = 2

    def __post_init__(self) -> None:
        positive(self, "epochs", "batch_size", "accumulate", "keep", "eval_batches", "report_every", "workers")
        for name in ("steps", "save_every", "eval_every", "image_tokens", "max_tokens"):
            if getattr(self, name) is not None:
                positive(self, name)
        for name in ("weight_decay", "clip", "warmup", "sink_loss", "seed", "bad_rows", "eval_answers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"TrainConfig.{name} must not be negative, found {getattr(self, name)}")
        gated = self.gates or self.sink_gates is not None
        if not gated and self.adapter is None and not self.full:
            raise ConfigError("nothing would be trained: choose gates, low-rank updates or parts of the model")
        if self.adapter is not None and "decoder" in self.full:
            raise ConfigError("a decoder that is trained whole needs no low-rank updates; leave one of the two out")
        unknown = sorted(set(self.rates) - {*self.full, *(("gate",) if gated else ())})
        if unknown:
            raise ConfigError(f"a learning rate is given for {', '.join(unknown)}, which is not trained")
        wrong = [r for r in (self.learning_rate, *self.rates.values()) if r is not None and not 0 < r < 10]
        if wrong:
            raise ConfigError(f"learning rate {wrong[0]} is not between 0 and 10")

    def rate(self, group: str) -> float:
        """Peak learning rate of a group: "adapter", "gate" or a part of the model."""
        base = self.learning_rate if self.learning_rate is not None else DEFAULT_RATES[self.optimizer]
        return self.rates.get(group, base * GATE_FACTOR if group == "gate" else base)

    def result(self) -> dict[str, Any]:
        """The settings that a resumed run has to keep, as plain JSON values."""
        return {name: value for name, value in self.to_dict().items() if name not in MAY_CHANGE}


MAY_CHANGE = frozenset({
    *("steps", "epochs", "save_every", "eval_every", "keep", "eval_batches", "eval_answers", "report_every"),
    *("workers", "bad_rows"),
})  # fmt: skip
"""Settings that a resumed run may have anew: how long it is, and what is kept and shown. (Rows that `bad_rows` lets in
or out show in the fingerprint of the data.)"""
