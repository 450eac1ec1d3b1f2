"""Pictures of single printed lines, in the size in which a small model reads them best; and the blocks they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from PIL import Image

from rave_mlx.documents.transcription.blocks import Block, Box, Kind
from rave_mlx.documents.transcription.page_lines import LeveledPage, PageLine

PAGE_PIXELS = 2_500_000
"""About how many pixels a page is drawn with: print of 10 points is then as high as it is shown to the model."""
_HEIGHT, _WIDEST = 17.0, 848
"""Height of a line's ink, and the widest picture, in pixels: measured, see docs/documents.md."""
_LEAST = 64
"""Smallest side of a picture."""
_MARGIN = 0.45
"""Paper around a line, in heights of it."""


@dataclass(frozen=True, eq=False)
class LineCrop:
    """A line to be read.

    Attributes:
        picture: of it, with some paper around.
        line: where it stands on the leveled page.
        box: where it stands on the page, in fractions of its sides.
        most: tokens that such a line can have, one a byte.
    """

    picture: Image.Image
    line: PageLine
    box: Box
    most: int


def crop_lines(page: LeveledPage) -> list[LineCrop]:
    """The pictures of a page's lines, in reading order."""
    image = page.image.convert("RGB")
    crops = []
    for line in page.lines:
        left, top, right, bottom = page.original(line.box)
        box = (left / image.width, top / image.height, right / image.width, bottom / image.height)
        bounded = tuple(min(1.0, max(0.0, side)) for side in box)
        # Letters are a quarter of a line's height wide at least.
        most = 24 + int(4 * (line.box[2] - line.box[0]) / max(1.0, line.height))
        crops.append(LineCrop(_crop(image, line), line, bounded, most))  # type: ignore[arg-type]
    return crops


def _crop(image: Image.Image, line: PageLine) -> Image.Image:
    left, top, right, bottom = line.box
    margin = _MARGIN * line.height
    outer = (round(left - margin), round(top - margin), round(right + margin), round(bottom + margin))
    inner = (max(0, outer[0]), max(0, outer[1]), min(image.width, outer[2]), min(image.height, outer[3]))
    part = image.crop(inner)
    paper = _paper(part)
    whole = Image.new("RGB", (outer[2] - outer[0], outer[3] - outer[1]), paper)
    whole.paste(part, (inner[0] - outer[0], inner[1] - outer[1]))
    scale = min(_HEIGHT / line.height, _WIDEST / whole.width)
    if abs(scale - 1) > 0.06:
        size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        whole = whole.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    if min(whole.size) >= _LEAST:
        return whole
    padded = Image.new("RGB", (max(_LEAST, whole.width), max(_LEAST, whole.height)), paper)
    padded.paste(whole, (0, (padded.height - whole.height) // 2))
    return padded


def _paper(part: Image.Image) -> tuple[int, int, int]:
    """The colour around a line: the middle of its edge's."""
    pixels = np.asarray(part)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = (int(x) for x in np.median(edge, axis=0))
    return red, green, blue


def line_blocks(crops: Sequence[LineCrop], texts: Sequence[str], certainties: Sequence[float | None]) -> list[Block]:
    """Blocks of a page's lines: headings by their height, paragraphs by the space between lines.

    Args:
        crops: the lines in reading order.
        texts: what each of them says; empty ones are left out.
        certainties: of each line.
    """
    read = [(c, t.strip(), p) for c, t, p in zip(crops, texts, certainties, strict=True) if t.strip()]
    if not read:
        return []
    heights = [crop.line.height for crop, _, _ in read]
    # Lines without letters that reach below are lower than the others.
    full = float(np.percentile(heights, 90))
    blocks: list[Block] = []
    group, before = 0, None
    for crop, text, certainty in read:
        if before is not None and not _goes_on(before, crop.line, full):
            group += 1
        before = crop.line
        kind, level = _kind(crop.line, text, median(heights))
        blocks.append(Block(kind, text, level=level, box=crop.box, certainty=certainty, group=group))
    return _with_breaks(blocks, [crop.line for crop, _, _ in read])


def _goes_on(before: PageLine, line: PageLine, usual: float) -> bool:
    """Whether a line belongs to the paragraph of the one before."""
    step = line.box[1] - before.box[1]
    alike = 0.65 < line.height / before.height < 1.55
    return line.column == before.column and alike and 0.5 * usual < step < 2.1 * usual


def _kind(line: PageLine, text: str, usual: float) -> tuple[Kind, int]:
    """Whether a line is a heading, told from its height, and of which level."""
    large = line.height / usual
    if large < 1.25 or len(text) > 90 or not any(character.isalpha() for character in text):
        return "line", 0
    return "heading", 1 if large >= 1.75 else 2


def _with_breaks(blocks: list[Block], lines: Sequence[PageLine]) -> list[Block]:
    """Lines of running text flow in Markdown; those of a form or an address end where they end."""
    out = []
    for number, block in enumerate(blocks):
        mates = [line for line, other in zip(lines, blocks, strict=True) if other.group == block.group]
        full = max(line.box[2] for line in mates) - min(line.box[0] for line in mates)
        filled = [(line.box[2] - line.box[0]) / full for line in mates]
        flows = len(mates) > 1 and median(filled[:-1]) > 0.85
        last = number + 1 == len(blocks) or blocks[number + 1].group != block.group
        out.append(replace(block, hard_break=block.kind == "line" and not flows and not last))
    return out
