"""Typefaces of tills, printers and offices: those of `synthetic.fonts`, and a few more that print on thin paper."""

from __future__ import annotations

import functools

from rave_mlx.synthetic import fonts
from rave_mlx.synthetic.fonts import Family

DEBIAN_PACKAGES = "fonts-3270 fonts-gnutypewriter fonts-monoid-tight fonts-ocr-a fonts-proggy"
"""Beside `fonts.DEBIAN_PACKAGES`, as `apt install` takes them."""
_MORE = (
    Family("IBM 3270", "3270-Regular.ttf"),
    Family("IBM 3270 Condensed", "3270Condensed-Regular.ttf"),
    Family("IBM 3270 Semi-Condensed", "3270SemiCondensed-Regular.ttf"),
    Family("OCR-A", "OCRA.ttf", "OCRABold.ttf"),
    Family("GNU Typewriter", "GNUTypewriter.ttf"),
    Family("Monoid Tight", "Monoid-Regular-Tight.ttf", "Monoid-Bold-Tight.ttf"),
    Family("Proggy Tiny", "ProggyTiny.ttf"),
)
_FIXED = (
    "Mono", "Courier", "Code", "3270", "OCR", "Typewriter", "Inconsolata", "Hack", "Hermit", "Monoid", "Proggy",
    "Fantasque", "Anonymous",
)  # fmt: skip
_NARROW = ("Condensed", "Narrow")
_OFFICE = (
    "Liberation", "DejaVu", "Roboto", "Noto", "Open Sans", "Carlito", "Nimbus", "FreeSans", "FreeSerif", "Inter", "PT ",
    "Cantarell", "Arial", "Verdana", "Georgia", "Times", "Tahoma", "Lato", "Caladea",
)  # fmt: skip


@functools.cache
def families(held: bool) -> tuple[Family, ...]:
    """All families that are installed, of one side of the split."""
    more = () if held else fonts.installed(_MORE)
    return (*fonts.families(held), *more)


@functools.cache
def named(names: tuple[str, ...], held: bool) -> tuple[Family, ...]:
    """The families with one of these in their name; all where there is none.

    Args:
        names: parts of names.
        held: the side of the split.
    """
    found = tuple(f for f in families(held) if any(name in f.name for name in names))
    return found or families(held)


def fixed(held: bool) -> tuple[Family, ...]:
    """Families of one width, as printers have them."""
    return named(_FIXED, held)


def narrow(held: bool) -> tuple[Family, ...]:
    """Condensed families."""
    return named(_NARROW, held)


def office(held: bool) -> tuple[Family, ...]:
    """The families that most documents are set in."""
    return named(_OFFICE, held)
