"""Where on its page every character of an answer stands, for supervision of the attention.

An answer is looked for among the words of the page. Where it stands several times, the place is the one on the line
that names most of the question; where that does not decide, there is no place.
"""

from __future__ import annotations

from dataclasses import dataclass

from rave_mlx.synthetic import Document

NOWHERE = -1
_EDGES = " :;,.-="
"""What may follow or precede an answer within a line."""


@dataclass(frozen=True)
class Line:
    """A line of the page and the visual token of each of its characters (a space has that of the next character)."""

    text: str
    cells: tuple[int, ...]


def lines(page: Document, height: int, width: int, cell: int) -> list[Line]:
    """The lines of a page, with the visual token of each of their characters.

    Args:
        page: drawn with its glyphs.
        height: to which the page is resized, in pixels.
        width: to which the page is resized, in pixels.
        cell: side in pixels of the square behind a visual token.
    """
    rows, columns = height // cell, width // cell
    sx, sy = width / page.image.width / cell, height / page.image.height / cell
    stood: dict[int, list[tuple[float, int]]] = {}
    marks: dict[int, list[str]] = {}
    for glyph in sorted(page.glyphs, key=lambda g: (g.line, g.x)):
        if glyph.character != " ":
            y, x = int(glyph.y * sy), int(glyph.x * sx)
            inside = 0 <= y < rows and 0 <= x < columns
            stood.setdefault(glyph.line, []).append((glyph.x, y * columns + x if inside else NOWHERE))
            marks.setdefault(glyph.line, []).append(glyph.character)
    out = []
    for text, number in zip(page.lines, sorted(stood), strict=False):
        if text.replace(" ", "") != "".join(marks[number]):
            continue  # runs that overlap: the order of their characters is not that of the text
        places = iter(stood[number])
        cells: list[int] = [NOWHERE if c == " " else next(places)[1] for c in text]
        for i in range(len(cells) - 2, -1, -1):
            if text[i] == " ":
                cells[i] = cells[i + 1]
        out.append(Line(text, tuple(cells)))
    return out


def locate(found: list[Line], question: str, answer: str) -> list[int] | None:
    """The visual token of each UTF-8 byte of an answer; None where it is not known.

    Args:
        found: the lines of the page.
        question: decides between several places of the answer.
        answer: a part of a line, or all lines of the page.
    """
    if "\n" in answer:
        joined = Line("\n".join(line.text for line in found), _join(found))
        return _bytes(joined, 0, answer) if joined.text == answer else None
    whole = [line for line in found if line.text == answer]
    if len(whole) == 1:
        return _bytes(whole[0], 0, answer)
    hits = [(line, at) for line in found for at in _occurrences(line.text, answer)]
    if len(hits) > 1:
        asked = question.lower()
        named = [sum(len(w) for w in line.text.lower().split() if len(w) > 1 and w in asked) for line, _ in hits]
        hits = [hit for hit, n in zip(hits, named, strict=True) if n == max(named) > 0]
    return _bytes(*hits[0], answer) if len(hits) == 1 else None


def _join(found: list[Line]) -> tuple[int, ...]:
    """Visual tokens of the lines joined by line ends; a line end has that of what follows."""
    out: list[int] = []
    for i, line in enumerate(found):
        out += ([line.cells[0]] if i else []) + list(line.cells)
    return tuple(out)


def _occurrences(text: str, answer: str) -> list[int]:
    """Where an answer stands in a line as a whole word or more."""
    out, at = [], text.find(answer)
    while at >= 0:
        end = at + len(answer)
        if (at == 0 or text[at - 1] in _EDGES) and (end == len(text) or text[end] in _EDGES):
            out.append(at)
        at = text.find(answer, at + 1)
    return out


def _bytes(line: Line, at: int, answer: str) -> list[int]:
    """The visual token of each UTF-8 byte of the answer that stands at `at`."""
    cells = line.cells[at : at + len(answer)]
    return [cell for cell, c in zip(cells, answer, strict=True) for _ in c.encode()]
