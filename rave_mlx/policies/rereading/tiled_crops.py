"""Panes: a page too large to be read whole is read in parts as well, and the surest answer decides. Ours, untrained.

A model that reads a page of 1,600 x 2,200 pixels with 1,000 visual tokens reads a small copy, on which small print is
gone. So it answers from the page and from each of some overlapping panes, cut from the original, that are as large as
the model reads in full: squares first, and where none is sure, strips as wide as what is printed, on which a label and
the value at the other margin stand together. How sure an answer is, is the probability of its least likely token, the
stop token included:

    c = min_t p(y_t | y_1 .. y_{t-1}, image, question)

The image whose answer has the largest c is read instead of the page. Answers that say that nothing was found do not
count: what is asked for is absent from most panes. Where the page's own answer is sure, no pane is read.

Near to it: ZoomEye (arXiv 2411.16044) searches a tree of crops by the model's confidence that it can answer.
"""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import mlx.core as mx

from rave_mlx.errors import UsageError
from rave_mlx.policies.policy import Policy

if TYPE_CHECKING:
    from rave_mlx.config import LMMConfig
    from rave_mlx.inputs.prompt.message import Message
    from rave_mlx.models.lmm import LMM


@dataclass(frozen=True)
class Panes(Policy):
    """The part of a large page that answers the question most surely.

    Attributes:
        most: how many panes of a shape are read at most; of a page with more, they are cut from a smaller copy.
        sure: the certainty from which the page's own answer is taken and no pane is read, or the surest square's and
            no strip; above 1: all are read.
        overlap: share of a pane's side that the next one repeats, so that no line is cut in all of them.
        tokens: longest answer that is compared.
        absent: what the model answers where there is nothing to find.
    """

    name: ClassVar[str] = "panes"
    originals: ClassVar[bool] = True

    most: int = 16
    sure: float = 0.9
    overlap: float = 0.35
    tokens: int = 64
    absent: str = "not found"

    def __post_init__(self) -> None:
        if self.most < 1 or self.tokens < 1:
            raise UsageError("--attention panes: most and tokens must be at least 1")
        if not 0 <= self.overlap < 1 or self.sure < 0:
            raise UsageError(
                f"--attention panes: overlap {self.overlap:g} must be in [0, 1), sure {self.sure:g} 0 or more"
            )

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention panes: this model reads text only; there is no image to look at")

    def layers(self, count: int) -> Collection[int]:
        """None: it acts before anything is read."""
        return ()

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> Sequence[Message]:
        from rave_mlx.policies.rereading.surest import surest

        return surest(self, lmm, messages, gate, features)
