"""What a page could have and has not: fields and table entries to ask for in vain."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

from rave_mlx.synthetic import words
from rave_mlx.synthetic.sheet import Cell, Sheet
from rave_mlx.synthetic.tables import COLUMNS
from rave_mlx.synthetic.values import Values, pseudoword

_TRIES = 20
_ALIKE = {"client": "customer", "customer": "client", "invoice": "receipt", "receipt": "invoice", "order": "purchase"}
_OTHER = tuple(column for column in COLUMNS if not column.role and column.kind != "amount")
"""Headers that are no other name for one that a table may have, as `Cost` is for `Price`."""


def missing_label(rng: Random, text: str) -> str | None:
    """A label like those on pages, none of whose telling words `text` (lower case) has: `Booking No`, or invented."""
    for _ in range(_TRIES):
        prefix, suffix = rng.choice(words.PREFIXES), rng.choice(list(words.SUFFIXES))
        label = f"{prefix} {suffix}" if rng.random() < 0.7 else pseudoword(rng, 2).capitalize()
        word = label.split()[0].lower()
        if word not in text and _ALIKE.get(word, word) not in text:
            return label
    return None


def missing_cell(rng: Random, sheet: Sheet, text: str) -> Cell | None:
    """An entry as the page's own are, but in a row or under a header that `text` (the page's, lower case) lacks.

    Args:
        rng: the generator to draw from.
        sheet: a page with at least one cell.
        text: everything the page says, in lower case.

    Returns:
        The entry to ask for; its value is that of a real one and means nothing. None where no try gave one.
    """
    cell = rng.choice(sheet.cells)
    for _ in range(_TRIES):
        if cell.column and rng.random() < 0.4:
            name = rng.choice(_OTHER).header
            near = replace(cell, column=name, role="")
        else:
            name = _thing(rng, sheet)
            near = replace(cell, row=name)
        if not any(word in text for word in _telling(name)):
            return near
    return None


def _thing(rng: Random, sheet: Sheet) -> str:
    """What a row may be called."""
    values = Values(rng, sheet.values.held)
    kind = rng.choice(("goods", "goods", "goods", "first", "name", "city", "region", "month"))
    if kind == "goods":
        return values.goods()
    if kind in ("region", "month"):
        return rng.choice(words.REGIONS if kind == "region" else words.MONTHS)
    return values.draw(kind)


def _telling(name: str) -> list[str]:
    """The words of a name in lower case; a short one only where the name has no longer one."""
    found = re.findall(r"\w+", name.lower())
    return [word for word in found if len(word) > 2] or found
