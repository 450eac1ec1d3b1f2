"""Multi-scale ensemble (`--attention views`): where a token is in doubt, other sizes of the page are read. Untrained.

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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import numpy as np

from rave_mlx.errors import PromptError, UsageError
from rave_mlx.generation.logits_processors import LogitsProcessor
from rave_mlx.inputs.prompt.message import Message
from rave_mlx.policies.rereading.auxiliary_pass import AuxiliaryPass, AuxiliaryPasses
from rave_mlx.policies.rereading.crops import Latest
from rave_mlx.policies.rereading.page_sizes import page_sizes
from rave_mlx.policies.rereading.policy import RereadingPolicy


@dataclass(frozen=True)
class MultiScale(RereadingPolicy):
    """Reads the page at other sizes as well, where the first leaves a token in doubt.

    Attributes:
        scales: the other sizes, as shares of the page's side as it is read, in the order in which they are asked.
        sure: probability of the best token from which no further size is asked; above 1: always ask all.
    """

    name: ClassVar[str] = "views"

    scales: tuple[float, ...] = (0.9, 1.1, 1.2)
    sure: float = 0.95

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales) or self.sure < 0:
            given = "/".join(f"{scale:g}" for scale in self.scales) or "none"
            raise UsageError(
                f"--attention views: scales {given} must be one or more from 0.1 to 10, sure {self.sure:g} 0 or more"
            )

    def logits_processor(self, messages: Sequence[Message], passes: AuxiliaryPasses) -> LogitsProcessor | None:
        return AverageScales(self, messages, passes)


def mean_log_probabilities(scores: Sequence[mx.array]) -> mx.array:
    """Logits (1, vocab) to draw from: the mean of the readings' logarithms of probabilities.

    Args:
        scores: of each reading, (1, vocab).
    """
    return sum((x - mx.logsumexp(x, axis=-1, keepdims=True) for x in scores), mx.zeros_like(scores[0])) / len(scores)


class AverageScales:
    """The logits processor of one answer: where the page leaves doubt, what its other sizes say is averaged in.

    Args:
        policy: the sizes and the doubt.
        messages: the conversation, as revised.
        passes: where the other readings are had from.
    """

    def __init__(self, policy: MultiScale, messages: Sequence[Message], passes: AuxiliaryPasses):
        self._policy, self._messages, self._passes = policy, tuple(messages), passes
        self._answer_start: int | None = None
        self._others: list[AuxiliaryPass] | None = None

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits (1, vocab) of the token after `tokens`."""
        if self._answer_start is None:
            self._answer_start = len(tokens)
        for other in self._others or []:
            other.append_token(tokens[-1:])
        scores = logits.astype(mx.float32)
        # One more token than the answer has is prepared: nobody will read what follows a stop token.
        stop = self._passes.lmm.config.tokens.stop
        last = tokens[-1:]
        mx.async_eval(last, scores)  # the token is looked at while its logits are computed
        over = len(tokens) > self._answer_start and int(np.asarray(last)[0]) in stop
        if over or not self._in_doubt(scores):
            return scores
        if self._others is None:
            self._others = self._open_passes(tokens[self._answer_start :])
        return self._asked(scores, self._others)

    def _asked(self, scores: mx.array, others: Sequence[AuxiliaryPass]) -> mx.array:
        """Logits (1, vocab) of the page's `scores` and of as many others as it takes to be sure."""
        asked = [scores]
        for other in others:
            asked.append(other.logits().astype(mx.float32))
            scores = mean_log_probabilities(asked)
            if not self._in_doubt(scores):
                break
        return scores

    def _in_doubt(self, scores: mx.array) -> bool:
        """Whether the most likely token of `scores` (1, vocab) is less likely than `sure`."""
        best = mx.exp(mx.max(scores) - mx.logsumexp(scores))
        return float(best) < self._policy.sure

    def _open_passes(self, answer: mx.array) -> list[AuxiliaryPass]:
        """One pass for each scale at which any of the latest images looks different and the prompt still fits.

        They are given the `answer` (n,) so far, and read when they are first asked. Images without original stay as
        they are.
        """
        lmm, latest = self._passes.lmm, Latest.of(self._messages)
        config = lmm.config.image
        if latest is None or config is None:
            return []
        sizes = [
            [] if part.original is None else page_sizes(part, part.original, config, self._policy.scales)
            for part in latest.parts
        ]
        opened = []
        for number in range(max(map(len, sizes))):
            images = [[of[number] if number < len(of) else part] for of, part in zip(sizes, latest.parts, strict=True)]
            try:
                prompt = lmm.prompt(latest.put(self._messages, images))
            except PromptError:
                continue  # A larger page is longer than the context; the page itself is not.
            opened.append(self._passes.open(f"scale {number}", prompt))
            for index in range(len(answer)):
                opened[-1].append_token(answer[index : index + 1])
        return opened
