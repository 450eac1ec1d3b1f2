"""Layouts that models write in JSON, as dots.ocr does: [{"bbox": [x0, y0, x1, y1], "category": ..., "text": ...}]."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from rave_mlx.documents.transcription.blocks import Block
from rave_mlx.documents.transcription.html_blocks import labelled, read_table
from rave_mlx.documents.transcription.markdown_blocks import read_markdown


def read_layout_json(text: str) -> list[Block]:
    """The blocks of a page; a list that was cut is read as far as it goes."""
    blocks: list[Block] = []
    decoder, position = json.JSONDecoder(), 0
    while (start := text.find("{", position)) >= 0:
        try:
            item, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = start + 1
            continue
        blocks += _layout_item(item, (start, position))
    return blocks


def _layout_item(item: Any, span: tuple[int, int]) -> list[Block]:
    if not isinstance(item, dict):
        return []
    kind = labelled(str(item.get("category", ""))) or "paragraph"
    text = item.get("text")
    text = text if isinstance(text, str) else ""
    numbers = item.get("bbox")
    box = None
    if isinstance(numbers, list) and len(numbers) == 4 and all(isinstance(n, int | float) for n in numbers):
        left, right = sorted((float(numbers[0]), float(numbers[2])))
        top, bottom = sorted((float(numbers[1]), float(numbers[3])))
        box = (left, top, right, bottom)
    if kind == "table":
        table = read_table(text)
        return [Block("table", table.to_text(), table=table, box=box, span=span)] if table.cells else []
    if kind == "formula":
        return [Block("formula", text.strip().strip("$").strip(), box=box, span=span)]
    if kind == "picture":
        return [Block("picture", text, box=box, span=span)] if box is not None or text else []
    parts = read_markdown(text)
    if kind == "paragraph" or len(parts) > 1:
        return [replace(part, box=box, span=span) for part in parts]
    return [
        replace(
            part,
            kind=kind,
            level=part.level or int(kind == "title") or 2 * (kind == "heading"),
            markdown=None if kind in ("title", "heading", "list item") and part.kind == "paragraph" else part.markdown,
            box=box,
            span=span,
        )
        for part in parts
    ]
