"""Blocks of a page as Markdown and as plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rave_mlx.documents.transcription.blocks import Block


def to_text(blocks: Sequence[Block]) -> str:
    """Plain text: a line a list item, an empty line between other blocks."""
    parts: list[str] = []
    for before, block in zip([None, *blocks], blocks, strict=False):
        text = f"{block.marker} {block.text}" if block.kind == "list item" else block.text
        if not text.strip():
            continue
        if parts:
            parts.append("\n" if _close(before, block) else "\n\n")
        parts.append(text)
    return "".join(parts)


def to_markdown(blocks: Sequence[Block]) -> str:
    """Markdown: headings, lists, tables, code."""
    parts: list[str] = []
    for before, block in zip([None, *blocks], blocks, strict=False):
        text = block_to_markdown(block)
        if not text.strip():
            continue
        if parts:
            parts.append("\n" if _close(before, block) else "\n\n")
        parts.append(text)
    return "".join(parts).rstrip()


def block_to_markdown(block: Block) -> str:
    """One block in Markdown."""
    if block.markdown is not None:
        return block.markdown
    if block.kind == "table" and block.table is not None:
        return block.table.to_markdown()
    text = block.text.strip()
    if block.kind in ("title", "heading"):
        return "#" * max(1, min(6, block.level or 1)) + " " + " ".join(text.split())
    if block.kind == "list item":
        indent = "  " * block.level
        return f"{indent}{block.marker} " + text.replace("\n", f"\n{indent}  ")
    if block.kind == "code":
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`{3,}", text)), 3)
        return f"{fence}\n{block.text.rstrip()}\n{fence}"
    if block.kind == "formula":
        return f"$$\n{text}\n$$" if text else ""
    if block.kind == "picture":
        return f"![{text}]()" if text else ""
    return _plain_markdown(text) + "  " * block.hard_break


def _plain_markdown(text: str) -> str:
    """Text whose lines cannot be taken for Markdown; lines keep their ends (two spaces, a hard line break)."""
    return "  \n".join(_escaped(line) for line in text.splitlines())


def _escaped(line: str) -> str:
    line = re.sub(r"(?<=\S)\*|\*(?=\S)|`|<(?=[A-Za-z/!?])", r"\\\g<0>", line)
    line = re.sub(r"^(\s*\d+)([.)]\s)", r"\1\\\2", line)
    return re.sub(r"^(\s*)(#{1,6}\s|[-+*]\s|>|~~~|={3,}$|-{3,}$)", r"\1\\\2", line)


def _close(before: Block | None, block: Block) -> bool:
    """Whether no empty line stands between two blocks: items of one list, lines of one paragraph."""
    if before is None or before.kind != block.kind:
        return False
    if block.kind == "line":
        return before.group == block.group
    same = before.level != block.level or (before.marker == "-") == (block.marker == "-")
    return block.kind == "list item" and same
