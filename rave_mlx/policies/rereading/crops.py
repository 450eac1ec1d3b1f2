"""Cutting parts out of an original and reading them as images of their own; where in a conversation that happens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from rave_mlx.config import Connector, ImageConfig, Images, LMMConfig, ResamplerConfig, TileConfig, ViewConnectorConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.images.patches import RESAMPLE, ImagePatches
from rave_mlx.inputs.images.preprocess import cut_patches, fit_size
from rave_mlx.inputs.images.tiling import TILED_IMAGE_TOKENS, least_tokens
from rave_mlx.inputs.prompt.message import ImagePart, Message, Original, TextPart
from rave_mlx.policies.rereading.regions import Mask

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels, right and bottom exclusive."""
Fill = Literal["black", "white", "none"]
_WHOLE = 0.9
"""Scale from which a page counts as read in its own size."""


def check_locatable(name: str, config: LMMConfig) -> None:
    """Refuse a model in which nothing can be located.

    Raises:
        UsageError: for a text-only model, or one whose visual tokens have no place on the page.
    """
    if config.vision is None:
        raise UsageError(f"--attention {name}: this model reads text only; there is no image to look at")
    connector: Connector | None = config.connector
    if isinstance(connector, ResamplerConfig):
        raise UsageError(
            f"--attention {name}: every visual token of this model reads the whole image (a resampler's), so it "
            "cannot tell where to cut"
        )
    if isinstance(connector, ViewConnectorConfig):
        raise UsageError(
            f"--attention {name}: every visual token of this model is a learned query that reads a whole tile, so it "
            "cannot tell where to cut"
        )


@dataclass(frozen=True)
class Latest:
    """The latest message with images, which are what these policies cut or resize.

    Attributes:
        index: of the message.
        parts: its image parts.
        first: number of the first of them among all images of the conversation.
    """

    index: int
    parts: tuple[ImagePart, ...]
    first: int

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Latest | None:
        """None for a conversation without images."""
        images = [tuple(p for p in m.parts if isinstance(p, ImagePart)) for m in messages]
        index = next((i for i in reversed(range(len(images))) if images[i]), None)
        return None if index is None else cls(index, images[index], sum(map(len, images[:index])))

    def originals(self, name: str) -> list[Original]:
        """The originals of the images.

        Raises:
            UsageError: for an image that came without.
        """
        found = [part.original for part in self.parts if part.original is not None]
        if len(found) < len(self.parts):
            raise UsageError(
                f"--attention {name}: an image of this conversation came without its original (it was saved, or read "
                "before the policy was on); show it again"
            )
        return found

    def put(self, messages: Sequence[Message], images: Sequence[Sequence[ImagePart]]) -> list[Message]:
        """The conversation with `images[i]` in place of the i-th image of the message."""
        instead = iter(images)
        parts: list[TextPart | ImagePart] = []
        for part in messages[self.index].parts:
            parts += [part] if isinstance(part, TextPart) else next(instead)
        return [*messages[: self.index], replace(messages[self.index], parts=tuple(parts)), *messages[self.index + 1 :]]


def ask_instead(messages: Sequence[Message], text: Callable[[str], str]) -> list[Message]:
    """The conversation with another text in its last message, made from the one there.

    It stands where the last text stood; images keep their order. An answer that has begun is left out: it is none to
    the other text.
    """
    if len(messages) > 1 and messages[-1].role == "assistant":
        messages = messages[:-1]
    last = messages[-1]
    texts = [i for i, part in enumerate(last.parts) if isinstance(part, TextPart)]
    asked = TextPart(text(" ".join(part.text for part in last.parts if isinstance(part, TextPart))))
    kept = [asked if i in texts[-1:] else part for i, part in enumerate(last.parts) if i not in texts[:-1]]
    return [*messages[:-1], replace(last, parts=tuple(kept if texts else [*kept, asked]))]


