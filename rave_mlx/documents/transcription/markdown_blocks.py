"""Pages that models write in Markdown, with the HTML and LaTeX that they mix into it, into blocks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rave_mlx.documents.transcription.blocks import Block, Box, Kind
from rave_mlx.documents.transcription.html_blocks import read_box, read_html
from rave_mlx.documents.transcription.latex_table import TABULAR, plain_latex, read_tabular
from rave_mlx.documents.transcription.table import from_markdown, is_separator

_HEADING = re.compile(r" {0,3}(#{1,6})(?:\s+(.*?))?\s*#*\s*$")
_ITEM = re.compile(r"(\s*)([-*+•]|\(?\d{1,4}[.)])\s+(\S.*)$")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([\w+-]*)\s*$")
_BREAK = re.compile(r" {0,3}([-*_])(?:\s*\1){2,}\s*$")
_PICTURE = re.compile(r"\s*!\[([^\]]*)\]\(([^)]*)\)\s*$")
_COMMENT = re.compile(r"\s*<!--\s*(.*?)\s*-->\s*$")
_PAGE_NUMBER = re.compile(r"\s*<page_number>(.*?)</page_number>\s*$")
_COMMAND = re.compile(r"\s*\\(title|section|subsection|subsubsection|paragraph|author|date)\*?\s*\{(.*)\}\s*$")
_LEVELS = {"title": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5}
_TABLE_START = re.compile(r"\s*<table[\s>]", re.IGNORECASE)
_TABLE_END = re.compile(r"</table>", re.IGNORECASE)
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_ASIDE = 0xF0000
"""Characters behind a backslash are put aside here, in a private plane, while marks are taken away."""
_INLINE_TAG = re.compile(
    r"</?(?:b|i|u|em|strong|sup|sub|small|big|span|del|mark|a|p|div|center|img|watermark|page_number|signature|br)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)


def read_markdown(text: str) -> list[Block]:
    """The blocks of a page in Markdown."""
    return list(_Lines(text).blocks())


def strip_fence(text: str) -> tuple[str, int]:
    """An answer without the code fence that it stands in as a whole, and where the rest begins in it.

    Instruction models often write ```markdown ... ``` around what they were asked for; a cut answer has no end of it.
    """
    opened = re.match(r"\s*```[\w+-]*[ \t]*\n", text)
    if opened is None:
        return text, 0
    inner = text[opened.end() :]
    closed = re.search(r"\n?```\s*\Z", inner)
    body = inner if closed is None else inner[: closed.start()]
    # One fence that ends before more text follows is a block of code, as are several.
    if re.search(r"^\s*```", body, re.MULTILINE):
        return text, 0
    return body, opened.end()


@dataclass(frozen=True)
class _Line:
    """A line without its end; where it begins in the text."""

    text: str
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.text)


class _Lines:
    """Reads lines one after the other."""

    def __init__(self, text: str):
        self.text = text
        self.lines: list[_Line] = []
        start = 0
        for line in text.split("\n"):
            self.lines.append(_Line(line.rstrip("\r"), start))
            start += len(line) + 1
        self.at = 0
        self.box: Box | None = None

    def blocks(self) -> Iterator[Block]:
        """All blocks; a comment with a place gives its box to the block behind it."""
        while self.at < len(self.lines):
            if not self.lines[self.at].text.strip():
                self.at += 1
                continue
            for block in self._next():
                box, self.box = self.box, None
                yield replace(block, box=box) if box is not None and block.box is None else block

    def _next(self) -> list[Block]:
        line = self.lines[self.at]
        for reader in (self._fence, self._html_table, self._latex, self._pipe_table, self._formula):
            found = reader(line)
            if found is not None:
                return found
        single = self._single(line)
        if single is not None:
            self.at += 1
            return single
        return [self._paragraph(line)]

    def _span(self, first: _Line) -> tuple[int, int]:
        """From a line to the last one that was read."""
        return first.start, self.lines[self.at - 1].stop

    def _single(self, line: _Line) -> list[Block] | None:
        """What one line says by itself."""
        span = (line.start, line.stop)
        if heading := _HEADING.match(line.text):
            text = plain_markdown(heading[2] or "")
            level = len(heading[1])
            return [Block("heading", text, markdown=line.text.strip(), level=level, span=span)] if text else []
        if _BREAK.match(line.text):
            return []
        if picture := _PICTURE.match(line.text):
            return [Block("picture", picture[1], markdown=line.text.strip(), span=span)]
        if number := _PAGE_NUMBER.match(line.text):
            return [Block("page footer", number[1].strip(), span=span)]
        if comment := _COMMENT.match(line.text):
            return self._comment(comment[1], span)
        if command := _COMMAND.match(line.text):
            text = plain_latex(command[2])
            level = _LEVELS.get(command[1], 0)
            kind: Kind = "title" if command[1] == "title" else "heading" if level else "paragraph"
            return [Block(kind, text, level=level, span=span)]
        if item := _ITEM.match(line.text):
            return [self._item(line, item)]
        return None

    def _comment(self, text: str, span: tuple[int, int]) -> list[Block]:
        """`Image (x0, y0, x1, y1)` stands for a picture; the same of a table is the box of the table behind it."""
        box = read_box(text)
        if box is not None and re.match(r"(image|figure|chart)\b", text, re.IGNORECASE):
            return [Block("picture", "", box=box, span=span)]
        self.box = box
        return []

    def _item(self, line: _Line, item: re.Match[str]) -> Block:
        """An item of a list with the lines that go on with it."""
        lines, last = [item[3].rstrip()], line
        while self.at + 1 < len(self.lines):
            following = self.lines[self.at + 1]
            if not re.match(r"\s+\S", following.text) or self._begins(following):
                break
            self.at += 1
            lines.append(following.text.strip())
            last = following
        source = "\n".join(lines)
        marker = "-" if item[2] in "-*+•" else item[2]
        level = min(6, len(item[1].expandtabs(4)) // 2)
        indent = "  " * level
        written = f"{indent}{marker} " + source.replace("\n", f"\n{indent}  ")
        text = plain_markdown(source)
        return Block("list item", text, markdown=written, level=level, marker=marker, span=(line.start, last.stop))

    def _fence(self, line: _Line) -> list[Block] | None:
        opened = _FENCE.match(line.text)
        if opened is None:
            return None
        self.at += 1
        body = []
        while self.at < len(self.lines) and not re.match(
            rf"\s*{re.escape(opened[1][:3])}+\s*$", self.lines[self.at].text
        ):
            body.append(self.lines[self.at].text)
            self.at += 1
        self.at = min(len(self.lines), self.at + 1)
        text = "\n".join(body)
        written = f"```{opened[2]}\n{text}\n```" if opened[2] else None
        return [Block("code", text, markdown=written, span=self._span(line))]

    def _html_table(self, line: _Line) -> list[Block] | None:
        if not _TABLE_START.match(line.text):
            return None
        opened = 0
        while self.at < len(self.lines):
            text = self.lines[self.at].text
            opened += len(re.findall(r"<table[\s>]", text, re.IGNORECASE)) - len(_TABLE_END.findall(text))
            self.at += 1
            if opened <= 0:
                break
        start, stop = self._span(line)
        return [replace(block, span=(start, stop)) for block in read_html(self.text[start:stop])]

    def _latex(self, line: _Line) -> list[Block] | None:
        """A table in LaTeX, from where it begins to the end of its last line."""
        if not re.match(r"\s*(\\begin\s*\{(table|tabular|array|center)|\$\$\s*\\begin\s*\{(tabular|array))", line.text):
            return None
        match = TABULAR.search(self.text, line.start)
        between = self.text[line.start : match.start()] if match else ""
        if match is None or between.count("\n") > 6 or "\n\n" in between:
            return None
        while self.at < len(self.lines) and self.lines[self.at].start <= match.end():
            self.at += 1
        while self.at < len(self.lines) and re.match(r"\s*(\\end\s*\{\w+\*?\}|\$\$)\s*$", self.lines[self.at].text):
            self.at += 1
        table = read_tabular(match["body"])
        caption = re.search(r"\\caption\s*\{(.*?)\}", self.text[line.start : self.lines[self.at - 1].stop], re.DOTALL)
        span = self._span(line)
        out = [Block("caption", plain_latex(caption[1]), span=span)] if caption else []
        return [*out, Block("table", table.to_text(), table=table, span=span)] if table.cells else out

    def _pipe_table(self, line: _Line) -> list[Block] | None:
        lines = []
        if "|" not in line.text or not (
            line.text.lstrip().startswith("|")
            or (self.at + 1 < len(self.lines) and is_separator(self.lines[self.at + 1].text))
        ):
            return None
        while self.at < len(self.lines) and "|" in self.lines[self.at].text:
            lines.append(self.lines[self.at].text)
            self.at += 1
        table = from_markdown(lines)
        cells = tuple(replace(cell, text=plain_markdown(cell.text)) for cell in table.cells)
        table = replace(table, cells=cells)
        return [Block("table", table.to_text(), table=table, span=self._span(line))] if cells else []

    def _formula(self, line: _Line) -> list[Block] | None:
        """A formula of its own: between $$ and $$, or \\[ and \\]."""  # noqa: D301 - as LaTeX is written
        opened = re.match(r"\s*(\$\$|\\\[)(.*)$", line.text)
        if opened is None:
            return None
        closing = "$$" if opened[1] == "$$" else "\\]"
        stop = self.text.find(closing, line.start + opened.start(2))
        if stop < 0 or "\n\n" in self.text[line.start : stop]:
            return None
        inner = self.text[line.start + opened.start(2) : stop].strip()
        end = self.text.find("\n", stop)
        rest = self.text[stop + 2 : end if end >= 0 else len(self.text)].strip()
        if rest:
            return None
        while self.at < len(self.lines) and self.lines[self.at].start <= stop:
            self.at += 1
        return [Block("formula", inner, span=self._span(line))]

    def _begins(self, line: _Line) -> bool:
        """Whether a line begins something that no paragraph goes on with."""
        patterns = (_HEADING, _ITEM, _FENCE, _BREAK, _PICTURE, _COMMENT, _PAGE_NUMBER, _COMMAND, _TABLE_START)
        return any(p.match(line.text) for p in patterns) or line.text.lstrip().startswith(("|", "$$", "\\["))

    def _paragraph(self, line: _Line) -> Block:
        """Lines up to an empty one, or one that begins something else; underlined, they are a heading."""
        lines = [line.text.strip()]
        self.at += 1
        while self.at < len(self.lines):
            following = self.lines[self.at]
            underline = re.match(r" {0,3}(=+|-{2,})\s*$", following.text)
            if underline:
                self.at += 1
                level = 1 if underline[1][0] == "=" else 2
                text = plain_markdown(" ".join(lines))
                return Block("heading", text, level=level, span=self._span(line))
            if not following.text.strip() or self._begins(following):
                break
            lines.append(following.text.rstrip() if following.text.endswith("  ") else following.text.strip())
            self.at += 1
        source = "\n".join(lines)
        quoted = all(part.startswith(">") for part in lines)
        text = "\n".join(part.lstrip("> ") for part in lines) if quoted else source
        return Block("paragraph", plain_markdown(text), markdown=source, span=self._span(line))


def plain_markdown(text: str) -> str:
    """Markdown of a line or paragraph as plain text: marks, links and tags taken away."""
    if "$" not in text:  # in formulas a backslash begins a command
        text = _ESCAPE.sub(lambda match: chr(_ASIDE + ord(match[1])), text)
    text = re.sub(r"!?\[([^\]\n]*)\]\([^)\n]*\)", r"\1", text)
    text = re.sub(r"(\*\*\*|\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", text, flags=re.DOTALL)
    text = re.sub(r"(?<![\w*])\*(?=[^\s*])(.+?)(?<=[^\s*])\*(?![\w*])", r"\1", text)
    text = re.sub(r"(?<!\w)_(?=[^\s_])(.+?)(?<=[^\s_])_(?!\w)", r"\1", text)
    text = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", r"\2", text)
    text = re.sub(r"<br\s*/?>", "\n", text, flags=re.IGNORECASE)
    text = _INLINE_TAG.sub("", text)
    text = html.unescape(text)
    return re.sub(f"[{chr(_ASIDE)}-{chr(_ASIDE + 127)}]", lambda match: chr(ord(match[0]) - _ASIDE), text).strip()
