"""Visual Funnel: crops at three scales (arXiv 2512.10362, CVPR 2026), without training.

The model is asked where one should look to answer the question. The attention A of the row that chooses the first
token of its response, mean over heads, over the visual tokens, in one layer, normalised over the page, says where to
cut and, by its entropy over the n cells of the page, how wide:

    H = -sum A log A / log n,   a1 = 1.2 + 0.6 H,   a2 = 1.6 + 1.2 H
    mu_0 = centroid of A;   mu_1, mu_2 = centroid of A within the crop before
    crops: S x S at mu_0, a1 S x a1 S at mu_1, a2 S x a2 S at mu_2, each scaled to S x S

They are read after the page, in this order, cut from the original's pixels (S counts those too). Crops are moved into
the page where they would leave it, and no larger than it; one that is the whole page is not read again.

Known from notes on the paper, there is no code. The layer is that of ViCrop (arXiv 2502.17422): 14 in its code for
LLaVA-1.5-7B, the default here, by depth in other models; 22 for Qwen2.5-VL, taken to be the 28 layers of the 7B
(preset). Uncertain: S (here the side of a tile, and 224 at native resolution, as ViCrop's base crop), and the end of
the prompt (here the question, before the one sentence that is known).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from rave_mlx.errors import UsageError
from rave_mlx.policies.policy import Policy
from rave_mlx.policies.profiling import depth

if TYPE_CHECKING:
    from rave_mlx.config import LMMConfig
    from rave_mlx.inputs.prompt.message import Message
    from rave_mlx.models.lmm import LMM

WHERE = "To answer this question, where in the image should I look?"


@dataclass(frozen=True)
class VisualFunnel(Policy):
    """The page, then three crops around the place that the question is about.

    Attributes:
        size: S in pixels of the original; None: the side of a tile, or 224.
        layer: the layer whose attention is taken.
        of: how many layers the model has that `layer` counts in; in another it stands at the same relative depth.
    """

    name: ClassVar[str] = "funnel"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "qwen2.5-vl": {"layer": 22, "of": 28}}
    originals: ClassVar[bool] = True

    size: int | None = None
    layer: int = 14
    of: int = 32

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UsageError(f"--attention funnel: size is {self.size}; it is a number of pixels, at least 1")
        if not 0 <= self.layer < self.of:
            raise UsageError(f"--attention funnel: layer {self.layer} is not one of layers 0 to {self.of - 1}")

    def check(self, config: LMMConfig) -> None:
        from rave_mlx.policies.rereading.crops import check

        check(self.name, config)

    def layers(self, count: int) -> Collection[int]:
        """None: it acts before anything is read."""
        return ()

    def watched(self, count: int) -> int:
        """The layer, of `count`, whose attention is taken."""
        return depth(self.layer, self.of, count)

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> Sequence[Message]:
        from rave_mlx.policies.rereading.funneling import funneled

        return funneled(self, lmm, messages, gate, features)
