"""What a batch of answers is made of: jobs that go in, answers that come out, and what may steer one of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rave_mlx.errors import RaveError
from rave_mlx.generation.logits_processors import LogitsProcessor
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.hooks import PassHooks

Ending = Literal["stop", "length", "repetition", "cancelled", "error"]


class Constraint(Protocol):
    """What an answer must look like, token by token. Belongs to one answer; calls follow its tokens in order."""

    def mask(self) -> NDArray[np.bool_]:
        """(vocab,) marks of the tokens that may come next; the stop tokens where the answer may end here."""

    def forced(self) -> list[int]:
        """Tokens that must come next whatever the model says; empty where it has a choice."""

    def accept(self, token: int) -> None:
        """The next token of the answer is this one.

        Raises:
            ValueError: for a token that `mask` does not allow.
        """


class DraftSource(Protocol):
    """Guesses how an answer goes on. A wrong guess costs time and changes nothing. Belongs to one answer."""

    def draft(self, answer: Sequence[int], most: int) -> list[int]:
        """At most `most` ids that may follow the answer so far (ids); empty where nothing is known."""


@dataclass(frozen=True, eq=False)
class Job:
    """One answer to be written.

    Attributes:
        prompt: what is read.
        max_tokens: limit of the answer's length.
        sampling: how tokens are drawn.
        processors: change the logits of every token, in this order, before those of `sampling` do; fresh ones.
        hooks: makes the attention policies of the answer; such an answer is written by itself. None for none.
        gate: whether the pair gates are used; None: where the model has any that do something.
        constraint: what the answer must look like.
        drafts: guesses of the answer, used where it is greedy.
        ends_loops: whether an answer that repeats itself without end is cut.
        key: whatever the caller knows the job by.
    """

    prompt: Prompt
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    processors: tuple[LogitsProcessor, ...] = ()
    hooks: Callable[[], PassHooks | None] | None = None
    gate: bool | None = None
    constraint: Constraint | None = None
    drafts: DraftSource | None = None
    ends_loops: bool = True
    key: Hashable = None


@dataclass(frozen=True)
class NewToken:
    """A token of an answer that is being written.

    Attributes:
        id: its id.
        probability: what the model gave to it; see `Answer.probabilities`.
        text: the characters that it completed; none for a stop token, or within a character.
    """

    id: int
    probability: float
    text: str


@dataclass(frozen=True, eq=False)
class Failed:
    """In place of a job that could not be made (a page that does not open, say); becomes an answer with the error."""

    error: RaveError
    key: Hashable = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of a job.

    Attributes:
        key: the job's.
        text: the answer, without the stop token.
        ids: its tokens, the stop token included where it has one.
        probabilities: (T,) what the model gave to each of `ids`, after `Job.processors` and before sampling, penalties
            and the constraint; float32.
        ending: "stop" when the model ended it, "length" when a limit did, "repetition" when it was cut as a loop,
            "cancelled", or "error".
        error: what went wrong; then the other fields hold what there was until then.
        steps: passes of the decoder that wrote it.
        drafted, accepted: tokens that were guessed, and those of them that were right.
        reused: tokens of the prompt that were known from a prompt before.
        prefill_seconds: from the beginning of the reading of the prompt to the first token, what other answers took
            meanwhile included.
    """

    key: Hashable
    text: str = ""
    ids: tuple[int, ...] = ()
    probabilities: NDArray[np.float32] | None = None
    ending: Ending = "stop"
    error: RaveError | None = None
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    reused: int = 0
    prefill_seconds: float = 0.0

    @property
    def certainty(self) -> float:
        """The least probability of its tokens; 0 for an empty answer."""
        return 0.0 if self.probabilities is None or not len(self.probabilities) else float(self.probabilities.min())
