"""How sure a model is of its answer: the probability it gave to the token it was least sure of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np


class TokenConfidence:
    """A logits processor that changes nothing and keeps the probability that the model gave to each token.

    Policies that act on logits come before this processor, temperature, limits and penalties after it: the probability
    is that of the former's result and knows nothing of the latter.
    """

    def __init__(self) -> None:
        self._scores: tuple[mx.array, mx.array] | None = None
        self._probabilities: list[mx.array] = []

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Take the logits (1, vocab) of the token after `tokens` (n,), the last of which the call before led to."""
        if self._scores is not None:
            self._close(tokens[-1:])
        self._scores = logits, mx.logsumexp(logits.astype(mx.float32), axis=-1)
        return logits

    def least(self, answer: Sequence[int]) -> float:
        """The least probability of an answer's tokens (ids, the stop token included); 0 for an empty answer."""
        return min(self.each(answer), default=0.0)

    def each(self, answer: Sequence[int]) -> list[float]:
        """The probability of each of an answer's tokens (ids, the stop token included)."""
        # One more token than the answer has may have been prepared, and its last one may not have been looked up.
        if len(self._probabilities) < len(answer):
            self._close(mx.array([answer[-1]]))
        return [float(np.asarray(probability)[0]) for probability in self._probabilities[: len(answer)]]

    @property
    def is_nan(self) -> bool:
        """Whether the newest probability that is known is not a number. Costs nothing once the token after it is."""
        return bool(self._probabilities) and math.isnan(float(np.asarray(self._probabilities[-1])[0]))

    def _close(self, token: mx.array) -> None:
        """Look up the probability of the token (1,) that was drawn."""
        assert self._scores is not None
        logits, total = self._scores
        chosen = mx.take_along_axis(logits, token[:, None], axis=-1)[:, 0].astype(mx.float32)
        probability = mx.exp(chosen - total)
        # Evaluated now: the logits of a whole answer would otherwise be kept until the end.
        mx.async_eval(probability)
        self._probabilities.append(probability)
        self._scores = None
