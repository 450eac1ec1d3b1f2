"""Labelled values: rows, aligned columns, leaders, boxes, labels above, grids."""

from __future__ import annotations

from collections.abc import Callable

from rave_mlx.nano.documents import words
from rave_mlx.nano.documents.sheet import Color, Field, Sheet, Type
from rave_mlx.nano.documents.values import held_out, pseudoword


def draw_label(sheet: Sheet, held: bool) -> tuple[str, str]:
    """A label that the page does not have yet, and the kind of its value."""
    rng = sheet.rng
    while True:
        roll = rng.random()
        if roll < 0.62:
            label = rng.choice(list(words.LABELS))
            kind, _, outside = words.LABELS[label]
        elif roll < 0.85:
            label = f"{rng.choice(words.PREFIXES)} {rng.choice(list(words.SUFFIXES))}"
            kind, outside = "id", label in words.HELD_PREFIXED
        else:
            label = pseudoword(rng, 2).capitalize()
            kind, outside = rng.choice(("id", "amount", "word", "date", "count")), held_out(label)
        if (outside == held or (held and rng.random() < 0.3)) and sheet.claim(label):
            return label, kind


def draw_fields(sheet: Sheet, count: int, held: bool) -> list[Field]:
    """`count` fields with values."""
    out = []
    for _ in range(count):
        label, kind = draw_label(sheet, held)
        out.append(Field(label, sheet.values.draw(kind), kind))
    return out


class FieldBlock:
    """The faces and punctuation of one block of fields."""

    def __init__(self, sheet: Sheet, colon: tuple[str, ...] = (":", ":", "", " :")) -> None:
        style, rng = sheet.style, sheet.rng
        self.colon = rng.choice(colon)
        self.label = sheet.type(bold=style.bold_labels, italic=rng.random() < 0.05)
        self.value = sheet.type(bold=style.bold_values and not style.bold_labels)
        if rng.random() < 0.1:
            self.value = Type(style.heading, self.value.size, self.value.bold)
        self.label_color: Color = style.muted if rng.random() < 0.3 else style.ink
        self.pitch = round(sheet.pitch() * rng.choice((1, 1, 1, 1.2, 1.5)))
        self.rules = rng.random() < 0.18


def _rows(sheet: Sheet, wanted: int, pitch: float) -> int:
    return max(0, min(wanted, int((sheet.bottom - sheet.y) / pitch)))


def inline(sheet: Sheet, wanted: int, held: bool) -> None:
    """`Label: value`, one a line."""
    block = FieldBlock(sheet, (":", ":", ":", " -", " ="))
    for field in draw_fields(sheet, _rows(sheet, wanted, block.pitch), held):
        text = field.label + block.colon
        x = sheet.x0 + sheet.measure(text + " ", block.label)
        if x + sheet.measure(field.value, block.value) > sheet.x1:
            continue
        sheet.line([(sheet.x0, text, block.label, block.label_color), (x, field.value, block.value)], pitch=block.pitch)
        sheet.fields.append(field)


def aligned(sheet: Sheet, wanted: int, held: bool, right_labels: bool = False) -> None:
    """Values in a column of their own, plain, underlined or boxed; labels left- or right-aligned."""
    block, rng = FieldBlock(sheet), sheet.rng
    fields = draw_fields(sheet, _rows(sheet, wanted, block.pitch), held)
    if not fields:
        return
    widths = [sheet.measure(f.label + block.colon, block.label) for f in fields]
    column = sheet.x0 + max(widths) + rng.uniform(5, 34)
    if rng.random() < 0.35:
        column = max(column, sheet.x0 + (sheet.x1 - sheet.x0) * rng.uniform(0.3, 0.55))
    frame = rng.choice(("", "", "", "line", "box", "table"))
    top = sheet.y
    for field, width in zip(fields, widths, strict=True):
        if column + sheet.measure(field.value, block.value) > sheet.x1 + 2:
            continue
        x = column - width - 6 if right_labels else sheet.x0
        baseline = sheet.line(
            [(x, field.label + block.colon, block.label, block.label_color), (column, field.value, block.value)],
            pitch=block.pitch,
        )
        sheet.fields.append(field)
        if frame == "line":
            sheet.rule(baseline + 3, column - 2)
        elif frame == "box":
            sheet.box(column - 4, sheet.y - block.pitch + 1, sheet.x1, sheet.y - 2)
        elif frame == "table" or block.rules:
            sheet.rule(sheet.y - 1, sheet.x0 - 3, sheet.x1)
    if frame == "table":
        sheet.box(sheet.x0 - 3, top - 1, sheet.x1, sheet.y - 1)
        if rng.random() < 0.7:
            sheet.vertical(column - 4, top - 1, sheet.y - 1)


def right_labels(sheet: Sheet, wanted: int, held: bool) -> None:
    """Labels right-aligned against the value column."""
    aligned(sheet, wanted, held, right_labels=True)


def spread(sheet: Sheet, wanted: int, held: bool) -> None:
    """Label at the left margin, value against the right margin; sometimes dotted leaders or row rules."""
    block, rng = FieldBlock(sheet), sheet.rng
    leader = rng.choice(("", "", ".", ".", "_", "-"))
    for field in draw_fields(sheet, _rows(sheet, wanted, block.pitch), held):
        text = field.label + ("" if leader else block.colon)
        left = sheet.x0 + sheet.measure(text, block.label)
        x = sheet.x1 - sheet.measure(field.value, block.value)
        if x < left + 8:
            continue
        parts = [(sheet.x0, text, block.label, block.label_color), (x, field.value, block.value, sheet.style.ink)]
        baseline = sheet.line(parts, pitch=block.pitch)
        sheet.leader(left, x, leader, block.label, baseline)
        sheet.fields.append(field)
        if block.rules and not leader:
            sheet.rule(sheet.y - 1)