def is_reduced(patches: ImagePatches, config: Images) -> bool:
    """Whether the model reads a page at less than nine tenths of its size, so that a closer look can show more."""
    return reading_scale(patches, config) < _WHOLE


def reading_scale(patches: ImagePatches, config: Images) -> float:
    """How large the model reads a page: the side of what it sees, as a share of the side of the original."""
    tiles, rows, columns = patches.grid
    if not tiles and isinstance(config, TileConfig) and config.overview is not None:
        return config.overview.size / max(patches.size)
    side = config.patch_size if isinstance(config, ImageConfig) else config.tile_size / rows
    cells = patches.arrangement[0] * patches.arrangement[1] * rows * columns
    if patches.region is not None:
        cells = patches.region.height * patches.region.width
    width, height = patches.size
    return side * math.sqrt(cells / (width * height))


def magnified(
    page: ImagePart, original: Original, box: Box, mask: Mask | None, fill: Fill, config: Images
) -> ImagePart:
    """A part of a page, made as large as the page.

    Like the released code of CARVE: scaled until it covers the page in width or height, whichever comes last; then
    read within the page's own budget of visual tokens. With native resolution this is one scaling, not two.

    Args:
        page: as the model read it; returned as it is when the box and the mask are the whole page.
        original: its pixels.
        box: the part, in pixels of the original.
        mask: what of the original is shown, on any grid; None: all.
        fill: the colour of the rest.
        config: how images are read.
    """
    width, height = original.picture.size
    masked = mask is not None and fill != "none" and not mask.all()
    if box == (0, 0, width, height) and not masked:
        return page
    cut = original.picture.crop(box)
    if masked:
        assert mask is not None
        marks = Image.fromarray(mask.astype(np.uint8) * 255)
        across, down = marks.width / width, marks.height / height
        within = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        kept = marks.resize(cut.size, Image.Resampling.NEAREST, box=within)
        cut = Image.composite(cut, Image.new("RGB", cut.size, fill), kept)
    cover = max(width / cut.width, height / cut.height)
    if isinstance(config, ImageConfig):
        sides = fit_size(round(cut.width * cover), round(cut.height * cover), config, original.image_tokens)
    else:
        # No larger than what all tiles hold: a flat cut of a tall page would be scaled to many times its height.
        tiles = max(1, (original.image_tokens or TILED_IMAGE_TOKENS) // config.tile_tokens)
        scale = min(cover, max(1, config.tile_size * math.sqrt(tiles / (cut.width * cut.height))))
        sides = max(1, round(cut.width * scale)), max(1, round(cut.height * scale))
    patches = cut_patches(cut.resize(sides, RESAMPLE[config.resample]), config, original.image_tokens)
    return ImagePart(patches, Original(cut, original.image_tokens))


def resized(original: Original, box: Box, side: int, config: Images) -> ImagePart:
    """A part of a page, scaled to a given size; models of tiles read it as one tile.

    Args:
        original: the page's pixels.
        box: the part, in pixels of the original.
        side: length of the longer side afterwards, in pixels.
        config: how images are read.
    """
    cut = original.picture.crop(box)
    scale = side / max(cut.size)
    sides = max(1, round(cut.width * scale)), max(1, round(cut.height * scale))
    tokens = original.image_tokens
    if not isinstance(config, ImageConfig):
        tokens = least_tokens(config)
    return ImagePart(cut_patches(cut.resize(sides, RESAMPLE[config.resample]), config, tokens), Original(cut, tokens))


def scaled_box(box: Box, grid: tuple[int, int], size: tuple[int, int]) -> Box:
    """A box on a map as one on its page, rounded outwards.

    Args:
        box: in cells of the map.
        grid: width and height of the map in cells.
        size: width and height of the page in pixels.
    """
    (across, down), (width, height) = grid, size
    left, top, right, bottom = box
    return left * width // across, top * height // down, -(-right * width // across), -(-bottom * height // down)
