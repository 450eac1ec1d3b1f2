"""How sure a model is of its answer: the probability it gave to the token it was least sure of."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from rave_mlx.generation.sampling import Around, Choose


@dataclass(frozen=True, kw_only=True)
class Watched(Around):
    """Draws tokens as `inner` does, and keeps the probability that the model gave to each.

    It is that before temperature, limits and penalties, and where policies act on logits that of what they make.
    """

    chances: list[mx.array] = field(default_factory=list)

    def chooser(self) -> Choose:
        """As of `inner`."""
        draw = self.inner.chooser()

        def choose(ids: list[int], logits: mx.array) -> mx.array:
            scores = logits.astype(mx.float32)
            # Before drawing: penalties are written into the logits.
            scores = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
            token = draw(ids, logits)
            chance = mx.exp(mx.take_along_axis(scores, token[:, None], axis=-1)[:, 0])
            # With the token: the logits of a whole answer would otherwise be kept until the end.
            mx.async_eval(token, chance)
            self.chances.append(chance)
            return token

        return choose

    def certainty(self, tokens: int) -> float:
        """The least probability among the first `tokens` tokens drawn (one more may have been prepared); 0 for none."""
        return min((float(np.asarray(chance)[0]) for chance in self.chances[:tokens]), default=0.0)
