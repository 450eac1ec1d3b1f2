"""From what a model wrote about a page to blocks, whatever it was written in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rave_mlx.documents.transcription.blocks import Block, Box
from rave_mlx.documents.transcription.doclang import read_doclang
from rave_mlx.documents.transcription.doctags import read_doctags
from rave_mlx.documents.transcription.grounded import read_grounded
from rave_mlx.documents.transcription.html_blocks import read_html
from rave_mlx.documents.transcription.layout_json import read_layout_json
from rave_mlx.documents.transcription.markdown_blocks import read_markdown, strip_fence
from rave_mlx.documents.transcription.prompt_file import Format, Units

_FRONT = re.compile(r"\s*---[ \t]*\n(.*?)(?:\n---[ \t]*(?:\n|\Z)|\Z)", re.DOTALL)
_STEPS = {"thousandths": 1000, "999ths": 999, "loc500": 500}
"""Steps of a side of the page, by what boxes count."""
_THOUGHT = re.compile(r".*</think(?:ing)?>", re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """What the model was shown, by which its boxes are measured.

    Attributes:
        size: width and height in pixels of the picture that the vision tower read.
        part: the part of the page that it was, in fractions of the page's sides.
    """

    size: tuple[int, int] = (1, 1)
    part: Box = (0.0, 0.0, 1.0, 1.0)


def read_answer(text: str, written: Format, units: Units = "none", shown: Shown | None = None) -> list[Block]:
    """The blocks of an answer, with their boxes in fractions of the page's sides.

    Args:
        text: the answer.
        written: what it is written in.
        units: what its boxes count.
        shown: what the model was shown; None for the whole page, where nothing is known of its pixels.
    """
    blocks = _READERS[written](text)
    return [replace(block, box=_on_page(block.box, units, written, shown or Shown())) for block in blocks]


def _on_page(box: Box | None, units: Units, written: Format, shown: Shown) -> Box | None:
    """A box as an answer has it, in fractions of the page; None for what cannot be a box there."""
    if box is None or units == "none":
        return None
    if written not in ("doctags", "doclang"):  # whose boxes are fractions already
        across, down = shown.size if units == "read_pixels" else (_STEPS[units],) * 2
        box = (box[0] / across, box[1] / down, box[2] / across, box[3] / down)
    if min(box) < -0.05 or max(box) > 1.05:
        return None
    left, top, right, bottom = (min(1.0, max(0.0, side)) for side in box)
    x, y, x1, y1 = shown.part
    return x + left * (x1 - x), y + top * (y1 - y), x + right * (x1 - x), y + bottom * (y1 - y)


def _moved(blocks: Sequence[Block], start: int) -> list[Block]:
    """Blocks whose text began at `start` of the answer."""
    return [b if b.span is None else replace(b, span=(b.span[0] + start, b.span[1] + start)) for b in blocks]


def _read_text(text: str) -> list[Block]:
    """Plain text: paragraphs between empty lines."""
    body, start = strip_fence(text)
    return [
        Block("paragraph", match[0].strip(), span=(start + match.start(), start + match.end()))
        for match in re.finditer(r"\S(?:.|\n(?!\s*\n))*", body)
    ]


def _read_lines(text: str) -> list[Block]:
    """A line of the page."""
    return [Block("paragraph", text.strip(), span=(0, len(text)))] if text.strip() else []


def _read_markdown(text: str) -> list[Block]:
    body, start = strip_fence(text)
    return _moved(read_markdown(body), start)


def _read_front_matter(text: str) -> list[Block]:
    """Markdown below a YAML header, as olmOCR writes it; an empty page is "null"."""
    body, start = strip_fence(text)
    front = _FRONT.match(body)
    rest = body if front is None else body[front.end() :]
    if rest.strip() == "null":
        return []
    return _moved(read_markdown(rest), start + len(body) - len(rest))


def _read_thinking(text: str) -> list[Block]:
    """Markdown in <answer>, behind the thoughts of the model."""
    thought = _THOUGHT.match(text)
    start = thought.end() if thought else 0
    opened = re.compile(r"\s*<answer>").match(text, start)
    start = opened.end() if opened else start
    body = text[start:].removesuffix("</answer>") if opened else text[start:]
    if thought is None and opened is None and "<think" in text[:50]:
        return []  # the thoughts were cut
    body = re.sub(r"</answer>\s*\Z", "", body)
    return _moved(_read_markdown(body), start)


def _read_grounded(text: str) -> list[Block]:
    body, start = strip_fence(text)
    return _moved(read_grounded(body), start)


def _read_html(text: str) -> list[Block]:
    body, start = strip_fence(text)
    return _moved(read_html(body), start)


_READERS: dict[Format, Callable[[str], list[Block]]] = {
    "lines": _read_lines,
    "text": _read_text,
    "markdown": _read_markdown,
    "front_matter": _read_front_matter,
    "thinking": _read_thinking,
    "html": _read_html,
    "doctags": read_doctags,
    "doclang": read_doclang,
    "layout_json": read_layout_json,
    "got": _read_markdown,
    "grounded": _read_grounded,
}
