"""Labelled values with the label above or below its value: captions, dashboard tiles, signature lines, plaques."""

from __future__ import annotations

from rave_mlx.synthetic.fields import FieldBlock, draw_fields
from rave_mlx.synthetic.sheet import Field, Sheet, Type


def _indent(sheet: Sheet, text: str, kind: Type, step: float, centred: bool) -> float:
    """Where a text starts in a column of width `step`, in pixels from its left side."""
    return (step - sheet.measure(text, kind)) / 2 if centred else 5.0


def below(sheet: Sheet, wanted: int, held: bool, above: bool = False) -> None:
    """A small label with its value below (or above: a caption), in one to three columns, open or boxed.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
        above: whether the value stands over its label instead of under it.
    """
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
    """Tiles of a dashboard: a large value with its small label under it, one to three side by side.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block, rng = FieldBlock(sheet, ("",)), sheet.rng
    small = sheet.type(rng.uniform(0.7, 0.95))
    large = sheet.type(rng.uniform(1.15, 1.8), bold=rng.random() < 0.6)
    columns = rng.choice((1, 2, 2, 3)) if sheet.x1 - sheet.x0 > 200 else 1
    step = (sheet.x1 - sheet.x0) / columns
    heights = round(large.size * 1.25), round(small.size * 1.35)
    gap = rng.randint(8, 20)
    boxed = rng.random() < 0.5
    centred = rng.random() < 0.65
    while wanted > 0 and sheet.room(sum(heights) + gap):
        row: list[tuple[float, Field]] = []
        for c, field in enumerate(draw_fields(sheet, min(columns, wanted), held)):
            wanted -= 1
            if sheet.fit(field.label, small, step - 12) and sheet.fit(field.value, large, step - 12):
                row.append((sheet.x0 + c * step, field))
                sheet.fields.append(field)
        if not row:
            continue
        top = sheet.y
        ink, muted = sheet.style.ink, block.label_color
        values = [(x + _indent(sheet, f.value, large, step, centred), f.value, large, ink) for x, f in row]
        labels = [(x + _indent(sheet, f.label, small, step, centred), f.label, small, muted) for x, f in row]
        sheet.line(values, pitch=heights[0])
        sheet.line(labels, pitch=heights[1])
        if boxed:
            for x, _ in row:
                sheet.box(x + 2, top - 2, x + step - 2, sheet.y + 3)
        sheet.y += gap


def signed(sheet: Sheet, wanted: int, held: bool) -> None:
    """Values written on a rule, each with its small label under the rule, as on a paper form's signature line.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block, rng = FieldBlock(sheet, ("", "", ":")), sheet.rng
    small = sheet.type(rng.uniform(0.68, 0.9), italic=rng.random() < 0.2)
    value = sheet.type(rng.choice((1, 1, 1.1)), bold=sheet.style.bold_values, italic=rng.random() < 0.15)
    columns = rng.choice((1, 2, 2)) if sheet.x1 - sheet.x0 > 180 else 1
    step = (sheet.x1 - sheet.x0) / columns
    heights = round(value.size * rng.uniform(1.15, 1.4)), round(small.size * 1.4)
    centred = rng.random() < 0.4
    gap = rng.randint(4, 18)
    while wanted > 0 and sheet.room(sum(heights) + gap):
        row: list[tuple[float, Field]] = []
        for c, field in enumerate(draw_fields(sheet, min(columns, wanted), held)):
            wanted -= 1
            if sheet.fit(field.label + block.colon, small, step - 14) and sheet.fit(field.value, value, step - 14):
                row.append((sheet.x0 + c * step, field))
                sheet.fields.append(field)
        if not row:
            continue
        ink, muted = sheet.style.ink, block.label_color
        named = [(x, f.label + block.colon) for x, f in row]
        values = [(x + _indent(sheet, f.value, value, step, centred), f.value, value, ink) for x, f in row]
        labels = [(x + _indent(sheet, name, small, step, centred), name, small, muted) for x, name in named]
        sheet.line(values, pitch=heights[0])
        for x, _ in row:
            sheet.rule(sheet.y, x, x + step - 12)
        sheet.line(labels, pitch=heights[1])
        sheet.y += gap


def plate(sheet: Sheet, wanted: int, held: bool) -> None:
    """One under the other, as on a badge or a plaque: a value, and its label below in brackets, capitals or italics.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block, rng = FieldBlock(sheet, ("",)), sheet.rng
    dress = rng.choice(("brackets", "capitals", "italics", "rules"))
    small = sheet.type(rng.uniform(0.75, 1.0), italic=dress == "italics")
    value = sheet.type(rng.choice((1, 1, 1.2)), bold=rng.random() < 0.4)
    heights = round(value.size * rng.uniform(1.2, 1.4)), round(small.size * rng.uniform(1.25, 1.5))
    align = rng.choice((0.0, 0.5, 0.5, 1.0) if dress in ("brackets", "capitals") else (0.5, 1.0))
    gap = rng.choice((0, rng.randint(3, 14)))
    for field in draw_fields(sheet, wanted, held):
        if not sheet.room(sum(heights) + gap):
            return
        label = {"brackets": f"({field.label})", "capitals": field.label.upper()}.get(dress, field.label)
        room = sheet.x1 - sheet.x0 - 4
        if not (sheet.fit(label, small, room) and sheet.fit(field.value, value, room)):
            continue
        x, y = (sheet.x0 + 2 + align * (room - sheet.measure(*text)) for text in ((field.value, value), (label, small)))
        sheet.line([(x, field.value, value)], pitch=heights[0])
        sheet.line([(y, label, small, block.label_color)], pitch=heights[1])
        if dress == "rules":
            sheet.rule(sheet.y + 1)
            sheet.y += 3
        sheet.fields.append(field)
        sheet.y += gap


def caption(sheet: Sheet, wanted: int, held: bool) -> None:
    """Held-out layout: the value stands above its label.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    below(sheet, wanted, held, above=True)
