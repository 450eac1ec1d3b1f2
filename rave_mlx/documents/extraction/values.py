"""Values of fields from answers as people print and say them: "13,60 €" is the number 13.6, "May 3, 2026" a date."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from rave_mlx.documents.extraction.field_checks import problem_of
from rave_mlx.documents.extraction.fields import Field, Scalar
from rave_mlx.documents.extraction.printed_dates import find_day_first, parse_date, parse_date_time, parse_time
from rave_mlx.documents.extraction.printed_numbers import find_decimal_comma, parse_number

_ABSENT = frozenset({
    "", "-", "--", "---", "–", "—", "n/a", "n.a.", "null", "none", "nil", "not found", "not there", "not given",
    "not specified", "not available", "not applicable", "not on the page", "not present", "not mentioned",
})  # fmt: skip
"""Answers that say that a field is not there: what the built-in model writes, and what other models do."""
_TRUE = frozenset({
    "true", "yes", "y", "1", "on", "x", "[x]", "(x)", "✓", "✔", "[✓]", "☑", "☒", "🗹", "🗵", "checked", "ticked",
    "marked", "selected", "ja", "oui", "sí", "si", "sim", "vrai", "wahr",
})  # fmt: skip
_FALSE = frozenset({
    "false", "no", "n", "0", "off", "[]", "[ ]", "()", "( )", "[_]", "☐", "□", "empty", "unchecked", "unticked",
    "unmarked", "unselected", "not checked", "not ticked", "not marked", "not selected", "nein", "non", "não", "nee",
    "faux", "falsch",
})  # fmt: skip
_CLOSE = 0.8
"""How alike a text and a choice must be to be taken for the same, as `difflib` measures it."""


@dataclass(frozen=True)
class Hints:
    """How a document writes what can be read in two ways.

    Attributes:
        day_first: whether 03/05/26 is the 3rd of May; None: not known.
        decimal_comma: whether 1,234 is one and a bit; None: not known.
    """

    day_first: bool | None = None
    decimal_comma: bool | None = None

    @classmethod
    def of(cls, texts: Iterable[str]) -> Hints:
        """The hints that a document's own texts give: its pages, or the answers for all of its fields."""
        kept = list(texts)
        return cls(find_day_first(kept), find_decimal_comma(kept))


def is_absent(text: str) -> bool:
    """Whether an answer says that a field is not there."""
    return " ".join(text.split()).casefold() in _ABSENT


def read_value(text: str, field: Field, hints: Hints = Hints()) -> Scalar:
    """The value that an answer gives for a field; None where it says that there is none.

    A date whose order is not known is refused rather than guessed, see `printed_dates.parse_date`; numbers are read as
    `printed_numbers.parse_number` says. Choices are found whatever their case and punctuation, and with a letter or two
    misread where only one choice is as close.

    Args:
        text: the answer.
        field: a leaf.
        hints: how the document writes numbers and dates.

    Raises:
        ValueError: for an answer from which no value of the field can be read; the message says why.
    """
    if field.constant:
        return field.choices[0]
    clean = " ".join(text.split())
    if field.kind == "enum":
        found = _choice(clean, field)
        if found is not None or clean.casefold() in _ABSENT:
            return found
        raise ValueError(f"{clean!r} is none of {', '.join(map(str, field.choices[:8]))}")
    if clean.casefold() in _ABSENT:
        return None
    if field.kind == "union":
        return _of_union(clean, field, hints)
    value = _read(clean, field, hints)
    problem = problem_of(field, value)
    if problem is not None:
        raise ValueError(problem)
    return value


def _read(text: str, field: Field, hints: Hints) -> Scalar:
    match field.kind:
        case "number" | "integer":
            number = parse_number(text, hints.decimal_comma)
            whole = number == number.to_integral_value()
            if field.kind == "integer" and not whole:
                raise ValueError(f"{text!r} is not a whole number")
            # Decimals that are written make a float, as in JSON: 12.00 is 12.0.
            return int(number) if field.kind == "integer" or number.as_tuple().exponent == 0 else float(number)
        case "boolean":
            return _truth(text)
        case "date":
            return parse_date(text, hints.day_first)
        case "time":
            return parse_time(text)
        case "date-time":
            return parse_date_time(text, hints.day_first)
        case _:
            return text


def _of_union(text: str, field: Field, hints: Hints) -> Scalar:
    """The value of the first option that takes the text; texts, which take anything, come last."""
    reasons = []
    for option in sorted(field.options, key=lambda option: option.kind == "string"):
        try:
            return read_value(text, option, hints)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; ".join(reasons))


def _truth(text: str) -> bool:
    word = text.casefold().strip(" .!")
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither yes nor no")


def _choice(text: str, field: Field) -> Scalar:
    """The choice that a text names; None where none is, or several are as close."""
    for plain in (str.strip, str.casefold, _letters):
        found = [c for c in field.choices if plain(_written(c)) == plain(text)]
        if len(found) == 1:
            return found[0]
    letters = {_letters(_written(c)): c for c in field.choices if isinstance(c, str)}
    near = difflib.get_close_matches(_letters(text), letters, 2, _CLOSE)
    scores = [difflib.SequenceMatcher(None, _letters(text), name).ratio() for name in near]
    if len(near) == 1 or (len(near) == 2 and scores[0] > scores[1]):
        return letters[near[0]]
    return None


def _written(choice: Scalar) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def _letters(text: str) -> str:
    """Letters and digits alone, without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return re.sub(r"[\W_]+", "", "".join(c for c in plain if not unicodedata.combining(c)))
