"""Answers that are known before they are written: a processor that weighs them against what the model would write.

Let the answer be one of some known texts with probability w_c each, and with the rest of the probability whatever the
model writes. The next token is then drawn from

    p(y_t | y_<t) = (sum_c w_c [c begins with y_<= t] + w_0 P(y_<= t)) / (sum_c w_c [c begins with y_<t] + w_0 P(y_<t))

with P the model's probability of the tokens so far: a text that the model writes too gains from both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

_FLOOR = 1e-9


@dataclass(frozen=True)
class KnownAnswer:
    """An answer that may be right: its tokens, the stop token included, and its probability."""

    ids: tuple[int, ...]
    probability: float


class AnswerMixture:
    """The logits processor of one answer.

    Args:
        find: the known answers; called at most once, when the first token is drawn or, with `sure`, as soon as the
            model doubts a token. Their probabilities sum to 1 at most.
        sure: probability of the best token up to which the model writes alone; above 1: never.
        doubted: tokens that no answer of the model's own may begin with, however sure.
    """

    def __init__(
        self, find: Callable[[], Sequence[KnownAnswer]], *, sure: float = 2.0, doubted: Collection[int] = ()
    ) -> None:
        self._find, self._sure, self._doubted = find, sure, frozenset(doubted)
        self._known: list[KnownAnswer] | None = None
        self._begun: list[int] = []
        self._start: int | None = None
        self._model = 1.0
        self._own = np.zeros(0)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits (1, vocab) of the token after `tokens`."""
        if self._start is None:
            self._start = len(tokens)
        elif self._known is None or self._known:
            self._follow(int(np.asarray(tokens[-1:])[0]))
        if self._known is not None and not self._known:
            return logits
        self._own = np.array(mx.softmax(logits.astype(mx.float32), axis=-1))[0].astype(np.float64)
        if self._known is None:
            best = int(self._own.argmax())
            if self._own[best] >= self._sure and (self._begun or best not in self._doubted):
                return logits
            self._open()
        if not self._known:
            return logits
        mixed = self._model * self._own
        for answer in self._known:
            mixed[answer.ids[len(self._begun)]] += answer.probability
        return mx.array(np.log(np.maximum(mixed, _FLOOR * _FLOOR)).astype(np.float32))[None]

    def _open(self) -> None:
        """Find the known answers; of a begun answer, those that begin so, weighed by what the model gave to that."""
        found = [answer for answer in self._find() if answer.probability > 0]
        model = max(_FLOOR, 1.0 - sum(answer.probability for answer in found))
        begun = len(self._begun)
        fitting = [a for a in found if list(a.ids[:begun]) == self._begun and len(a.ids) > begun]
        self._weigh(fitting, model * self._model)

    def _follow(self, token: int) -> None:
        """The answer goes on with a token: known answers that do not are given up, and the others weigh the more."""
        place = len(self._begun)
        self._begun.append(token)
        model = self._model * max(_FLOOR, float(self._own[token]))
        if self._known is None:
            self._model = model
            return
        self._weigh([a for a in self._known if a.ids[place] == token and len(a.ids) > place + 1], model)

    def _weigh(self, known: Sequence[KnownAnswer], model: float) -> None:
        """Share out the probability anew."""
        # Far into a long answer that the model would not write, its share is less than a float can hold.
        model = max(_FLOOR * _FLOOR, model)
        total = model + sum(answer.probability for answer in known)
        self._model = model / total
        self._known = [replace(answer, probability=answer.probability / total) for answer in known]