def below(sheet: Sheet, wanted: int, held: bool, above: bool = False) -> None:
    """A small label with its value below (or above: a caption), in one to three columns, open or boxed."""
    block, rng = FieldBlock(sheet, ("", "", ":")), sheet.rng
    small = sheet.type(rng.uniform(0.72, 1.0), bold=sheet.style.bold_labels)
    value = sheet.type(rng.choice((1, 1, 1.15)), bold=sheet.style.bold_values)
    columns = rng.choice((1, 2, 2, 3)) if sheet.x1 - sheet.x0 > 180 else 1
    step = (sheet.x1 - sheet.x0) / columns
    upper, lower = (value, small) if above else (small, value)
    height = round(upper.size * 1.2 + lower.size * 1.3)
    gap = rng.randint(2, 14)
    boxed = rng.random() < 0.35
    while wanted > 0 and sheet.room(height + gap):
        row: list[tuple[float, Field]] = []
        for c, field in enumerate(draw_fields(sheet, min(columns, wanted), held)):
            wanted -= 1
            width = step - (12 if boxed else 8)
            if sheet.fit(field.label, small, width) and sheet.fit(field.value, value, width):
                row.append((sheet.x0 + c * step + (4 if boxed else 0), field))
                sheet.fields.append(field)
        if not row:
            continue
        top = sheet.y
        labels = [(x, f.label + block.colon, small, block.label_color) for x, f in row]
        values = [(x, f.value, value, sheet.style.ink) for x, f in row]
        first, second = (values, labels) if above else (labels, values)
        sheet.line(first, pitch=round(upper.size * 1.2))
        sheet.line(second, pitch=round(lower.size * 1.3))
        if boxed:
            for x, _ in row:
                sheet.box(x - 4, top - 1, x + step - 6, sheet.y + 2)
        sheet.y += gap


def figure(sheet: Sheet, wanted: int, held: bool) -> None:
    """Tiles of a dashboard: a large value with its small label centred under it, one to three side by side."""
    block, rng = FieldBlock(sheet, ("",)), sheet.rng
    small = sheet.type(rng.uniform(0.7, 0.95))
    large = sheet.type(rng.uniform(1.15, 1.8), bold=rng.random() < 0.6)
    columns = rng.choice((1, 2, 2, 3)) if sheet.x1 - sheet.x0 > 200 else 1
    step = (sheet.x1 - sheet.x0) / columns
    heights = round(large.size * 1.25), round(small.size * 1.35)
    gap = rng.randint(8, 20)
    boxed = rng.random() < 0.5
    while wanted > 0 and sheet.room(sum(heights) + gap):
        row: list[tuple[float, Field]] = []
        for c, field in enumerate(draw_fields(sheet, min(columns, wanted), held)):
            wanted -= 1
            if sheet.fit(field.label, small, step - 12) and sheet.fit(field.value, large, step - 12):
                row.append((sheet.x0 + (c + 0.5) * step, field))
                sheet.fields.append(field)
        if not row:
            continue
        top = sheet.y
        ink, muted = sheet.style.ink, block.label_color
        sheet.line([(x - sheet.measure(f.value, large) / 2, f.value, large, ink) for x, f in row], pitch=heights[0])
        sheet.line([(x - sheet.measure(f.label, small) / 2, f.label, small, muted) for x, f in row], pitch=heights[1])
        if boxed:
            for x, _ in row:
                sheet.box(x - step / 2 + 2, top - 2, x + step / 2 - 2, sheet.y + 3)
        sheet.y += gap


def caption(sheet: Sheet, wanted: int, held: bool) -> None:
    """Held-out layout: the value stands above its label."""
    below(sheet, wanted, held, above=True)


def pairs(sheet: Sheet, wanted: int, held: bool, divider: bool = False) -> None:
    """Two fields side by side on each line."""
    block, rng = FieldBlock(sheet, (":", ":", "")), sheet.rng
    half = (sheet.x1 - sheet.x0) / 2
    lined = rng.random() < 0.5
    offset = half * rng.uniform(0.4, 0.55)
    top = sheet.y
    for _ in range(_rows(sheet, (wanted + 1) // 2, block.pitch)):
        line: list[tuple[float, str, Type, Color]] = []
        for c, field in enumerate(draw_fields(sheet, 2, held)):
            x = sheet.x0 + c * (half + 4)
            text = field.label + (block.colon or ("" if lined else ":"))
            xv = x + max(offset if lined else 0, sheet.measure(text + " ", block.label))
            if xv + sheet.measure(field.value, block.value) > x + half - 6:
                continue
            line += [(x, text, block.label, block.label_color), (xv, field.value, block.value, sheet.style.ink)]
            sheet.fields.append(field)
        if line:
            sheet.line(line, pitch=block.pitch)
    if divider and sheet.y > top:
        sheet.vertical(sheet.x0 + half, top, sheet.y)


def card(sheet: Sheet, wanted: int, held: bool) -> None:
    """Held-out layout: two columns of fields with a rule between them."""
    pairs(sheet, wanted, held, divider=True)


BLOCKS: dict[str, Callable[[Sheet, int, bool], None]] = {
    "inline": inline,
    "aligned": aligned,
    "right-labels": right_labels,
    "spread": spread,
    "below": below,
    "pairs": pairs,
    "figure": figure,
}
HELD_BLOCKS: dict[str, Callable[[Sheet, int, bool], None]] = {"caption": caption, "card": card}
