"""Lines of prose that run past the edge of the page, as in a crop of a wider one.

Text is what can be read: characters that the edge cuts through, and those behind it, are drawn where they can be seen
but belong to no line.
"""

from __future__ import annotations

from rave_mlx.synthetic import english
from rave_mlx.synthetic.sheet import NO_LINE, Color, Sheet, Type

_CLEAR = 1.0
"""Pixels that must be left between a character and the edge."""


def lines(sheet: Sheet, wanted: int, from_left: bool = False) -> None:
    """A paragraph whose lines run past an edge of the page.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many lines to write, where they fit.
        from_left: past the left edge, ending at the right margin; else past the right edge.
    """
    for i in range(wanted):
        if not sheet.room(sheet.pitch()):
            return
        short = i == wanted - 1
        spans = _spans(sheet, sheet.width * (sheet.rng.uniform(0.3, 0.8) if short else 1.15))
        pitch = sheet.pitch()
        baseline = round(sheet.y + (pitch - sheet.body.size) / 2 + sheet.body.size * 0.82)
        number = sheet.next_line()
        total = sum(sheet.measure(text + " ", kind) for text, kind, _ in spans)
        x = sheet.x1 - total if from_left and not short else sheet.x0
        for text, kind, color in spans:
            _write(sheet, x, text, kind, color, baseline, number)
            x += sheet.measure(text + " ", kind)
        sheet.y += pitch


def _spans(sheet: Sheet, width: float) -> list[tuple[str, Type, Color]]:
    """Words in groups of one face and colour each: mostly plain, now and then stressed, a link or code."""
    rng, style = sheet.rng, sheet.style
    faces = (
        (sheet.type(bold=True), style.ink),
        (sheet.type(italic=True), style.accent),
        (sheet.type(heading=True), style.ink),
        (sheet.body, style.accent),
    )
    out: list[tuple[str, Type, Color]] = []
    used = 0.0
    while used < width:
        plain = rng.random() < 0.8
        kind, color = (sheet.body, style.ink) if plain else rng.choice(faces)
        text = " ".join(english.word(rng) for _ in range(rng.randint(3, 8) if plain else rng.randint(1, 3)))
        text += rng.choice(("", "", "", ",", ".", ";"))
        out.append((text, kind, color))
        used += sheet.measure(text + " ", kind)
    return out


def _write(sheet: Sheet, x: float, text: str, kind: Type, color: Color, baseline: float, line: int) -> None:
    """One span: what is whole on the page as text of the line, the rest as ornament."""
    start = 0
    while start < len(text) and x + sheet.measure(text[:start], kind) < _CLEAR:
        start += 1
    end = len(text)
    while end > start and x + sheet.measure(text[:end], kind) > sheet.width - _CLEAR:
        end -= 1
    cuts = ((0, start, NO_LINE), (start, end, line), (end, len(text), NO_LINE))
    for first, last, owner in cuts:
        piece = text[first:last]
        shown = piece.strip()
        if shown:
            skipped = len(piece) - len(piece.lstrip())
            at = x + sheet.measure(text[: first + skipped], kind)
            if at < sheet.width and at + sheet.measure(shown, kind) > 0:
                sheet.write(at, shown, kind, owner, baseline, color)
