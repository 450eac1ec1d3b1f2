"""Guidance: the answer that the image makes more likely (PAI's second half, arXiv 2407.21771), without training.

A second run reads the conversation without its images and is fed the tokens of the answer. With p the probabilities of
the next token and q those of the second run, the token is drawn from

    gamma (log p - log q) + log q,   and never from tokens with p below 0.1 of the largest

which is classifier-free guidance with a plausibility cut. `LALBJ/PAI` (4a085d1) has it in `CFG.py`; its commands take
gamma 1.1, its default is 2, as is that of PAINT's code (`hasanar1f/llava-hallunication-fix`, c5ee7da; preset `paint`).
It acts on logits alone and the second run is never steered, as there. PAI and PAINT in full: `pai+guidance`,
`paint+guidance:paint`. Temperature, limits and penalties of sampling apply to what comes out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from rave_mlx.errors import UsageError
from rave_mlx.generation.sampling import Around, Choose, Sampling
from rave_mlx.policies.policy import Policy

if TYPE_CHECKING:
    from rave_mlx.config import LMMConfig
    from rave_mlx.inputs.prompt.message import Message
    from rave_mlx.inputs.prompt.prompt import Prompt
    from rave_mlx.policies.rereading.auxiliary_pass import Readings


@dataclass(frozen=True)
class Guidance(Policy):
    """Tokens that the image speaks for.

    Attributes:
        gamma: strength; 1 leaves the order of tokens as it is, and needs no second run.
        cut: probability, as a share of the largest, below which a token is never taken; 0 for none.
    """

    name: ClassVar[str] = "guidance"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pai": {}, "paint": {"gamma": 2.0}}

    gamma: float = 1.1
    cut: float = 0.1

    def __post_init__(self) -> None:
        if self.gamma < 0 or not 0 <= self.cut < 1:
            raise UsageError(
                f"--attention guidance: gamma {self.gamma:g} must be 0 or more, cut {self.cut:g} in [0, 1)"
            )

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention guidance: this model reads text only; there is no image to answer from")

    def layers(self, count: int) -> Collection[int]:
        """None: it acts on logits."""
        return ()

    def guide(self, messages: Sequence[Message], sampling: Sampling, readings: Readings) -> Sampling:
        from rave_mlx.inputs.prompt.message import ImagePart

        text = [replace(m, parts=tuple(p for p in m.parts if not isinstance(p, ImagePart))) for m in messages]
        if self.gamma == 1 or text == list(messages):
            return sampling
        return Guided.of(sampling, policy=self, readings=readings, prompt=readings.lmm.prompt(text))


def guided(scores: mx.array, without: mx.array, gamma: float, cut: float) -> mx.array:
    """Logits (1, vocab) to draw from.

    Args:
        scores: logits (1, vocab) of the model.
        without: those of the run without images.
        gamma, cut: as in `Guidance`.
    """
    seen, unseen = (x - mx.logsumexp(x, axis=-1, keepdims=True) for x in (scores, without))
    mixed = gamma * (seen - unseen) + unseen
    if cut == 0:
        return mixed
    return mx.where(seen < mx.max(seen, axis=-1, keepdims=True) + mx.log(mx.array(cut)), -mx.inf, mixed)


@dataclass(frozen=True, kw_only=True)
class Guided(Around):
    """Sampling from guided logits. `prompt`: the conversation without its images."""

    policy: Guidance
    readings: Readings
    prompt: Prompt

    def chooser(self) -> Choose:
        """As of `inner`; every call is for the token after the one that the call before chose."""
        from rave_mlx.policies.parse import Steering

        policy, draw = self.policy, self.inner.chooser()
        second = self.readings.open("without images", self.prompt, Steering(gate=False))

        def choose(ids: list[int], logits: mx.array) -> mx.array:
            scores = guided(logits.astype(mx.float32), second.logits().astype(mx.float32), policy.gamma, policy.cut)
            token = draw(ids, scores)
            second.say(token)
            return token

        return choose
