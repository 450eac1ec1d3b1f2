"""Labelled values that do not stand behind or under their label: value first, on running lines, in sentences."""

from __future__ import annotations

from rave_mlx.synthetic import english
from rave_mlx.synthetic.fields import FieldBlock, draw_fields, fitting_rows
from rave_mlx.synthetic.sheet import Color, Field, Sheet, Type

MARKS = (",", ";", " |", " /", " -", " •", "")
"""What separates fields on a running line; nothing means a wide gap."""
SENTENCES = (
    "The {} is {}.", "Your {} is {}.", "Our {} is {}.", "Please quote the {} {} in reply.", "The {} was set to {}.",
    "We have noted {} as {}.", "For the {} we wrote {}.", "It has the {} {}.", "As {} you gave {}.", "New {}: {}.",
    "Here is your {}: {}.", "The {} ({}) was checked.", "Note that {} = {}.",
)  # fmt: skip


def leading(sheet: Sheet, wanted: int, held: bool) -> None:
    """The value first: `12 Orders`; labels right behind, in a column of their own, or at the right margin.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block, rng = FieldBlock(sheet, ("",)), sheet.rng
    fields = draw_fields(sheet, fitting_rows(sheet, wanted, block.pitch), held)
    place = rng.choice(("behind", "column", "column", "margin"))
    bracket = place == "behind" and rng.random() < 0.3
    right = place == "column" and rng.random() < 0.5
    gap = sheet.measure(rng.choice((" ", "  ", "   ")), block.value) + rng.uniform(0, 6)
    widths = [sheet.measure(field.value, block.value) for field in fields]
    for field, width in zip(fields, widths, strict=True):
        label = f"({field.label})" if bracket else field.label
        x = sheet.x0 + (max(widths) if place == "column" else width) + gap
        end = x + sheet.measure(label, block.label)
        if end > sheet.x1:
            continue
        if place == "margin":
            x += sheet.x1 - end
        start = sheet.x0 + (max(widths) - width if right else 0)
        sheet.line([(start, field.value, block.value), (x, label, block.label, block.label_color)], pitch=block.pitch)
        sheet.fields.append(field)
        if block.rules:
            sheet.rule(sheet.y - 1)


def flow(sheet: Sheet, wanted: int, held: bool) -> None:
    """Fields one behind the other on running lines: `Date: 3 May | Table: 7 | Server: Ann`.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block, rng = FieldBlock(sheet, (":", ":", ":", " =")), sheet.rng
    mark = rng.choice(MARKS)
    gap = sheet.measure(" ", block.value) if mark else rng.uniform(12, 28)
    fields = draw_fields(sheet, min(wanted, 9), held)
    rows: list[list[tuple[float, Field]]] = [[]]
    x = sheet.x0
    for field in fields:
        width = sheet.measure(f"{field.label}{block.colon} ", block.label)
        width += sheet.measure(field.value + mark, block.value)
        if sheet.x0 + width > sheet.x1:
            continue
        if x + width > sheet.x1:
            rows.append([])
            x = sheet.x0
        rows[-1].append((x, field))
        x += width + gap
    for row in rows:
        if not row or not sheet.room(block.pitch):
            return
        parts: list[tuple[float, str, Type, Color]] = []
        for x, field in row:
            label = field.label + block.colon
            parts.append((x, label, block.label, block.label_color))
            value = field.value + ("" if field is row[-1][1] else mark)
            parts.append((x + sheet.measure(label + " ", block.label), value, block.value, sheet.style.ink))
            sheet.fields.append(field)
        sheet.line(parts, pitch=block.pitch)


def sentence(sheet: Sheet, wanted: int, held: bool) -> None:
    """Fields inside sentences of a paragraph, now and then between others; a value is never broken over two lines.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    rng, body = sheet.rng, sheet.body
    pieces: list[tuple[str, Field | None]] = []
    for field in draw_fields(sheet, min(wanted, 6), held):
        if rng.random() < 0.3:
            pieces += [(english.word(rng), None) for _ in range(rng.randint(2, 6))]
        before, between, after = rng.choice(SENTENCES).split("{}")
        closed = between.endswith("(")
        pieces += [(word, None) for word in f"{before}{field.label}{between.removesuffix('(')}".split()]
        pieces.append((f"({field.value}{after.split(' ')[0]}" if closed else field.value + after.split(" ")[0], field))
        pieces += [(word, None) for word in after.split(" ")[1:]]
    at = 0
    while at < len(pieces) and sheet.room(sheet.pitch()):
        words: list[str] = []
        while at < len(pieces) and sheet.fit(" ".join([*words, pieces[at][0]]), body, sheet.x1 - sheet.x0):
            words.append(pieces[at][0])
            known = pieces[at][1]
            if known is not None:
                sheet.fields.append(known)
            at += 1
        if not words:
            at += 1
            continue
        sheet.line([(sheet.x0, " ".join(words), body)])
