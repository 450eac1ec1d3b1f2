"""EE-MLLM's composite attention (arXiv 2408.11795) as a mask, without training. Experimental.

A visual token sees only itself, so its attention output is its own value: the decoder's layers serve as an aligner
for visual tokens, and attention among them is not needed. Text sees what it saw before: all visual tokens and earlier
text.

Known from the abstract only: no attention among visual tokens, the decoder's weights reused, a training-free form. No
code was found. That visual tokens read no text either is a recollection, and the saved computation is not realised
here: the mask gives the method's numbers at the price of full attention. A model that was not trained so reads worse.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.policies.policy import Context, Policy


@dataclass(frozen=True)
class EEMLLM(Policy):
    """Closes attention among visual tokens: each sees only itself.

    Attributes:
        first: first layer in which they do; from the number of layers on, nothing changes.
    """

    name: ClassVar[str] = "ee-mllm"

    first: int = 0

    def __post_init__(self) -> None:
        if self.first < 0:
            raise UsageError(f"--attention ee-mllm: first is {self.first}; layers count from 0")

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention ee-mllm: this model reads text only; it has no visual tokens")

    def layers(self, count: int) -> Collection[int]:
        return range(self.first, count)

    def visible(self, ctx: Context, allowed: mx.array) -> mx.array:
        if not ctx.tokens.visual[:, ctx.start :].any():
            return allowed
        keys = mx.arange(len(ctx.tokens))
        own = keys[ctx.start :, None] == keys
        visual = ctx.tokens.marks("visual")[:, None, ctx.start :, None]
        return mx.where(visual, own, allowed)
