"""Headings, paragraphs, lists, address blocks, footers."""

from __future__ import annotations

from collections.abc import Callable

from rave_mlx.synthetic import crop, english, words
from rave_mlx.synthetic.sheet import Field, Sheet, Type
from rave_mlx.synthetic.values import company, pseudoword


def title(sheet: Sheet, text: str | None = None) -> None:
    """A heading: left, centred, in a band, boxed or underlined; often larger and bold."""
    rng, style = sheet.rng, sheet.style
    if text is None:
        text = rng.choice(words.TITLES) if rng.random() < 0.6 else heading_words(sheet)
    if rng.random() < 0.15:
        text = text.upper()
    kind = sheet.type(rng.choice((1, 1.15, 1.3, 1.5, 1.8, 2.1)), bold=rng.random() < 0.6, heading=True)
    while not sheet.fit(text, kind, sheet.x1 - sheet.x0) and kind.size > 11:
        kind = Type(kind.family, kind.size - 1, kind.bold, kind.italic)
    width = sheet.measure(text, kind)
    pitch = round(kind.size * 1.35)
    if width > sheet.x1 - sheet.x0 or not sheet.room(pitch):
        return
    x = sheet.x0 + (sheet.x1 - sheet.x0 - width) * rng.choice((0, 0, 0.5, 0.5, 0.5, 1))
    frame = rng.choice(("", "", "", "band", "box", "under", "under", "page"))
    color = rng.choice((style.ink, style.ink, style.accent))
    top = sheet.y
    if frame == "band":
        sheet.box(0, top, sheet.width, top + pitch + 2, fill=style.accent)
        color = (255, 255, 255) if sum(style.accent) < 360 else (0, 0, 0)
    sheet.line([(x, text, kind, color)], pitch=pitch)
    sheet.title = text
    if frame == "box":
        sheet.box(x - 6, top, min(sheet.width - 1.0, x + width + 6), sheet.y + 1)
        sheet.y += 3
    if frame == "under":
        sheet.rule(sheet.y + 1)
        sheet.y += 3
    sheet.y += rng.randint(1, 10)


def heading_words(sheet: Sheet) -> str:
    """A heading that no list contains: a company, or some words."""
    rng = sheet.rng
    if rng.random() < 0.45:
        return company(rng)
    return english.heading(rng, rng.randint(1, 4))


def letterhead(sheet: Sheet) -> None:
    """One to three small lines, left or centred: street, town, phone, or a note."""
    rng, values = sheet.rng, sheet.values
    kind = sheet.type(rng.uniform(0.8, 1))
    centre = rng.random() < 0.6
    makers: list[Callable[[], str]] = [
        lambda: values.draw("street"),
        lambda: f"{values.draw('zip')} {values.draw('city')}",
        lambda: f"Tel {values.draw('phone')}",
        lambda: values.draw("mail"),
        lambda: rng.choice(("Thank you!", "Customer copy", "www." + pseudoword(rng, 2).lower() + ".com")),
    ]
    for maker in sorted(rng.sample(makers, rng.randint(1, 3)), key=makers.index):
        text = maker()
        if sheet.room(kind.size * 1.4) and sheet.fit(text, kind, sheet.x1 - sheet.x0):
            x = sheet.x0 + (sheet.x1 - sheet.x0 - sheet.measure(text, kind)) / 2 if centre else sheet.x0
            sheet.line([(x, text, kind)], pitch=round(kind.size * 1.35))
            phone = text.removeprefix("Tel ")
            if phone != text and sheet.claim("Tel"):
                sheet.fields.append(Field("Tel", phone, "phone"))
    sheet.y += rng.randint(0, 6)


def random_line(sheet: Sheet, kind: Type, width: float, mixed: bool = True) -> str:
    """Words, names, numbers and odd strings up to a width.

    Args:
        sheet: the page whose values and faces are drawn from; nothing is written on it.
        kind: the face that the line will have.
        width: the most it may take, in pixels.
        mixed: numbers, names and odd strings among the words; else words of prose only.

    Returns:
        The line; empty where not even one word fits.
    """
    rng, values = sheet.rng, sheet.values
    out = ""
    while True:
        roll = rng.random()
        if not mixed or roll < 0.35:
            word = english.word(rng)
        elif roll < 0.5:
            word = rng.choice((words.FIRST, words.LAST, words.CITIES, words.GOODS)[rng.randrange(4)])
        elif roll < 0.68:
            word = pseudoword(rng)
        elif roll < 0.9:
            word = values.draw(rng.choice(("id", "date", "amount", "time", "phone", "mail", "percent", "measure")))
        else:
            word = "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, 6)))
        longer = f"{out} {word}".strip()
        if not sheet.fit(longer, kind, width):
            return out
        out = longer
        if mixed and rng.random() < 0.15:
            return out


def lines(sheet: Sheet, wanted: int) -> None:
    """Unrelated lines of mixed text: what reading is learnt on."""
    rng = sheet.rng
    faces = [sheet.body, sheet.type(bold=True), sheet.type(italic=True), sheet.type(1.25), sheet.type(heading=True)]
    for _ in range(wanted):
        kind = rng.choice(faces[:1] * 4 + faces)
        text = random_line(sheet, kind, sheet.x1 - sheet.x0)
        if text and sheet.room(sheet.pitch(kind)):
            free = sheet.x1 - sheet.x0 - sheet.measure(text, kind)
            sheet.line([(sheet.x0 + free * rng.choice((0, 0, 0, rng.random(), 1)), text, kind)])


