"""Labelled values on one line: rows, aligned columns, leaders, boxes, pairs; and the list of all blocks."""

from __future__ import annotations

from collections.abc import Callable

from rave_mlx.synthetic.fields import FieldBlock, draw_fields, fitting_rows
from rave_mlx.synthetic.ruled import framed, grid, sill, strip
from rave_mlx.synthetic.running import flow, leading, sentence
from rave_mlx.synthetic.sheet import Color, Sheet, Type
from rave_mlx.synthetic.stacked import below, caption, figure, plate, signed


def inline(sheet: Sheet, wanted: int, held: bool) -> None:
    """`Label: value`, one a line.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block = FieldBlock(sheet, (":", ":", ":", " -", " ="))
    for field in draw_fields(sheet, fitting_rows(sheet, wanted, block.pitch), held):
        text = field.label + block.colon
        x = sheet.x0 + sheet.measure(text + " ", block.label)
        if x + sheet.measure(field.value, block.value) > sheet.x1:
            continue
        sheet.line([(sheet.x0, text, block.label, block.label_color), (x, field.value, block.value)], pitch=block.pitch)
        sheet.fields.append(field)


def aligned(sheet: Sheet, wanted: int, held: bool, right_labels: bool = False) -> None:
    """Values in a column of their own, plain, underlined or boxed; labels left- or right-aligned.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
        right_labels: whether labels end at the value column instead of starting at the margin.
    """
    block, rng = FieldBlock(sheet), sheet.rng
    fields = draw_fields(sheet, fitting_rows(sheet, wanted, block.pitch), held)
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
    """Labels right-aligned against the value column.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    aligned(sheet, wanted, held, right_labels=True)


def spread(sheet: Sheet, wanted: int, held: bool) -> None:
    """Label at the left margin, value against the right margin; sometimes dotted leaders or row rules.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    block, rng = FieldBlock(sheet), sheet.rng
    leader = rng.choice(("", "", ".", ".", "_", "-"))
    for field in draw_fields(sheet, fitting_rows(sheet, wanted, block.pitch), held):
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


def pairs(sheet: Sheet, wanted: int, held: bool, divider: bool = False) -> None:
    """Two fields side by side on each line.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
        divider: whether a vertical rule stands between the two columns.
    """
    block, rng = FieldBlock(sheet, (":", ":", "")), sheet.rng
    half = (sheet.x1 - sheet.x0) / 2
    lined = rng.random() < 0.5
    offset = half * rng.uniform(0.4, 0.55)
    top = sheet.y
    for _ in range(fitting_rows(sheet, (wanted + 1) // 2, block.pitch)):
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
    """Held-out layout: two columns of fields with a rule between them.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many fields to write, where they fit.
        held: whether labels are drawn from the held-out side of the split.
    """
    pairs(sheet, wanted, held, divider=True)


BLOCKS: dict[str, Callable[[Sheet, int, bool], None]] = {
    "inline": inline,
    "aligned": aligned,
    "right-labels": right_labels,
    "spread": spread,
    "below": below,
    "pairs": pairs,
    "figure": figure,
    "signed": signed,
    "leading": leading,
    "flow": flow,
    "sentence": sentence,
    "grid": grid,
    "framed": framed,
    "strip": strip,
    "sill": sill,
    "plate": plate,
}
HELD_BLOCKS: dict[str, Callable[[Sheet, int, bool], None]] = {"caption": caption, "card": card}
