"""Labelled values as every layout draws them: names, kinds and values, faces and punctuation of a block."""

from __future__ import annotations

from rave_mlx.synthetic import words
from rave_mlx.synthetic.sheet import Color, Field, Sheet, Type
from rave_mlx.synthetic.values import held_out, pseudoword


def draw_label(sheet: Sheet, held: bool) -> tuple[str, str]:
    """A label that the page does not have yet, and the kind of its value as in `values.KINDS`; the page reserves it."""
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
    """`count` fields with values, whose labels the page does not have yet. They are drawn, not written.

    Args:
        sheet: the page; it reserves the labels.
        count: how many.
        held: whether labels are drawn from the held-out side of the split.
    """
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


def fitting_rows(sheet: Sheet, wanted: int, pitch: float) -> int:
    """How many of the wanted rows there is room for.

    Args:
        sheet: the page.
        wanted: how many rows.
        pitch: height of a row in pixels.
    """
    return max(0, min(wanted, int((sheet.bottom - sheet.y) / pitch)))
