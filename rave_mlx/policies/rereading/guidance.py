"""Classifier-free guidance: the answer that the image makes more likely. Untrained.

The second half of PAI (arXiv 2407.21771).

A second run reads the conversation without its images and is fed the tokens of the answer. With p the probabilities of
the next token and q those of the second run, the token is drawn from

    gamma (log p - log q) + log q,   and never from tokens with p below 0.1 of the largest

which is classifier-free guidance with a plausibility cut. `LALBJ/PAI` (4a085d1) has it in `CFG.py`; its commands take
gamma 1.1, its default is 2, as is that of PAINT's code (`hasanar1f/llava-hallunication-fix`, c5ee7da; preset `paint`).
It acts on logits alone and the second run is never steered, as there. PAI and PAINT in full: `pai+guidance`,
`paint+guidance:paint`. Temperature, limits and penalties of sampling apply to what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import mlx.core as mx

from rave_mlx.errors import UsageError
from rave_mlx.generation.logits_processors import LogitsProcessor
from rave_mlx.inputs.prompt.message import ImagePart, Message
from rave_mlx.policies.policy import Steering
from rave_mlx.policies.rereading.auxiliary_pass import AuxiliaryPass, AuxiliaryPasses
from rave_mlx.policies.rereading.policy import RereadingPolicy


@dataclass(frozen=True)
class Guidance(RereadingPolicy):
    """Draws tokens that the image makes more likely than the text alone does.

    Attributes:
        gamma: strength; 1 leaves the order of tokens as it is, and needs no second run.
        cut: probability, as a share of the largest, below which a token is never taken; 0 for none.
    """

    name: ClassVar[str] = "guidance"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pai": {}, "paint": {"gamma": 2.0}}
    originals: ClassVar[bool] = False

    gamma: float = 1.1
    cut: float = 0.1

    def __post_init__(self) -> None:
        if self.gamma < 0 or not 0 <= self.cut < 1:
            raise UsageError(
                f"--attention guidance: gamma {self.gamma:g} must be 0 or more, cut {self.cut:g} in [0, 1)"
            )

    def logits_processor(self, messages: Sequence[Message], passes: AuxiliaryPasses) -> LogitsProcessor | None:
        text = [replace(m, parts=tuple(p for p in m.parts if not isinstance(p, ImagePart))) for m in messages]
        if self.gamma == 1 or text == list(messages):
            return None
        unseen = passes.open("without images", passes.lmm.prompt(text), Steering(gate=False))
        return ContrastImages(self, unseen)


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


class ContrastImages:
    """The logits processor of one answer: `guided` logits, with those of a pass that sees no image."""

    def __init__(self, policy: Guidance, unseen: AuxiliaryPass):
        self._policy, self._unseen = policy, unseen
        self._started = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Guided logits (1, vocab) of the token after `tokens`."""
        if self._started:
            self._unseen.append_token(tokens[-1:])
        self._started = True
        without = self._unseen.logits().astype(mx.float32)
        return guided(logits.astype(mx.float32), without, self._policy.gamma, self._policy.cut)
