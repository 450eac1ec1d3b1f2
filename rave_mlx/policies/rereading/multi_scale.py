"""Views: where the next token is in doubt, the page is read at other sizes too, and all readings decide. Untrained.

A letter that is cut by a patch's edge, or that is small, is read wrongly at one size of the page and rightly at most
others. While the reading of the page gives its best token a probability of at least `sure`, that token is taken. Where
it does not, further readings of the same conversation, in which the page has other sizes, are asked one after the other
until those asked are that sure together. The token is drawn from the mean of the logarithms of their probabilities p_v,
the page's own among them, v = 0:

    log p(y) = 1/(V + 1) sum_v log p_v(y) - log Z

Every reading has its own cache and follows the answer that all of them write together. A reading is made when it is
first asked and catches up with the answer when it is asked again: a sure answer costs what it costs without.

Near to it: TTAug (arXiv 2510.03574) averages the probabilities of small models over augmented copies of image and
question, for every token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import mlx.core as mx
import numpy as np

from rave_mlx.errors import PromptError, UsageError
from rave_mlx.generation.sampling import Around, Choose, Sampling
from rave_mlx.policies.policy import Policy

if TYPE_CHECKING:
    from rave_mlx.config import LMMConfig
    from rave_mlx.inputs.prompt.message import Message
    from rave_mlx.policies.rereading.auxiliary_pass import Readings, SecondRun


@dataclass(frozen=True)
class Views(Policy):
    """Several sizes of the page, where one leaves doubt.

    Attributes:
        scales: the other sizes, as shares of the page's side as it is read, in the order in which they are asked.
        sure: probability of the best token from which no further size is asked; above 1: always ask all.
    """

    name: ClassVar[str] = "views"
    originals: ClassVar[bool] = True

    scales: tuple[float, ...] = (0.9, 1.1, 1.2)
    sure: float = 0.95

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales) or self.sure < 0:
            shown = "/".join(f"{scale:g}" for scale in self.scales) or "none"
            raise UsageError(
                f"--attention views: scales {shown} must be one or more from 0.1 to 10, sure {self.sure:g} 0 or more"
            )

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention views: this model reads text only; there is no image to look at")

    def layers(self, count: int) -> Collection[int]:
        """None: it acts on logits."""
        return ()

    def guide(self, messages: Sequence[Message], sampling: Sampling, readings: Readings) -> Sampling:
        return Together.of(sampling, policy=self, messages=tuple(messages), readings=readings)


def together(scores: Sequence[mx.array]) -> mx.array:
    """Logits (1, vocab) to draw from: the mean of the readings' logarithms of probabilities.

    Args:
        scores: of each reading, (1, vocab).
    """
    return sum((x - mx.logsumexp(x, axis=-1, keepdims=True) for x in scores), mx.zeros_like(scores[0])) / len(scores)


@dataclass(frozen=True, kw_only=True)
class Together(Around):
    """Sampling from what several readings say. `messages`: the conversation, as revised."""

    policy: Views
    messages: tuple[Message, ...]
    readings: Readings

    def chooser(self) -> Choose:
        """As of `inner`; every call is for the token after the one that the call before chose."""
        draw, stop = self.inner.chooser(), self.readings.lmm.config.tokens.stop
        said: list[mx.array] = []
        others: list[SecondRun] | None = None

        def choose(ids: list[int], logits: mx.array) -> mx.array:
            nonlocal others
            scores = logits.astype(mx.float32)
            # One more token than the answer has is prepared: nobody will read what follows a stop token.
            over = bool(said) and int(np.asarray(said[-1])[0]) in stop
            if not over and self._in_doubt(scores):
                if others is None:
                    others = self._readings(said)
                scores = self._asked(scores, others)
            token = draw(ids, scores)
            said.append(token)
            for other in others or []:
                other.say(token)
            return token

        return choose

    def _asked(self, scores: mx.array, others: Sequence[SecondRun]) -> mx.array:
        """Logits (1, vocab) of the page's `scores` and of as many others as it takes to be sure."""
        asked = [scores]
        for other in others:
            asked.append(other.logits().astype(mx.float32))
            scores = together(asked)
            if not self._in_doubt(scores):
                break
        return scores

    def _in_doubt(self, scores: mx.array) -> bool:
        best = mx.exp(mx.max(scores) - mx.logsumexp(scores))
        return float(best) < self.policy.sure

    def _readings(self, said: Sequence[mx.array]) -> list[SecondRun]:
        """One for each scale at which any of the latest images looks different and the prompt still fits.

        They are told what was `said`, and read when they are first asked.

        Images without original stay as they are.
        """
        from rave_mlx.policies.rereading.crops import Latest
        from rave_mlx.policies.rereading.page_sizes import views

        lmm, latest = self.readings.lmm, Latest.of(self.messages)
        config = lmm.config.image
        if latest is None or config is None:
            return []
        sizes = [
            [] if part.original is None else views(part, part.original, config, self.policy.scales)
            for part in latest.parts
        ]
        readings = []
        for number in range(max(map(len, sizes))):
            shown = [[of[number] if number < len(of) else part] for of, part in zip(sizes, latest.parts, strict=True)]
            try:
                prompt = lmm.prompt(latest.put(self.messages, shown))
            except PromptError:
                continue  # A larger page is longer than the context; the page itself is not.
            readings.append(self.readings.open(f"view {number}", prompt))
            for token in said:
                readings[-1].say(token)
        return readings
