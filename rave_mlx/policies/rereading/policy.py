"""What a policy is that reads the page again: before the answer, or beside it."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.generation.logits_processors import LogitsProcessor
from rave_mlx.inputs.prompt.message import Message
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Policy
from rave_mlx.policies.rereading.auxiliary_pass import AuxiliaryPasses

_HOOKS = ("revise", "logits_processor")


@dataclass(frozen=True)
class RereadingPolicy(Policy):
    """Base of policies that change what is read (`revise`) or the logits of the answer (`logits_processor`).

    Most touch no decoder layer (`layers`); gates and policies that do are at work beside them all the same.
    """

    originals: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._hooks |= {name for name in _HOOKS if getattr(cls, name) is not getattr(RereadingPolicy, name)}

    def check(self, config: LMMConfig) -> None:
        """Refuse a model without images.

        Raises:
            UsageError: with what is missing.
        """
        if config.vision is None:
            raise UsageError(f"--attention {self.name}: this model reads text only; there is no image to look at")

    def layers(self, count: int) -> Collection[int]:
        """None."""
        return ()

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> list[Message]:
        """The messages to read instead of these.

        Args:
            lmm: the model.
            messages: the conversation, up to the question at hand.
            gate: whether the model's pair gates are used; None: where it has any that do something.
            features: of images by digest; what is added is not computed again.
        """
        return list(messages)

    def logits_processor(self, messages: Sequence[Message], passes: AuxiliaryPasses) -> LogitsProcessor | None:
        """What changes the logits of one answer before a token is drawn; None to leave them.

        Args:
            messages: the conversation, as revised.
            passes: the model, and where other readings of the conversation are had from.
        """
        return None
