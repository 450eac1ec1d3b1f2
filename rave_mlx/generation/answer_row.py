"""One answer that is being written, among others: its tokens so far, and how the next one is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.errors import ModelError, RaveError
from rave_mlx.generation.answer_text import AnswerText
from rave_mlx.generation.job import Answer, Ending, Job, NewToken
from rave_mlx.generation.logits_processors import LogitsProcessor
from rave_mlx.generation.prefill import NOT_A_NUMBER
from rave_mlx.generation.repetition import LoopWatch
from rave_mlx.models.lmm import LMM

DRAFT = 16
"""Tokens that are guessed at first; twice as many after guesses that were right, half as many after wrong ones."""
_DRAFTS = (2, 32)
NOTHING_ALLOWED = "the constraint of the answer allows no token here, not even its end; check the schema or grammar"


class AnswerRow:
    """One answer.

    `queue` holds the tokens that are known and not read yet. The first has been written down already; those after it
    are forced by the constraint, and are written down when the logits before them give their probability. After the
    prompt is read and as long as the answer goes on, there is at least one.

    Args:
        lmm: the model.
        job: what is to be written.
        ticket: the scheduler's number of the job.
    """

    def __init__(self, lmm: LMM, job: Job, ticket: int):
        self.job, self.ticket = job, ticket
        self.ids: list[int] = []
        self.probabilities: list[float] = []
        self.queue: list[int] = []
        self.ending: Ending | None = None
        self.error: RaveError | None = None
        self.steps = self.drafted = self.accepted = 0
        self.reused, self.prefill_seconds = 0, 0.0
        self._read = 0
        self._start = job.prompt.token_map.next_position
        self._stop = frozenset(lmm.config.tokens.stop)
        self._text = AnswerText(lmm.tokenizer, job.prompt)
        self._pieces: list[str] = []
        self._handed_out = 0
        self._loops = LoopWatch() if job.ends_loops else None
        self._penalties: list[LogitsProcessor] = job.sampling.logits_processors()
        self._draw = job.sampling.drawer()
        self._tokens = mx.array(job.prompt.ids[0]) if job.processors or self._penalties else None
        self._most_drafted = DRAFT

    @property
    def is_plain(self) -> bool:
        """Whether the next token is simply the most likely one."""
        greedy = self.job.sampling.temperature == 0 and not self._penalties
        return greedy and not self.job.processors and self.job.constraint is None

    @property
    def needs_host(self) -> bool:
        """Whether a token has to be known before the one after it can be computed."""
        return self.job.constraint is not None or self._drafts

    @property
    def _drafts(self) -> bool:
        return self.job.drafts is not None and self.job.sampling.temperature == 0

    @property
    def position(self) -> int:
        """Rotary position of the first token of the queue."""
        return self._start + self._read

    @property
    def remaining(self) -> int:
        """How many more tokens the answer may have."""
        return self.job.max_tokens - len(self.ids)

    def inputs(self) -> list[int]:
        """The tokens to read next: those that are known, and guesses of those after them."""
        known = self.queue[: 1 + max(0, self.remaining)]
        room = min(self._most_drafted, self.remaining - len(known))
        if not self._drafts or self.job.drafts is None or room < 1:
            return known
        guessed = self.job.drafts.draft([*self.ids, *known[1:]], room)[:room]
        self.drafted += len(guessed)
        return known + guessed

    def choose(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        """The next token (1,) and its probability (1,), neither computed yet.

        Args:
            logits: of the model, (1, vocab).

        Raises:
            RaveError: what a logits processor raises; or where the constraint allows nothing.
        """
        scores = self._processed(logits)
        # A penalty changes the array that it is given.
        chosen = mx.array(scores) if self._penalties else scores
        for penalty in self._penalties:
            assert self._tokens is not None
            chosen = penalty(self._tokens, chosen)
        if self.job.constraint is not None:
            chosen = mx.where(_fitted(self.job.constraint.mask(), chosen.shape[-1]), chosen, -mx.inf)
        token = self._draw(chosen)
        return token, probability(scores, token)

    def follow(self, token: mx.array) -> None:
        """Tell the logits processors of the token (1,) that came, which need not be computed yet."""
        if self._tokens is not None:
            self._tokens = mx.concatenate([self._tokens, token.astype(self._tokens.dtype)])

    def begin(self, logits: mx.array) -> None:
        """Choose the first token, from the logits (1, vocab) after the prompt."""
        self.steps += 1
        try:
            self._decide(logits)
        except RaveError as error:
            self.fail(error)

    def settle(self, logits: mx.array, inputs: list[int]) -> int:
        """Go on to the first token that is not known, from what the model says after each of `inputs`.

        Args:
            logits: of the tokens after those of `inputs`, (n, vocab).
            inputs: (n) tokens that were read, as of `inputs()` or the first of them.

        Returns:
            How many of the tokens that were read are the answer's.
        """
        self.steps += 1
        known, kept = len(self.queue), 0
        try:
            for count in self._go_on(logits, inputs):
                kept = count
        except RaveError as error:
            self.fail(error)
        # The last token may have been guessed as well, but there is nothing to be read after it.
        right = kept + int(self.ending is not None and self.queue == inputs[kept : kept + 1])
        self._learn(len(inputs) - known, right - known)
        return kept

    def _go_on(self, logits: mx.array, inputs: list[int]) -> Iterator[int]:
        """`settle`, token by token; yields how many of `inputs` were the answer's so far."""
        best = _most_likely(logits) if self.is_plain else None
        kept = 0
        while kept < len(inputs) and self.ending is None and self.queue[0] == inputs[kept]:
            self.queue.pop(0)
            self._read += 1
            kept += 1
            yield kept
            if best is not None and not self.queue:
                self.queue = [int(best[0][kept - 1])]
                self.add(self.queue[0], float(best[1][kept - 1]))
            elif self.queue:
                self._record(logits[kept - 1 : kept])
            else:
                self._decide(logits[kept - 1 : kept])

    def add(self, token: int, chance: float) -> None:
        """Write down a token and its probability; may end the answer."""
        if math.isnan(chance):
            self.fail(ModelError(NOT_A_NUMBER))
            return
        self.ids.append(token)
        self.probabilities.append(chance)
        if token in self._stop:
            self.ending = "stop"
        elif self.remaining <= 0:
            self.ending = "length"
        piece = self._text.add(token, stopped=token in self._stop, last=self.ending is not None)
        self._pieces.append(piece)
        kept = None if self._loops is None or self.ending == "stop" else self._loops.add(token, piece)
        if kept is not None:
            self.ids, self.probabilities = self.ids[:kept], self.probabilities[:kept]
            self._text.cut(self.ids)
            self.ending = "repetition"

    def next_position(self) -> int:
        """Rotary position of a token that is about to be read; those after it stand one further."""
        self._read += 1
        return self.position - 1

    def take_over(self, token: int, chance: float) -> None:
        """Go on with a token that was chosen on the device, after the one before it was announced (`next_position`)."""
        self.steps += 1
        self.queue = [token]
        self.add(token, chance)

    def fail(self, error: RaveError) -> None:
        """End the answer with an error."""
        self.ending, self.error = "error", error

    def cancel(self) -> None:
        """End the answer where it is."""
        self.ending = "cancelled"

    def new_text(self) -> str:
        """The text that came since this was last asked."""
        return self._text.new()

    def new_tokens(self) -> tuple[NewToken, ...]:
        """The tokens that came since this was last asked."""
        start, self._handed_out = self._handed_out, len(self.ids)
        new = zip(self.ids[start:], self.probabilities[start:], self._pieces[start:], strict=False)
        return tuple(NewToken(*each) for each in new)

    def answer(self) -> Answer:
        """What became of the job; the answer has ended."""
        assert self.ending is not None
        return Answer(
            self.job.key,
            self._text.whole,
            tuple(self.ids),
            np.array(self.probabilities, np.float32),
            self.ending,
            self.error,
            self.steps,
            self.drafted,
            self.accepted,
            self.reused,
            self.prefill_seconds,
        )

    def _processed(self, logits: mx.array) -> mx.array:
        """The logits after the job's processors."""
        for processor in self.job.processors:
            assert self._tokens is not None
            logits = processor(self._tokens, logits)
        return logits.astype(mx.float32)

    def _record(self, logits: mx.array) -> None:
        """Write down the forced token at the head of the queue, from the logits (1, vocab) before it."""
        token = mx.array(self.queue[:1])
        self.add(self.queue[0], float(np.asarray(probability(self._processed(logits), token))[0]))
        self.follow(token)

    def _decide(self, logits: mx.array) -> None:
        """Choose the token after the queue, which is empty, from logits (1, vocab), and what is forced after it."""
        constraint = self.job.constraint
        if constraint is not None and (forced := self._forced()):
            self.queue = forced
            self._record(logits)
            return
        token, chance = self.choose(logits)
        self.follow(token)
        mx.eval(token, chance)
        self.queue = [int(np.asarray(token)[0])]
        self.add(self.queue[0], float(np.asarray(chance)[0]))
        if constraint is not None and self.ending is None:
            constraint.accept(self.queue[0])
            self.queue += self._forced()

    def _forced(self) -> list[int]:
        """The tokens that come next in any case, accepted; a stop token ends them."""
        constraint, found = self.job.constraint, list[int]()
        assert constraint is not None
        while len(found) < self.remaining and (forced := constraint.forced()):
            for token in forced:
                found.append(token)
                if token in self._stop:
                    return found
                constraint.accept(token)
        return found

    def _learn(self, drafted: int, accepted: int) -> None:
        """Guess more tokens after guesses that were right, fewer after wrong ones."""
        if drafted < 1:
            return
        self.accepted += max(0, accepted)
        fewest, most = _DRAFTS
        grown = self._most_drafted * 2 if accepted == drafted else max(self._most_drafted // 2, accepted + 1)
        self._most_drafted = min(most, max(fewest, grown))


def probability(scores: mx.array, token: mx.array) -> mx.array:
    """What scores (B, vocab) in float32 give to tokens (B,)."""
    chosen = mx.take_along_axis(scores, token[:, None].astype(mx.int32), axis=-1)
    return mx.exp(chosen - mx.logsumexp(scores, axis=-1, keepdims=True))[:, 0]


def greedy(logits: mx.array) -> tuple[mx.array, mx.array]:
    """The most likely tokens (B,) of logits (B, vocab), and their probabilities (B,)."""
    tokens = mx.argmax(logits, axis=-1)
    return tokens, probability(logits.astype(mx.float32), tokens)


def _most_likely(logits: mx.array) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    tokens, chances = greedy(logits)
    mx.eval(tokens, chances)
    return np.asarray(tokens), np.asarray(chances)


def _fitted(mask: NDArray[np.bool_], vocabulary: int) -> mx.array:
    """Marks (1, vocabulary) of the allowed tokens: a model may have more ids than its tokenizer.

    Raises:
        ModelError: where there is none.
    """
    marks = np.zeros(vocabulary, bool)
    marks[: len(mask)] = mask[:vocabulary]
    if not marks.any():
        raise ModelError(NOTHING_ALLOWED)
    return mx.array(marks[None])
