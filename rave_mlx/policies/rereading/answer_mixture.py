"""Answers that are known before they are written: a processor that weighs them against what the model would write.

Let the answer be one of some known texts with probability w_c each, and with the rest of the probability whatever the
model writes. The next token is then drawn from

    p(y_t | y_<t) = (sum_c w_c [c begins with y_<= t] + w_0 P(y_<= t)) / (sum_c w_c [c begins with y_<t] + w_0 P(y_<t))

with P the model's probability of the tokens so far: a text that the model writes too gains from both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        find: the known answers; called when the first token is drawn. Their probabilities sum to 1 at most.
    """

    def __init__(self, find: Callable[[], Sequence[KnownAnswer]]):
        self._find = find
        self._known: list[KnownAnswer] | None = None
        self._model = 1.0
        self._written = 0
        self._own = np.zeros(0)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits (1, vocab) of the token after `tokens`."""
        if self._known is None:
            self._known = [answer for answer in self._find() if answer.probability > 0]
            self._model = max(_FLOOR, 1.0 - sum(answer.probability for answer in self._known))
        elif self._known:
            self._follow(int(np.asarray(tokens[-1:])[0]))
        if not self._known:
            return logits
        self._own = np.array(mx.softmax(logits.astype(mx.float32), axis=-1))[0].astype(np.float64)
        mixed = self._model * self._own
        for answer in self._known:
            mixed[answer.ids[self._written]] += answer.probability
        return mx.array(np.log(np.maximum(mixed, _FLOOR * _FLOOR)).astype(np.float32))[None]

    def _follow(self, token: int) -> None:
        """The answer goes on with a token: known answers that do not are given up, and the others weigh the more."""
        begun = [a for a in self._known or () if a.ids[self._written] == token and len(a.ids) > self._written + 1]
        self._written += 1
        self._model *= max(_FLOOR, float(self._own[token]))
        # Far into a long answer that the model would not write, its share is less than a float can hold.
        self._model = max(_FLOOR * _FLOOR, self._model)
        total = self._model + sum(answer.probability for answer in begun)
        self._model /= total
        self._known = [replace(answer, probability=answer.probability / total) for answer in begun]
