"""What a run tells about itself, and who listens: the log, the progress bar, other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Update:
    """One update of the weights, over all its micro-batches and processes.

    Attributes:
        step: how many there were, this one included.
        epoch: passes over the data that were begun before.
        loss: mean cross-entropy over its trained tokens.
        rates: learning rates by group.
        norm: of the gradient, before clipping.
        tokens, trained_tokens, images: read, without padding; of the tokens, targets; shown.
        seconds: since the update before.
        peak_bytes: MLX's peak memory so far.
        sink: mean squared cosine of the sink decorrelation loss, without its weight; None where it is not trained on.
    """

    step: int
    epoch: int
    loss: float
    rates: dict[str, float]
    norm: float
    tokens: int
    trained_tokens: int
    images: int
    seconds: float
    peak_bytes: int
    sink: float | None = None


@dataclass(frozen=True)
class Validation:
    """A look at the held-out rows.

    Attributes:
        step: updates done.
        valid_loss: mean over their trained tokens.
        exact: share of questions answered exactly; None when none were asked.
        answers: questions asked.
    """

    step: int
    valid_loss: float
    exact: float | None
    answers: int


class Listener(Protocol):
    """Something that follows a run."""

    def update(self, update: Update) -> None:
        """The weights were updated."""

    def validation(self, validation: Validation) -> None:
        """The held-out rows were looked at."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""

    def close(self) -> None:
        """The run is over, one way or the other."""
