"""What `attention.policies.funnel` does with a conversation: watch one row, cut at three scales."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence

import mlx.core as mx
import numpy as np

from rave_mlx.config import Images, TileConfig
from rave_mlx.inputs.prompt.message import Message
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.rereading.answer_attention import answer_attention
from rave_mlx.policies.rereading.crops import Box, Latest, ask_instead, resized
from rave_mlx.policies.rereading.funnel import WHERE, VisualFunnel
from rave_mlx.policies.rereading.page_maps import page_maps
from rave_mlx.policies.rereading.regions import Floats

NATIVE_SIDE = 224
"""S where a model has no tiles to take it from."""


def funneled(
    policy: VisualFunnel,
    lmm: LMM,
    messages: Sequence[Message],
    gate: bool | None,
    features: MutableMapping[str, mx.array],
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
    originals = latest.originals(policy.name)
    prompt = lmm.prompt(ask_instead(messages, lambda asked: f"{asked}\n{WHERE}"))
    layer = policy.watched(lmm.config.text.num_layers)
    (seen,) = answer_attention(lmm, [prompt], layers=[layer], tokens=1, gate=gate, features=features)
    of_image = prompt.token_map.image[prompt.token_map.visual]
    side = policy.size or native_side(config)
    shown = []
    for number, (part, original) in enumerate(zip(latest.parts, originals, strict=True), latest.first):
        grid = page_maps(seen[0, 0, of_image == number], part.patches, lmm.config)
        size = original.picture.size
        boxes = [box for box in crops(normalised(grid), size, side) if box != (0, 0, *size)]
        shown.append([part, *(resized(original, box, side, config) for box in boxes)])
    return latest.put(messages, shown)


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
    """(x, y) of the attention within a box on a page of `size` (width, height), attention being even within a cell.

    Where there is none, the middle of the box.
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
    """The three boxes, in pixels of a page of `size` (width, height), from a map that sums to 1."""
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
