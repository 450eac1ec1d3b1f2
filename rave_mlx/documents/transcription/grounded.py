"""Markdown with places, as DeepSeek-OCR writes it: what a part is, and where it stands, before each part.

`<|ref|>sub_title<|/ref|><|det|>[[61, 42, 918, 81]]<|/det|>` and then `## A heading`, in 999ths of the page's sides.
Text without such marks is Markdown. An answer that was cut is read as far as it goes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import zip_longest

from rave_mlx.documents.transcription.blocks import Block, Box, Kind
from rave_mlx.documents.transcription.markdown_blocks import read_markdown

_MARK = re.compile(r"<\|ref\|>(.*?)<\|/ref\|>\s*<\|det\|>(.*?)<\|/det\|>", re.DOTALL)
_CUT = re.compile(r"(?:<\|(?:ref|det)\|>(?:(?!<\|/det\|>).){0,400}|<\|/?[a-z]*\|?)\Z", re.DOTALL)
"""A mark, or one of its tags, at the end of an answer that lacks its own end."""
_STRAY = re.compile(r"<\|/?(?:ref|det|grounding)\|>")
_FOUR = re.compile(r"\[\s*" + r"\s*,\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")
_KINDS: dict[str, Kind] = {
    "title": "title",
    "sub_title": "heading",
    "image_caption": "caption",
    "figure_caption": "caption",
    "table_caption": "caption",
    "image_footnote": "footnote",
    "table_footnote": "footnote",
    "footnote": "footnote",
    "page_footnote": "footnote",
    "header": "page header",
    "footer": "page footer",
    "page_number": "page footer",
    "equation": "formula",
    "formula": "formula",
    "code": "code",
}
"""What labels say of a part that is one paragraph; other labels leave it to the Markdown."""
_PICTURES = ("image", "figure", "chart")
_CENTRED = re.compile(r"</?center>")


def read_grounded(text: str) -> list[Block]:
    """The blocks of a page in Markdown with places, boxes as they are written."""
    text = _CUT.sub("", text)
    marks = list(_MARK.finditer(text))
    blocks = _part(text, 0, marks[0].start() if marks else len(text), "", None)
    for mark, after in zip_longest(marks, marks[1:]):
        end = len(text) if after is None else after.start()
        label, box = mark[1].strip().lower(), _box(mark[2])
        if label in _PICTURES and box is not None:
            blocks.append(Block("picture", "", box=box, span=mark.span()))
            label, box = "", None
        blocks += _part(text, mark.end(), end, label, box)
    return blocks


def _part(text: str, start: int, stop: int, label: str, box: Box | None) -> list[Block]:
    """The blocks of what stands between two marks."""
    body = _STRAY.sub(lambda match: " " * len(match[0]), text[start:stop])
    found = []
    for block in read_markdown(body):
        first, last = block.span or (0, len(body))
        found.append(replace(block, box=box, span=(start + first, start + last)))
    if len(found) != 1 or found[0].kind not in ("paragraph", "heading"):
        return found
    return [_named(found[0], _KINDS.get(label))]


def _named(block: Block, kind: Kind | None) -> Block:
    """A paragraph that its label knows better; what is marked as a heading in the Markdown stays one of its level."""
    if kind is None or (block.kind == "heading" and kind in ("title", "heading")):
        return block
    if kind in ("title", "heading"):
        return replace(block, kind=kind, level=1 if kind == "title" else 2, markdown=None)
    plain = None if block.markdown is None else _CENTRED.sub("", block.markdown)
    return replace(block, kind=kind, level=0, markdown=None if kind in ("formula", "code") else plain)


def _box(written: str) -> Box | None:
    """The box around all boxes of a mark; None where there is none."""
    found = [tuple(map(float, match.groups())) for match in _FOUR.finditer(written)]
    if not found:
        return None
    left, top, right, bottom = zip(*found, strict=True)
    return min(*left, *right), min(*top, *bottom), max(*left, *right), max(*top, *bottom)
