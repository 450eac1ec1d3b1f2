"""Blocks of a page that was read line by line: headings by their height, paragraphs by the space between lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from rave_mlx.documents.transcription.blocks import Block, Kind
from rave_mlx.inputs.lines.line_crops import LineCrop
from rave_mlx.inputs.lines.page_lines import PageLine


def line_blocks(crops: Sequence[LineCrop], texts: Sequence[str], certainties: Sequence[float | None]) -> list[Block]:
    """Blocks of a page's lines: headings by their height, paragraphs by the space between lines.

    Args:
        crops: the lines in reading order.
        texts: what each of them says; lines without text are left out.
        certainties: of each crop.
    """
    read: list[tuple[LineCrop, str, float | None]] = []
    for crop, text, certainty in zip(crops, texts, certainties, strict=True):
        if crop.goes_on and read:
            begun, words, least = read[-1]
            known = [c for c in (least, certainty) if c is not None]
            read[-1] = begun, f"{words} {text.strip()}".strip(), min(known) if known else None
        else:
            read.append((crop, text.strip(), certainty))
    read = [entry for entry in read if entry[1]]
    if not read:
        return []
    heights = [crop.line.height for crop, _, _ in read]
    # Lines without letters that reach below are lower than the others.
    full = float(np.percentile(heights, 90))
    blocks: list[Block] = []
    group = 0
    before: PageLine | None = None
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
    return "heading", 1 if large >= 1.55 else 2


def _with_breaks(blocks: list[Block], lines: Sequence[PageLine]) -> list[Block]:
    """Lines of running text flow in Markdown; those of a form or an address end where they end."""
    out = []
    for number, block in enumerate(blocks):
        mates = [line for line, other in zip(lines, blocks, strict=True) if other.group == block.group]
        full = max(line.box[2] for line in mates) - min(line.box[0] for line in mates)
        filled = [(line.box[2] - line.box[0]) / full for line in mates]
        flows = len(mates) > 1 and median(filled[:-1]) > 0.85 and full > 12 * median(line.height for line in mates)
        last = number + 1 == len(blocks) or blocks[number + 1].group != block.group
        out.append(replace(block, hard_break=block.kind == "line" and not flows and not last))
    return out
