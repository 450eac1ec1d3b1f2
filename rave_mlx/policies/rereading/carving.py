"""What `attention.policies.carve` does with a conversation: watch two answers, contrast, cut."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence

import mlx.core as mx
import numpy as np

from rave_mlx.config import Images
from rave_mlx.inputs.prompt.message import ImagePart, Message, Original
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.rereading.answer_attention import answer_attention
from rave_mlx.policies.rereading.carve import CARVE, DESCRIBE
from rave_mlx.policies.rereading.crops import Box, Latest, ask_instead, is_reduced, magnified, scaled_box
from rave_mlx.policies.rereading.page_maps import enlarged, page_maps
from rave_mlx.policies.rereading.regions import Floats, Mask, bounds, heaviest, highest

MAP_PIXELS = 1 << 20
"""Most pixels of the map in which regions are looked for; a cell of attention covers hundreds of them."""


def carved(
    policy: CARVE,
    lmm: LMM,
    messages: Sequence[Message],
    gate: bool | None,
    features: MutableMapping[str, mx.array],
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
    originals = latest.originals(policy.name)
    if policy.reduced and not any(is_reduced(part.patches, config) for part in latest.parts):
        return list(messages)
    prompts = [lmm.prompt(messages)]
    if policy.contrast:
        prompts.append(lmm.prompt(ask_instead(messages, lambda _: DESCRIBE)))
    layers = list(policy.watched(lmm.config.text.num_layers))
    seen = answer_attention(lmm, prompts, layers=layers, tokens=policy.tokens, gate=gate, features=features)
    of_image = [prompt.token_map.image[prompt.token_map.visual] for prompt in prompts]
    shown = []
    for number, (part, original) in enumerate(zip(latest.parts, originals, strict=True), latest.first):
        asked, *general = (
            page_maps(rows[..., owner == number], part.patches, lmm.config)
            for rows, owner in zip(seen, of_image, strict=True)
        )
        heat = fuse(contrast(asked, general[0], policy.lam) if general else asked)
        whole = policy.reduced and not is_reduced(part.patches, config)
        refined = part if whole else _refined(policy, part, original, heat, config)
        shown.append([part, refined] if policy.page and refined is not part else [refined])
    return latest.put(messages, shown)


def contrast(asked: Floats, general: Floats, lam: float) -> Floats:
    """A from A^(Q) and A^(G) (tokens, ...), as far as both answers go."""
    steps = min(len(asked), len(general))
    return asked[:steps] / (general[:steps] + lam)


def fuse(heat: Floats) -> Floats:
    """S (rows, columns) from A (tokens, layers, rows, columns)."""
    total: Floats = np.einsum("tlyx,t->yx", heat, np.arange(1.0, len(heat) + 1))
    return total


def regions(policy: CARVE, grid: Floats, size: tuple[int, int]) -> tuple[Mask, Box]:
    """What is kept of a page of `size` (width, height): marks on some grid, and the box around them in pixels.

    The box is at least as large as a cell of the map.
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
    mask, box = regions(policy, grid, original.picture.size)
    return magnified(part, original, box, mask, policy.fill, config)
