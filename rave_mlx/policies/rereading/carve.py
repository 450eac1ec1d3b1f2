"""CARVE: contrastive attention refinement for visual enhancement (arXiv 2509.06461, ECCV 2026), without training.

The model answers twice, the question (Q) and a request for a general description (G), and is watched: A^(Q), A^(G) is
the attention of the row that chooses answer token t in layer l, mean over heads, over the visual tokens. What the
question alone makes it look at, added up over layers and, later tokens weighing more, over the answer:

    A = A^(Q) / (A^(G) + lambda),   S = sum_t t * sum_l A_{l,t}     t = 1, 2, ... as far as both answers go

S is laid over the page and scaled to it bilinearly. Of its highest share p of pixels, the connected regions with the
largest sums are kept, everything else is blackened, and the box around them is cut out, scaled up and read. It is cut
from the original's pixels: that is where detail comes from that the model could not see.

Paper and released code (`YuyaoGe/CARVE`, a1f0442): the paper reads the refined image instead of the page and keeps K
regions, 2 or 3; the code reads page and refined image together and keeps max(3, n p) of n regions. Presets `paper`,
`released`. Layers 20 to 25 for models of 28 to 40 layers, which is all that the paper has; in a model with fewer than
26 they are scaled by depth, as if they were those of 28. Other deviations: several images, each with its own map; the
map is scaled to at most 2^20 pixels, and the box to the page from there; the code adds "Answer the question using a
single word or phrase." to both prompts, here questions are asked as they are.

Preset `document` is not theirs: on a page that is mostly blank, both answers look at the print alone, and the contrast
of two small numbers beside it is noise that pulls the box away. It takes A^(Q) itself, of all layers but the first
third, and the box around the one heaviest region, with everything that is in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import mlx.core as mx

from rave_mlx.errors import UsageError
from rave_mlx.policies.policy import Policy
from rave_mlx.policies.profiling import depths

if TYPE_CHECKING:
    from rave_mlx.config import LMMConfig
    from rave_mlx.inputs.prompt.message import Message
    from rave_mlx.models.lmm import LMM

DESCRIBE = "Write a general description of the image."
"""The general instruction, as in the released code."""
_SHALLOWEST = 28
"""Layers of the shallowest model of the paper (Qwen2.5-VL-7B)."""


@dataclass(frozen=True)
class CARVE(Policy):
    """The part of the page that the question is about, blackened around and magnified.

    Attributes:
        p: share of the page's pixels that regions are made of; 1 keeps the whole page.
        regions: how many regions are kept at least.
        share: share of all regions that is kept, where that is more.
        page: whether the page is read as well, before the refined image.
        contrast: whether A is the contrast; without it, A^(Q), and no description is asked for.
        reduced: whether only pages that the model reads smaller than they are get a closer look.
        fill: what the rest of the box becomes; none: stays as it is.
        lam: lambda of the contrast.
        tokens: longest answer of the two that are watched.
        first, last: layers that are watched, both included.
        of: how many layers the model has that they count in; in another they stand at the same relative depth. None:
            they are the model's own, where it has them.
    """

    name: ClassVar[str] = "carve"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "released": {"share": 0.2, "page": True},
        "document": {
            "p": 0.05,
            "regions": 1,
            "contrast": False,
            "reduced": True,
            "fill": "none",
            "first": 9,
            "last": 27,
            "of": _SHALLOWEST,
        },
    }
    originals: ClassVar[bool] = True

    p: float = 0.2
    regions: int = 3
    share: float = 0.0
    page: bool = False
    contrast: bool = True
    reduced: bool = False
    fill: Literal["black", "white", "none"] = "black"
    lam: float = 1e-8
    tokens: int = 32
    first: int = 20
    last: int = 25
    of: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1 or not 0 <= self.share <= 1:
            raise UsageError(f"--attention carve: p {self.p:g} and share {self.share:g} must be in (0, 1] and [0, 1]")
        if self.regions < 1 or self.tokens < 1 or self.lam <= 0:
            raise UsageError("--attention carve: regions and tokens must be at least 1, lam above 0")
        if not 0 <= self.first <= self.last or (self.of is not None and self.last >= self.of):
            most = "" if self.of is None else f" below {self.of}"
            raise UsageError(f"--attention carve: layers {self.first} to {self.last} are not a range of layers{most}")

    def check(self, config: LMMConfig) -> None:
        from rave_mlx.policies.rereading.crops import check

        check(self.name, config)

    def layers(self, count: int) -> Collection[int]:
        """None: it acts before anything is read."""
        return ()

    def watched(self, count: int) -> range:
        """The layers, of `count`, whose attention is taken."""
        if self.of is None and self.last < count:
            return range(self.first, self.last + 1)
        return depths(self.first, self.last, self.of or max(_SHALLOWEST, self.last + 1), count)

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> Sequence[Message]:
        from rave_mlx.policies.rereading.carving import carved

        return carved(self, lmm, messages, gate, features)
