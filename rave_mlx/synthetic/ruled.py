"""Labelled values in ruled boxes: the touching cells of a paper form, boxes to write in, a header with one row."""

from __future__ import annotations

from rave_mlx.synthetic.fields import FieldBlock, draw_fields
from rave_mlx.synthetic.sheet import Color, Field, Sheet, Type

Parts = list[tuple[float, str, Type, Color]]


def _columns(sheet: Sheet, most: int) -> int:
    """How many columns stand side by side."""
    width = sheet.x1 - sheet.x0
    return sheet.rng.randint(1, max(1, min(most, int(width // 90))))


def grid(sheet: Sheet, wanted: int, held: bool) -> None:
    """Touching boxes, one to four a row, each with a small label in a corner and its value: tax and customs forms.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block, rng = FieldBlock(sheet, ("", "", "", ":")), sheet.rng
    small = sheet.type(rng.uniform(0.62, 0.85), italic=rng.random() < 0.1)
    label_first = rng.random() < 0.75
    upper, lower = (small, block.value) if label_first else (block.value, small)
    heights = round(upper.size * rng.uniform(1.15, 1.4)), round(lower.size * rng.uniform(1.3, 1.6))
    numbered = rng.random() < 0.2
    indent = rng.choice((0.0, 0.0, rng.uniform(2, 20)))
    number, top = 0, sheet.y
    while wanted > 0 and sheet.room(sum(heights)):
        columns = min(_columns(sheet, 4), wanted)
        step = (sheet.x1 - sheet.x0) / columns
        row: list[tuple[float, str, Field]] = []
        for c, field in enumerate(draw_fields(sheet, columns, held)):
            wanted, number = wanted - 1, number + 1
            name = (f"{number} " if numbered else "") + field.label + block.colon
            if sheet.fit(name, small, step - 7) and sheet.fit(field.value, block.value, step - 7 - indent):
                row.append((sheet.x0 + c * step + 3, name, field))
                sheet.fields.append(field)
        if not row:
            continue
        before = sheet.y
        labels: Parts = [(x, name, small, block.label_color) for x, name, _ in row]
        values: Parts = [(x + indent, f.value, block.value, sheet.style.ink) for x, _, f in row]
        sheet.line(labels if label_first else values, pitch=heights[0])
        sheet.line(values if label_first else labels, pitch=heights[1])
        for c in range(1, columns):
            sheet.vertical(sheet.x0 + c * step, before, sheet.y)
        sheet.rule(sheet.y)
    if sheet.y > top:
        sheet.box(sheet.x0, top, sheet.x1, sheet.y)


def framed(sheet: Sheet, wanted: int, held: bool) -> None:
    """Every value in a box to write in, its label outside: over the box, under it, or left of it.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block, rng = FieldBlock(sheet, ("", "", ":")), sheet.rng
    small = sheet.type(rng.uniform(0.75, 1.0), bold=sheet.style.bold_labels)
    where = rng.choice(("over", "under", "left", "left"))
    step = (sheet.x1 - sheet.x0) / _columns(sheet, 2 if where == "left" else 3)
    pad = rng.randint(2, 5)
    heights = round(small.size * 1.3), round(block.value.size * 1.25) + 2 * pad
    tall = heights[1] if where == "left" else sum(heights)
    filled = rng.random() < 0.25
    gap = rng.randint(2, 12)
    while wanted > 0 and sheet.room(tall + gap):
        row: list[tuple[float, float, Field]] = []
        for c, field in enumerate(draw_fields(sheet, min(int((sheet.x1 - sheet.x0) / step + 0.1), wanted), held)):
            wanted -= 1
            x = sheet.x0 + c * step
            label = sheet.measure(field.label + block.colon, small)
            inner = x + (label + 8 if where == "left" else 0)
            if inner + sheet.measure(field.value, block.value) + 12 < x + step and label < step - 8:
                row.append((x, inner, field))
                sheet.fields.append(field)
        if not row:
            continue
        top = sheet.y + (heights[0] if where == "over" else 0)
        for x, inner, _ in row:
            sheet.box(inner, top, x + step - 6, top + heights[1] - 2, sheet.style.band if filled else None)
        labels: Parts = [(x, f.label + block.colon, small, block.label_color) for x, _, f in row]
        values: Parts = [(inner + 4, f.value, block.value, sheet.style.ink) for _, inner, f in row]
        if where == "left":
            sheet.line([part for pair in zip(labels, values, strict=True) for part in pair], pitch=heights[1])
        else:
            order = ((labels, heights[0]), (values, heights[1]))
            for parts, pitch in order if where == "over" else order[::-1]:
                sheet.line(parts, pitch=pitch)
        sheet.y += gap


def strip(sheet: Sheet, wanted: int, held: bool, sill: bool = False) -> None:
    """Labels side by side as a header, their values in the one row below; several such strips where there are more.

    As a `sill` the labels are the lower row, always in some dress, since bare ones would be the held-out caption.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
        sill: whether the values stand over their labels instead of under them.
    """
    block, rng = FieldBlock(sheet, ("",)), sheet.rng
    head = sheet.type(rng.choice((1, 1, 0.85)), bold=rng.random() < 0.6)
    look = rng.choice(("head", "grid", "band") if sill else ("none", "head", "grid", "band"))
    pad, gap = rng.uniform(8, 18), rng.randint(4, 12)
    centred = rng.random() < 0.3
    while wanted > 0 and sheet.room(2 * block.pitch + gap):
        fields = draw_fields(sheet, min(wanted, rng.randint(2, 5)), held)
        wanted -= len(fields)
        needs = [max(sheet.measure(f.label, head), sheet.measure(f.value, block.value)) + pad for f in fields]
        while fields and sum(needs) > sheet.x1 - sheet.x0:
            fields.pop()
            needs.pop()
        if not fields:
            continue
        share = rng.choice((0.0, 1.0)) * (sheet.x1 - sheet.x0 - sum(needs)) / len(needs)
        edges = [sheet.x0 + sum(needs[:i]) + i * share for i in range(len(needs) + 1)]
        top = sheet.y
        if look == "band":
            start = top + sill * block.pitch
            sheet.box(edges[0], start, edges[-1], start + block.pitch - 1, fill=sheet.style.band)

        # The loop makes new edges: the default keeps those of this strip.
        def at(i: int, text: str, kind: Type, edges: list[float] = edges) -> float:
            """Where a text starts in column `i`, in pixels from the left of the page."""
            free = edges[i + 1] - edges[i] - sheet.measure(text, kind)
            return edges[i] + (free / 2 if centred else 3)

        labels = [(at(i, f.label, head), f.label, head) for i, f in enumerate(fields)]
        values = [(at(i, f.value, block.value), f.value, block.value) for i, f in enumerate(fields)]
        sheet.line(values if sill else labels, pitch=block.pitch)
        if look in ("head", "grid"):
            sheet.rule(sheet.y - 1, edges[0], edges[-1])
        sheet.line(labels if sill else values, pitch=block.pitch)
        if look == "grid":
            sheet.box(edges[0], top, edges[-1], sheet.y)
            for x in edges[1:-1]:
                sheet.vertical(x, top, sheet.y)
        sheet.fields += fields
        sheet.y += gap


def sill(sheet: Sheet, wanted: int, held: bool) -> None:
    """A strip upside down: the row of values over the row of their labels, ruled, in cells, or with a band.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    strip(sheet, wanted, held, sill=True)
