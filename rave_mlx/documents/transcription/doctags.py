"""DocTags, the page language of SmolDocling and granite-docling (arXiv 2503.11576), into blocks.

`<doctag><section_header_level_1><loc_40><loc_30><loc_460><loc_50>Heading</section_header_level_1>...</doctag>`: each
element begins with the place of its box in 500ths of the page's sides. An answer that was cut, or whose tags are not
closed, is read as far as it goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rave_mlx.documents.transcription.blocks import Block, Box, Kind
from rave_mlx.documents.transcription.otsl import read_otsl
from rave_mlx.documents.transcription.table import Table

_ELEMENTS: dict[str, Kind] = {
    "title": "title",
    "text": "paragraph",
    "paragraph": "paragraph",
    "list_item": "list item",
    "caption": "caption",
    "footnote": "footnote",
    "page_header": "page header",
    "page_footer": "page footer",
    "formula": "formula",
    "code": "code",
    "otsl": "table",
    "document_index": "table",
    "picture": "picture",
    "chart": "picture",
    "checkbox_selected": "paragraph",
    "checkbox_unselected": "paragraph",
}
_LISTS = ("ordered_list", "unordered_list")
_TAG = re.compile(rf"<(/?)({'|'.join((*_ELEMENTS, *_LISTS))}|section_header_level_(?:\d))>")
_LOC = re.compile(r"<loc_(\d+)>")
_ANY_TAG = re.compile(r"<(?!_.*?_>)[a-zA-Z/][^<>]*>")
_LANGUAGE = re.compile(r"^<_([^<>]*?)_>")
_SIDE = 500.0
_WITHIN = {"picture": ("caption", "otsl"), "chart": ("caption", "otsl"), "otsl": ("caption",)}
"""Elements that may stand in others."""
_NUMBER = re.compile(r"^\(?(\d+|[a-z])[.)]\s+")
_BULLET = re.compile(r"^[-–•·*○▪]\s+")


def read_doctags(text: str) -> list[Block]:
    """The blocks of a page written in DocTags; text outside of every element is a paragraph."""
    blocks: list[Block] = []
    lists: list[_List] = []
    position = 0
    while match := _TAG.search(text, position):
        blocks += _loose(text, position, match.start())
        closing, name = match[1], match[2]
        position = match.end()
        if name in _LISTS:
            if not closing:
                lists.append(_List(name == "ordered_list"))
            elif lists:
                lists.pop()
        elif not closing:
            stop, position = _end(text, name, match.end())
            blocks += _element(name, text[match.end() : stop], (match.start(), position), lists)
    blocks += _loose(text, position, len(text))
    return blocks


@dataclass
class _List:
    """A list that is open: whether it is numbered, and how many items it has."""

    numbered: bool
    count: int = 0


def _end(text: str, name: str, start: int) -> tuple[int, int]:
    """Where the content of an element ends, and where what follows begins."""
    closing = text.find(f"</{name}>", start)
    for other in _TAG.finditer(text, start, closing if closing >= 0 else len(text)):
        # The next element begins although this one was not closed.
        if not other[1] and other[2] not in _WITHIN.get(name, ()):
            return other.start(), other.start()
    return (closing, closing + len(name) + 3) if closing >= 0 else (len(text), len(text))


def _element(name: str, content: str, span: tuple[int, int], lists: list[_List]) -> Iterator[Block]:
    """The blocks of one element: the caption of a table or picture stands before it."""
    box = _box(content)
    if name in ("otsl", "picture", "chart", "document_index"):
        content, captions = _captions(content)
        yield from (replace(caption, span=span) for caption in captions)
        table = _table(name, content)
        if table is not None:
            yield Block("table", table.to_text(), table=table, box=box, span=span)
        elif name in ("picture", "chart"):
            yield Block("picture", _plain(content), box=box, span=span)
        return
    plain = _plain(content)
    if name.startswith("section_header"):
        # The page's title is level 1.
        yield Block("heading", plain, level=min(6, int(name[-1]) + 1), box=box, span=span)
    elif name == "list_item":
        yield _item(plain, box, span, lists)
    elif name == "code":
        yield _code(content, box, span)
    elif name.startswith("checkbox"):
        mark = "☑" if name == "checkbox_selected" else "☐"
        yield Block("paragraph", f"{mark} {plain}".strip(), box=box, span=span)
    elif plain or name == "formula":
        yield Block(_ELEMENTS[name], plain, level=int(name == "title"), box=box, span=span)


def _table(name: str, content: str) -> Table | None:
    inner = re.search(r"<otsl>(.*?)(?:</otsl>|$)", content, re.DOTALL)
    if name in ("picture", "chart"):
        return read_otsl(inner[1]) if inner is not None else None
    table = read_otsl(content)
    return table if table.cells else None


def _captions(content: str) -> tuple[str, list[Block]]:
    """The content without its captions, and these."""
    found = [
        Block("caption", _plain(match[1]), box=_box(match[1]))
        for match in re.finditer(r"<caption>(.*?)</caption>", content, re.DOTALL)
    ]
    return re.sub(r"<caption>.*?</caption>", "", content, flags=re.DOTALL), found


def _item(text: str, box: Box | None, span: tuple[int, int], lists: list[_List]) -> Block:
    marker = "-"
    printed = _NUMBER.match(text)
    if lists and lists[-1].numbered:
        lists[-1].count += 1
        marker = f"{lists[-1].count}."
    if printed is not None:
        marker, text = printed[0].strip(), text[printed.end() :]
    else:
        text = _BULLET.sub("", text)
    return Block("list item", text, level=max(0, len(lists) - 1), marker=marker, box=box, span=span)


def _code(content: str, box: Box | None, span: tuple[int, int]) -> Block:
    content = _LOC.sub("", content).strip("\n")
    language = _LANGUAGE.match(content.lstrip())
    if language is not None:
        content = content.lstrip()[language.end() :]
    known = "" if language is None or language[1].lower() == "unknown" else language[1].lower()
    text = _ANY_TAG.sub("", content).strip("\n") if "</" in content else content
    return Block("code", text, markdown=f"```{known}\n{text}\n```" if known else None, box=box, span=span)


def _box(content: str) -> Box | None:
    """The box at the beginning of an element, in fractions."""
    sides = [min(1.0, int(number) / _SIDE) for number in _LOC.findall(content)[:4]]
    if len(sides) < 4:
        return None
    left, right = sorted((sides[0], sides[2]))
    top, bottom = sorted((sides[1], sides[3]))
    return left, top, right, bottom


def _plain(content: str) -> str:
    return _ANY_TAG.sub("", content).strip()


def _loose(text: str, start: int, stop: int) -> list[Block]:
    """What stands between elements, where it is more than tags."""
    plain = _plain(text[start:stop])
    return [Block("paragraph", plain, span=(start, stop))] if plain else []
