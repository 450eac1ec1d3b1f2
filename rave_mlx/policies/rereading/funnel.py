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

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from rave_mlx.config import Images, LMMConfig, TileConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.message import Message
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.profiling import depth
from rave_mlx.policies.rereading.answer_attention import answer_attention
from rave_mlx.policies.rereading.crops import Box, Latest, ask_instead, check_locatable, resized
from rave_mlx.policies.rereading.page_maps import page_maps
from rave_mlx.policies.rereading.policy import RereadingPolicy
from rave_mlx.policies.rereading.regions import Floats

WHERE = "To answer this question, where in the image should I look?"
NATIVE_SIDE = 224
"""S where a model has no tiles to take it from."""


@dataclass(frozen=True)
class VisualFunnel(RereadingPolicy):
    """Reads, after the page, three crops around the place that the question is about.

    Attributes:
        size: S in pixels of the original; None: the side of a tile, or 224.
        layer: the layer whose attention is taken.
        of: how many layers the model has that `layer` counts in; in another it stands at the same relative depth.
    """

    name: ClassVar[str] = "funnel"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "qwen2.5-vl": {"layer": 22, "of": 28}}

    size: int | None = None
    layer: int = 14
    of: int = 32

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UsageError(f"--attention funnel: size is {self.size}; it is a number of pixels, at least 1")
        if not 0 <= self.layer < self.of:
            raise UsageError(f"--attention funnel: layer {self.layer} is not one of layers 0 to {self.of - 1}")

    def check(self, config: LMMConfig) -> None:
        check_locatable(self.name, config)

    def watched(self, count: int) -> int:
        """The layer, of `count`, whose attention is taken."""
        return depth(self.layer, self.of, count)

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> list[Message]:
        """The conversation with crops after each image of its latest message with images; as it is without images.

        Raises:
            UsageError: for an image without its original.
            PromptError, MemoryLimitError: where the question where to look does not fit.
        """
        latest = Latest.of(messages)
        config = lmm.config.image
        if latest is None or config is None:
            return list(messages)
        originals = latest.originals(self.name)
        prompt = lmm.prompt(ask_instead(messages, lambda asked: f"{asked}\n{WHERE}"))
        layer = self.watched(len(lmm.config.text.attention_layers))
        (seen,) = answer_attention(lmm, [prompt], layers=[layer], tokens=1, gate=gate, features=features)
        of_image = prompt.token_map.image[prompt.token_map.visual]
        side = self.size or native_side(config)
        images = []
        for number, (part, original) in enumerate(zip(latest.parts, originals, strict=True), latest.first):
            grid = page_maps(seen[0, 0, of_image == number], part.patches, lmm.config)
            size = original.picture.size
            boxes = [box for box in crops(normalised(grid), size, side) if box != (0, 0, *size)]
            images.append([part, *(resized(original, box, side, config) for box in boxes)])
        return latest.put(messages, images)


def native_side(config: Images) -> int:
    """S when none is given."""
    return config.tile_size if isinstance(config, TileConfig) else NATIVE_SIDE


def normalised(grid: Floats) -> Floats:
    """A map that sums to 1; even where nothing is attended to."""
    total = grid.sum()
    return grid / total if total > 0 else np.full_like(grid, 1 / grid.size)


def entropy(grid: Floats) -> float:
    """H of a map that sums to 1, over the logarithm of its size: 0 for a single cell, 1 for all alike."""
    some = grid[grid > 0]
    return float(-(some * np.log(some)).sum() / math.log(grid.size)) if grid.size > 1 else 0.0


def factors(grid: Floats) -> tuple[float, float]:
    """a1, a2."""
    spread = entropy(grid)
    return 1.2 + 0.6 * spread, 1.6 + 1.2 * spread


def centroid(grid: Floats, size: tuple[int, int], box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Centre of mass (x, y) of the attention within a box, in pixels; the box's middle where there is none.

    Args:
        grid: attention (rows, columns), taken to be even within a cell.
        size: width and height of the page in pixels.
        box: left, top, right, bottom in pixels.
    """
    left, top, right, bottom = box
    x_share, x_middle = _within(grid.shape[1], size[0], left, right)
    y_share, y_middle = _within(grid.shape[0], size[1], top, bottom)
    mass = y_share[:, None] * grid * x_share
    total = mass.sum()
    if total <= 0:
        return (left + right) / 2, (top + bottom) / 2
    return float((mass.sum(axis=0) @ x_middle) / total), float((mass.sum(axis=1) @ y_middle) / total)


def _within(cells: int, length: int, start: float, stop: float) -> tuple[Floats, Floats]:
    """Of each of `cells` equal parts of [0, length): the share in [start, stop), and the middle of that share."""
    edges = np.linspace(0, length, cells + 1)
    low, high = np.clip(edges[:-1], start, stop), np.clip(edges[1:], start, stop)
    return (high - low) * cells / length, (low + high) / 2


def crops(grid: Floats, size: tuple[int, int], side: int) -> tuple[Box, Box, Box]:
    """The boxes to cut out at the three scales, in pixels.

    Args:
        grid: attention (rows, columns) that sums to 1.
        size: width and height of the page in pixels.
        side: S, side of the first crop in pixels.
    """
    first, second = factors(grid)
    found: list[Box] = []
    within: Box = (0, 0, *size)
    for factor in (1.0, first, second):
        within = _box(centroid(grid, size, within), round(factor * side), size)
        found.append(within)
    return found[0], found[1], found[2]


def _box(middle: tuple[float, float], side: int, size: tuple[int, int]) -> Box:
    """A square around a point, moved into the page; a side that does not fit is the page's."""
    edges = []
    for at, most in zip(middle, size, strict=True):
        length = min(side, most)
        start = min(max(0, round(at - length / 2)), most - length)
        edges.append((start, start + length))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom
