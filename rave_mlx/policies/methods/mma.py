"""Modality-mutual attention (AKI, arXiv 2503.02597; ICML 2026): image tokens see the question that follows them.

A model trained with it says so in its configuration (`LMMConfig.mask` "mutual"); there the mask is part of the model
and always on (`inputs.prompt.positions.lookahead_spans`), with or without this policy. On a model trained with a causal
mask the keys seen ahead are new to it, and its answers get worse (RealWorldQA 55.6 to 48.9, as a reading of AIF's table
8 has it); `force` does it all the same, for experiments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.message import Role
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Policy
from rave_mlx.policies.tokens import Tokens


@dataclass(frozen=True)
class MMA(Policy):
    """Lets an image see the rest of its turn, up to where the answer begins, on a model not trained for it.

    Several images each see everything from their own end on; later images of the same turn included. Answers stay
    closed to images, so that reading a conversation gives what reading and writing it gave.

    Attributes:
        force: open the mask of a model that was trained with a causal one.
    """

    name: ClassVar[str] = "mma"
    prefix_reusable: ClassVar[bool] = False
    chunkable: ClassVar[bool] = False

    force: bool = False

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError(
                "--attention mma: this model reads text only and has no visual tokens to open the mask for"
            )
        if config.mask != "mutual" and not self.force:
            raise UsageError(
                f"--attention mma: this {config.family} model was not trained with the mutual mask and would read "
                "worse; mma:force=true opens it all the same"
            )

    def prepare(self, lmm: LMM) -> Mapping[str, Any]:
        return {"trained": lmm.config.mask == "mutual"}

    def visible(self, ctx: Context, allowed: mx.array) -> mx.array:
        if ctx.phase == "decode" or ctx.plan["trained"]:
            return allowed
        lookahead = _seen_ahead(ctx.tokens)[:, ctx.start :]
        return allowed | mx.array(lookahead)[:, None] if lookahead.any() else allowed


def _seen_ahead(tokens: Tokens) -> NDArray[np.bool_]:
    """(B, K, K) marks of the later keys that visual tokens see."""
    batch, length = tokens.role.shape
    lookahead = np.zeros((batch, length, length), bool)
    for row in range(batch):
        answers = np.append(np.flatnonzero(tokens.role[row] == Role.ASSISTANT), length)
        for image in range(tokens.image[row].max(initial=-1) + 1):
            members = np.flatnonzero(tokens.image[row] == image)
            end = int(members[-1]) + 1
            lookahead[row, members, end : int(answers[answers >= end][0])] = True
    return lookahead