def paragraph(sheet: Sheet, wanted: int, x0: float | None = None, x1: float | None = None) -> None:
    """Prose wrapped to a column, ragged or justified; the last line is short.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many lines to write, where they fit.
        x0: left edge in pixels; None for the page's margin.
        x1: right edge in pixels; None for the page's margin.
    """
    rng, body = sheet.rng, sheet.body
    left, right = sheet.x0 if x0 is None else x0, sheet.x1 if x1 is None else x1
    justified = rng.random() < 0.3
    for i in range(wanted):
        last = i == wanted - 1
        text = random_line(sheet, body, (right - left) * (rng.uniform(0.3, 0.9) if last else 1), mixed=False)
        if not text or not sheet.room(sheet.pitch()):
            continue
        text = text[:1].upper() + text[1:] if i == 0 else text + ("." if last else "")
        if justified and not last:
            sheet.line(_justify(sheet, text, body, left, right))
        else:
            sheet.line([(left, text, body)])


def _justify(sheet: Sheet, text: str, kind: Type, left: float, right: float) -> list[tuple[float, str, Type]]:
    """The words of a line, spread so that the last one ends at the right margin."""
    chosen = text.split()
    widths = [sheet.measure(w, kind) for w in chosen]
    space = (right - left - sum(widths)) / max(1, len(chosen) - 1)
    if len(chosen) < 3 or space > 4 * sheet.measure(" ", kind):
        return [(left, text, kind)]
    return [(left + sum(widths[:i]) + i * space, w, kind) for i, w in enumerate(chosen)]


def section_heading(sheet: Sheet) -> str | None:
    """A bold section heading of an article, often numbered; None when it does not fit."""
    rng = sheet.rng
    kind = sheet.type(rng.choice((1.1, 1.2, 1.3, 1.5)), bold=rng.random() < 0.85, heading=rng.random() < 0.4)
    number = ".".join(str(rng.randint(1, 12)) for _ in range(rng.choice((0, 1, 2, 2, 3))))
    if number and rng.random() < 0.2:
        number = f"{rng.choice('ABCD')}.{number}" if rng.random() < 0.5 else f"{number}."
    shown, count = "", rng.randint(1, 7)
    while not shown or not sheet.fit(shown, kind, sheet.x1 - sheet.x0):
        if not count:
            return None
        shown = f"{number} {english.heading(rng, count)}".strip()
        count -= 1
    if not sheet.room(kind.size * 2):
        return None
    color = sheet.style.accent if rng.random() < 0.3 else sheet.style.ink
    sheet.line([(sheet.x0, shown, kind, color)], pitch=round(kind.size * rng.uniform(1.3, 1.8)))
    return shown


def article(sheet: Sheet) -> None:
    """A page out of a manual: a section heading over dense prose, perhaps a running head, a list, a next section.

    Often it is a crop of a wider page, whose lines run past an edge.
    """
    rng = sheet.rng
    if rng.random() < 0.2:
        small = sheet.type(0.85, italic=rng.random() < 0.5)
        sheet.line([(sheet.x0, random_line(sheet, small, sheet.x1 - sheet.x0, mixed=False) or "-", small)])
        sheet.rule(sheet.y)
        sheet.y += rng.randint(3, 10)
    sheet.title = section_heading(sheet)
    cut = rng.choice(("", "", "right", "right", "left"))
    while sheet.room(sheet.pitch()):
        wanted = rng.randint(2, 8)
        if cut:
            crop.lines(sheet, wanted, from_left=cut == "left")
        else:
            (bullets if rng.random() < 0.15 else paragraph)(sheet, wanted)
        sheet.y += rng.randint(2, 10)
        if rng.random() < 0.15:
            section_heading(sheet)


def bullets(sheet: Sheet, wanted: int) -> None:
    """A list with dashes, stars or numbers."""
    rng, body = sheet.rng, sheet.body
    mark = rng.choice(("-", "*", "•", "1.", "1)", "a)"))
    for i in range(wanted):
        shown = mark.replace("1", str(i + 1)).replace("a", chr(97 + i % 26))
        x = sheet.x0 + sheet.measure(f"{shown} ", body) + rng.choice((0, 0, 6))
        text = random_line(sheet, body, sheet.x1 - x)
        if text and sheet.room(sheet.pitch()):
            sheet.line([(sheet.x0, shown, body), (x, text, body)])


def two_columns(sheet: Sheet, wanted: int) -> None:
    """Prose in two columns; reading order is the left column, then the right."""
    middle = (sheet.x0 + sheet.x1) / 2
    gap = sheet.rng.uniform(5, 12)
    top = sheet.y
    paragraph(sheet, wanted, sheet.x0, middle - gap)
    low = sheet.y
    sheet.y = top
    paragraph(sheet, max(1, wanted - sheet.rng.randint(0, 2)), middle + gap, sheet.x1)
    sheet.y = max(low, sheet.y)


def address(sheet: Sheet) -> None:
    """The lines of a postal address, for labels and letters."""
    values = sheet.values
    kind = sheet.type(sheet.rng.choice((1, 1, 1.2)))
    for text in (values.draw("name"), values.draw("street"), f"{values.draw('zip')} {values.draw('city')}"):
        if sheet.room(sheet.pitch(kind)) and sheet.fit(text, kind, sheet.x1 - sheet.x0):
            sheet.line([(sheet.x0, text, kind)])
