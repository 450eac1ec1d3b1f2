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

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import mlx.core as mx
import numpy as np

from rave_mlx.config import Images, LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.message import ImagePart, Message, Original
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.profiling import depths
from rave_mlx.policies.rereading.answer_attention import answer_attention
from rave_mlx.policies.rereading.crops import (
    Box,
    Latest,
    ask_instead,
    check_locatable,
    is_reduced,
    magnified,
    scaled_box,
)
from rave_mlx.policies.rereading.page_maps import enlarged, page_maps
from rave_mlx.policies.rereading.policy import RereadingPolicy
from rave_mlx.policies.rereading.regions import Floats, Mask, bounds, heaviest, highest

DESCRIBE = "Write a general description of the image."
"""The general instruction, as in the released code."""
MAP_PIXELS = 1 << 20
"""Most pixels of the map in which regions are looked for; a cell of attention covers hundreds of them."""
_SHALLOWEST = 28
"""Layers of the shallowest model of the paper (Qwen2.5-VL-7B)."""


@dataclass(frozen=True)
class CARVE(RereadingPolicy):
    """Cuts out the part of the page that the question is about, blackens the rest and magnifies it.

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
        check_locatable(self.name, config)

    def watched(self, count: int) -> range:
        """The layers, of `count`, whose attention is taken."""
        if self.of is None and self.last < count:
            return range(self.first, self.last + 1)
        return depths(self.first, self.last, self.of or max(_SHALLOWEST, self.last + 1), count)

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> list[Message]:
        """The conversation with the refined images of its latest message with images; as it is without images.

        Raises:
            UsageError: for an image without its original.
            PromptError, MemoryLimitError: where the request for a description does not fit.
        """
        latest = Latest.of(messages)
        config = lmm.config.image
        if latest is None or config is None:
            return list(messages)
        originals = latest.originals(self.name)
        if self.reduced and not any(is_reduced(part.patches, config) for part in latest.parts):
            return list(messages)
        prompts = [lmm.prompt(messages)]
        if self.contrast:
            prompts.append(lmm.prompt(ask_instead(messages, lambda _: DESCRIBE)))
        layers = list(self.watched(len(lmm.config.text.attention_layers)))
        seen = answer_attention(lmm, prompts, layers=layers, tokens=self.tokens, gate=gate, features=features)
        of_image = [prompt.token_map.image[prompt.token_map.visual] for prompt in prompts]
        images = []
        for number, (part, original) in enumerate(zip(latest.parts, originals, strict=True), latest.first):
            asked, *general = (
                page_maps(rows[..., owner == number], part.patches, lmm.config)
                for rows, owner in zip(seen, of_image, strict=True)
            )
            heat = fuse(contrast(asked, general[0], self.lam) if general else asked)
            whole = self.reduced and not is_reduced(part.patches, config)
            refined = part if whole else _refined(self, part, original, heat, config)
            images.append([part, refined] if self.page and refined is not part else [refined])
        return latest.put(messages, images)


def contrast(asked: Floats, general: Floats, lam: float) -> Floats:
    """The contrast A = A^(Q) / (A^(G) + lambda), as far as both answers go.

    Args:
        asked: attention (tokens, ...) while the question is answered.
        general: the same while the page is described.
        lam: lambda, above 0.
    """
    steps = min(len(asked), len(general))
    return asked[:steps] / (general[:steps] + lam)


def fuse(heat: Floats) -> Floats:
    """S (rows, columns) from A (tokens, layers, rows, columns)."""
    total: Floats = np.einsum("tlyx,t->yx", heat, np.arange(1.0, len(heat) + 1))
    return total


def regions(policy: CARVE, grid: Floats, size: tuple[int, int]) -> tuple[Mask, Box]:
    """What is kept of a page: marks on some grid, and the box around them in pixels.

    The box is at least as large as a cell of the map.

    Args:
        policy: how much is kept.
        grid: S (rows, columns).
        size: width and height of the page in pixels.
    """
    width, height = size
    scale = min(1.0, math.sqrt(MAP_PIXELS / (width * height)))
    heat = enlarged(grid, (max(1, round(width * scale)), max(1, round(height * scale))))
    mask = heaviest(heat, highest(heat, policy.p), policy.regions, policy.share)
    box = scaled_box(bounds(mask), (heat.shape[1], heat.shape[0]), size)
    x = _at_least(box[0], box[2], math.ceil(width / grid.shape[1]), width)
    y = _at_least(box[1], box[3], math.ceil(height / grid.shape[0]), height)
    return mask, (x[0], y[0], x[1], y[1])


def _at_least(start: int, stop: int, length: int, most: int) -> tuple[int, int]:
    """A stretch of [0, most) around [start, stop) that is at least `length` long."""
    missing = max(0, min(length, most) - (stop - start))
    start = min(max(0, start - missing // 2), most - (stop - start) - missing)
    return start, max(stop, start + min(length, most))


def _refined(policy: CARVE, part: ImagePart, original: Original, grid: Floats, config: Images) -> ImagePart:
    """The part of an image that S (rows, columns) marks, magnified."""
    mask, box = regions(policy, grid, original.picture.size)
    return magnified(part, original, box, mask, policy.fill, config)
