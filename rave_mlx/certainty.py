"""How sure a model is of its answer: the probability it gave to the token it was least sure of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from rave_mlx.sampling import Choose, Sampling


@dataclass(frozen=True, kw_only=True)
class Watched(Sampling):
    """Draws tokens as `inner` does, and keeps the probability that the model gave to each.

    It is the model's own, before temperature, limits, penalties and guidance. One generation for each object.
    """

    inner: Sampling
    chances: list[mx.array] = field(default_factory=list)

    @classmethod
    def of(cls, sampling: Sampling) -> Watched:
        """A watch over a way of sampling."""
        same = {f.name: getattr(sampling, f.name) for f in dataclasses.fields(Sampling)}
        return cls(**same, inner=sampling)

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
