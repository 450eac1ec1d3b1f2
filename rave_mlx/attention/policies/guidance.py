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

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx
import numpy as np

from rave_mlx.attention.policies.base import Policy
from rave_mlx.errors import UsageError
from rave_mlx.sampling import Choose, Sampling

if TYPE_CHECKING:
    from rave_mlx.config import LMMConfig
    from rave_mlx.conversation import Message
    from rave_mlx.models.lmm import LMM


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

    def guide(self, lmm: LMM, messages: Sequence[Message], sampling: Sampling) -> Sampling:
        from rave_mlx.conversation import ImagePart

        text = [replace(m, parts=tuple(p for p in m.parts if not isinstance(p, ImagePart))) for m in messages]
        if self.gamma == 1 or text == list(messages):
            return sampling
        settings = {f.name: getattr(sampling, f.name) for f in dataclasses.fields(Sampling)}
        return Guided(**settings, policy=self, lmm=lmm, messages=tuple(text))


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
class Guided(Sampling):
    """Sampling from guided logits. `messages`: the conversation without its images."""

    policy: Guidance
    lmm: LMM
    messages: tuple[Message, ...]

    def chooser(self) -> Choose:
        """As of `Sampling`; every call is for the token after the one that the call before chose."""
        policy, second, draw = self.policy, _SecondRun(self.lmm, self.messages), super().chooser()

        def choose(ids: list[int], logits: mx.array) -> mx.array:
            scores = guided(logits.astype(mx.float32), second.logits().astype(mx.float32), policy.gamma, policy.cut)
            token = draw(ids, scores)
            second.say(token)
            return token

        return choose


class _SecondRun:
    """The conversation without images, and the answer so far."""

    def __init__(self, lmm: LMM, messages: Sequence[Message]):
        self._lmm = lmm
        self._messages = messages
        self._prompt = lmm.prompt(messages)
        self._cache = lmm.make_cache(gate=False)
        self._said: list[mx.array] = []

    def say(self, token: mx.array) -> None:
        """Go on with a token (1,)."""
        self._said.append(token)

    def logits(self) -> mx.array:
        """Logits (1, vocab) after what was said; called once a token."""
        from rave_mlx.generation import prefill, step
        from rave_mlx.models.frequencies import outgrows

        if not self._said:
            return prefill(self._lmm, self._prompt, self._cache)
        position = self._prompt.token_map.next_position + len(self._said) - 1
        if outgrows(self._lmm.config.text.rope, position + 1):
            return self._read_again()
        return step(self._lmm, self._cache, self._said[-1], position)

    def _read_again(self) -> mx.array:
        """The same after reading everything anew, where rotary frequencies change with the length."""
        from rave_mlx.conversation import Message, TextPart

        said = tuple(np.concatenate([np.array(token) for token in self._said]).tolist())
        answer = Message("assistant", (TextPart("", said),))
        whole = self._lmm.prompt([*self._messages, answer], add_generation_prompt=False)
        self._cache.trim(0)
        hidden = self._lmm.read(whole, self._cache, len(self._prompt) + len(said))
        return self._lmm.decoder.logits(hidden[:, -1:])[:, 0]
