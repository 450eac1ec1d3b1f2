"""DocLang, the XML in which later Granite-Docling models write pages, into blocks.

`<doclang><heading level="2"><location value="41" resolution="512"/>...Heading</heading>...</doclang>`: the elements of
DocTags under other names, so that it is written as DocTags and read as that. An answer that was cut, or whose tags are
not closed, is read as far as it goes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import replace
from html import unescape

from rave_mlx.documents.transcription.blocks import Block
from rave_mlx.documents.transcription.doctags import read_doctags
from rave_mlx.documents.transcription.table import Table

_TAG = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|$)|<(/?)([a-z_]+)((?:\s[^<>]*?)?)(/?)>", re.DOTALL)
_ATTRIBUTE = re.compile(r'(\w+)\s*=\s*"([^"]*)"')
_RESOLUTION = 512
"""Steps of a side of the page where a place does not say."""
_CELLS = ("fcel", "ecel", "ched", "rhed", "srow", "lcel", "ucel", "xcel", "nl")
_SAME = ("caption", "footnote", "page_header", "page_footer", "picture", "formula", "code")


def read_doclang(text: str) -> list[Block]:
    """The blocks of a page written in DocLang; text outside of every element is a paragraph."""
    writer = _Writer()
    position, wrapped = 0, False
    for match in _TAG.finditer(text):
        between = text[position : match.start()]
        # Space around <content> is XML's, that in it is the text's.
        if not (between.isspace() and (wrapped or match[3] == "content")):
            writer.add(between, position)
        wrapped = match[3] == "content" and bool(match[2])
        if match[3] is None:
            # What stands in CDATA is text, whatever it looks like.
            writer.add(match[1].replace("&", "&amp;").replace("<", "&lt;"), match.start())
        else:
            writer.add(writer.tag(match[3], dict(_ATTRIBUTE.findall(match[4])), closing=bool(match[2])), match.start())
        position = match.end()
    writer.add(text[position:], position)
    return [_plain(block, writer, len(text)) for block in read_doctags("".join(writer.pieces))]


class _Writer:
    """DocTags, and where in the text each piece of it comes from."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._length = 0
        self._starts: list[int] = []
        self._origins: list[int] = []
        self._levels: list[int] = []
        self._lists: list[tuple[str, bool]] = []

    def add(self, piece: str, origin: int) -> None:
        """A piece of DocTags, and where in the text it comes from."""
        if piece:
            self._starts.append(self._length)
            self._origins.append(origin)
            self.pieces.append(piece)
            self._length += len(piece)

    def origin(self, position: int) -> int:
        """Where in the text a position of the DocTags comes from."""
        found = bisect_right(self._starts, position) - 1
        return 0 if found < 0 else self._origins[found]

    def tag(self, name: str, attributes: dict[str, str], *, closing: bool) -> str:
        """The DocTags of a tag; empty for one that says nothing of the text."""
        if name == "heading":
            return self._heading(attributes, closing=closing)
        if name in ("list", "ldiv"):
            return self._list(name, attributes, closing=closing)
        if name == "table":
            return "</otsl>" if closing else "<otsl>"
        if name == "location":
            return _location(attributes)
        if name in _CELLS:
            return f"<{name}>"
        if name == "checkbox":
            return "☑ " if attributes.get("class") == "selected" else "☐ "
        if name in _SAME or (name == "text" and not self._lists):
            return f"</{name}>" if closing else f"<{name}>"
        return " " if name in ("br", "marker") else ""

    def _heading(self, attributes: dict[str, str], *, closing: bool) -> str:
        """A heading; that of level 1 is the page's title."""
        if not closing:
            given = attributes.get("level", "1")
            self._levels.append(int(given) if given.isdecimal() else 1)
        level = self._levels[-1] if self._levels else 1
        if closing and self._levels:
            self._levels.pop()
        name = "title" if level <= 1 else f"section_header_level_{min(level - 1, 9)}"
        return f"</{name}>" if closing else f"<{name}>"

    def _list(self, name: str, attributes: dict[str, str], *, closing: bool) -> str:
        """A list, whose items begin with a division and end where the next begins."""
        if name == "ldiv":
            if closing or not self._lists:
                return ""
            kind, begun = self._lists[-1]
            self._lists[-1] = kind, True
            return "</list_item><list_item>" if begun else "<list_item>"
        if not closing:
            before = "</list_item>" if self._lists and self._lists[-1][1] else ""
            if self._lists:
                self._lists[-1] = self._lists[-1][0], False
            kind = "ordered_list" if attributes.get("class") == "ordered" else "unordered_list"
            self._lists.append((kind, False))
            return f"{before}<{kind}>"
        if not self._lists:
            return ""
        kind, begun = self._lists.pop()
        return f"{'</list_item>' if begun else ''}</{kind}>"


def _location(attributes: dict[str, str]) -> str:
    """A side of a box, in the 500ths of DocTags."""
    value, steps = (attributes.get(name, "") for name in ("value", "resolution"))
    if not value.isdecimal():
        return ""
    whole = int(steps) if steps.isdecimal() and int(steps) > 0 else _RESOLUTION
    return f"<loc_{round(500 * min(int(value), whole) / whole)}>"


def _plain(block: Block, writer: _Writer, length: int) -> Block:
    """A block with its characters and with its place in the text."""
    first, last = block.span or (0, 0)
    stop = length if last >= sum(map(len, writer.pieces)) else writer.origin(last)
    table = block.table
    if table is not None:
        table = Table(tuple(replace(cell, text=_words(cell.text)) for cell in table.cells))
    lines = block.kind == "code"
    text = unescape(block.text).strip("\n") if lines else _words(block.text)
    return replace(
        block, text=text if table is None else table.to_text(), table=table, span=(writer.origin(first), stop)
    )


def _words(text: str) -> str:
    """Text whose line breaks and indentation are those of XML."""
    return " ".join(unescape(text).split())
