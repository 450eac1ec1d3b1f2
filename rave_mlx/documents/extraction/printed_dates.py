"""Dates and times as people print them, as ISO 8601."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import date

_MONTHS = (
    "january januar janvier enero gennaio janeiro januari",
    "february februar fevrier febrero febbraio fevereiro februari feb",
    "march marz maerz mars marzo marco maart mrt mar",
    "april avril abril aprile apr",
    "may mai mayo maggio maio mei",
    "june juni juin junio giugno junho jun",
    "july juli juillet julio luglio julho jul",
    "august aout agosto augustus aug",
    "september septembre septiembre settembre setembro sept sep",
    "october oktober octobre octubre ottobre outubro",
    "november novembre noviembre novembro",
    "december dezember decembre diciembre dicembre dezembro",
)
"""Names of the months in English, German, French, Spanish, Italian, Portuguese and Dutch, without accents."""
_YEAR_FIRST = re.compile(r"(?<!\d)([12]\d{3})([-/. ])(\d{1,2})\2(\d{1,2})(?!\d)|(?<!\d)([12]\d{3})(\d\d)(\d\d)(?!\d)")
_CJK = re.compile(r"(\d{4})\s*[年년]\s*(\d{1,2})\s*[月월]\s*(\d{1,2})\s*[日일]")
_NUMERIC = re.compile(r"(?<![\d.,/-])(\d{1,2})\s?([-/.])\s?(\d{1,2})\s?\2\s?(\d{4}|\d{2})(?!\d)(?![.,/-]\d)")
_DAY_NAME = re.compile(
    r"(?<!\d)(\d{1,2})(?:st|nd|rd|th|er|º|°|\.)?[-/\s]*(?:of |de |di |d')?([a-z]{3,})\.?,?[-/\s]*(?:de |del )?"
    r"'?(\d{4}|\d{2})(?!\d)"
)
_NAME_DAY = re.compile(r"([a-z]{3,})\.?[-/\s]*(\d{1,2})(?:st|nd|rd|th)?(?:,\s*|[-/\s]+)'?(\d{4}|\d{2})(?!\d)")
_YEAR_NAME = re.compile(r"(?<!\d)(\d{4}),?[-/\s]+([a-z]{3,})\.?[-/\s]+(\d{1,2})(?!\d)")
_TIME = re.compile(
    r"(?<![\d:])(\d{1,2})(?::|h(?=\d))(\d\d)(?::(\d\d)(\.\d{1,6})?)?\s*([ap]\.?m\b\.?)?\s*(z\b|utc|gmt|[+-]\d\d:?\d\d)?(?![\d:])"
)


def parse_date(text: str, day_first: bool | None = None) -> str:
    """The day that a printed text gives, as "2026-05-03"; a time of day beside it is left out.

    Where the first two numbers could both be the month ("03/05/26"), the order must be known: dates with points have
    the day first, as in German; those with strokes and hyphens have it as `day_first` says. A year of two digits lies
    between 1969 and 2068, as POSIX reads it.

    Args:
        text: one date.
        day_first: whether the document writes the day before the month; None: not known.

    Raises:
        ValueError: for no date or several, a day that there is not, or an order that is not known.
    """
    clean = _clean(text)
    year, month, day, rest = _find(clean, text, day_first)
    if re.search(r"\d", _TIME.sub(" ", rest)):
        raise ValueError(f"{text!r} has more than one date in it")
    try:
        found = date(year, month, day)
    except ValueError:
        raise ValueError(f"{text!r} is no day that there is") from None
    if not 1000 <= year <= 2999:
        raise ValueError(f"{text!r} is in the year {year}; dates lie between 1000 and 2999")
    return found.isoformat()


def parse_time(text: str) -> str:
    """The time of day that a printed text gives, as "14:30:00Z". Where it names no zone, Z stands for it: JSON Schema
    wants one.

    Raises:
        ValueError: for no time or several, or one that there is not.
    """
    found = list(_TIME.finditer(_clean(text)))
    if len(found) != 1:
        raise ValueError(f"{text!r} has {'no time of day' if not found else 'more than one time'} in it")
    hour, minute, second, fraction, half, zone = found[0].groups()
    hours = int(hour)
    if half:
        if not 1 <= hours <= 12:
            raise ValueError(f"{text!r} is no time that there is")
        hours = hours % 12 + 12 * half.startswith("p")
    if hours > 23 or int(minute) > 59 or int(second or 0) > 59:
        raise ValueError(f"{text!r} is no time that there is")
    zone = f"{zone[:3]}:{zone[-2:]}" if zone and zone[0] in "+-" else "Z"
    return f"{hours:02}:{minute}:{second or '00'}{fraction or ''}{zone}"


def parse_date_time(text: str, day_first: bool | None = None) -> str:
    """The moment that a printed text gives, as "2026-05-03T14:30:00Z"; see `parse_date` and `parse_time`.

    Args:
        text: one date with a time of day.
        day_first: whether the document writes the day before the month; None: not known.

    Raises:
        ValueError: where either is missing or makes no sense.
    """
    return f"{parse_date(text, day_first)}T{parse_time(text)}"


def find_day_first(texts: Iterable[str]) -> bool | None:
    """Whether a document writes the day before the month, as far as its numeric dates tell; None where they do not.

    Args:
        texts: what stands in it, in any pieces.
    """
    votes = set()
    for text in texts:
        for first, mark, second, _ in _NUMERIC.findall(_clean(text)):
            if mark != "." and (int(first) > 12) != (int(second) > 12):
                votes.add(int(first) > 12)
    return votes.pop() if len(votes) == 1 else None


def _clean(text: str) -> str:
    """Lower case without accents, with plain digits, spaces and hyphens."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate({0x2013: "-", 0x2010: "-", 0x2011: "-"})
    plain = re.sub(r"(?<=\d)t(?=\d)", " ", plain)
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    letters = (c for c in unicodedata.normalize("NFD", digits) if not unicodedata.combining(c))
    return " ".join(unicodedata.normalize("NFC", "".join(letters)).split())


def _find(clean: str, text: str, day_first: bool | None) -> tuple[int, int, int, str]:
    """Year, month, day and what else stands there."""
    for pattern, order in (
        (_YEAR_FIRST, "ymd"),
        (_CJK, "ymd"),
        (_DAY_NAME, "dmy"),
        (_NAME_DAY, "mdy"),
        (_YEAR_NAME, "ymd"),
    ):
        for match in pattern.finditer(clean):
            groups = [g for g in match.groups() if g is not None and not re.fullmatch(r"[-/. ]", g)]
            parts = dict(zip(order, groups, strict=True))
            month = int(parts["m"]) if parts["m"].isdecimal() else _month(parts["m"])
            if month is not None:
                return _year(parts["y"]), month, int(parts["d"]), clean[: match.start()] + " " + clean[match.end() :]
    numeric = _NUMERIC.search(clean)
    if numeric is None:
        raise ValueError(f"{text!r} has no date in it")
    first, mark, second, year = numeric.groups()
    day, month = int(first), int(second)
    if mark == "." or day > 12 or month > 12 or day == month:
        swap = day <= 12 < month
    elif day_first is None:
        raise ValueError(f"{text!r} may be day/month or month/day")
    else:
        swap = not day_first
    if swap:
        day, month = month, day
    return _year(year), month, day, clean[: numeric.start()] + " " + clean[numeric.end() :]


def _year(text: str) -> int:
    year = int(text)
    return year if len(text) > 2 else year + (2000 if year <= 68 else 1900)


def _month(word: str) -> int | None:
    """The month that a word names, or begins to name."""
    exact = [i for i, names in enumerate(_MONTHS, 1) if word in names.split()]
    begun = exact or [i for i, names in enumerate(_MONTHS, 1) if any(name.startswith(word) for name in names.split())]
    return begun[0] if len(begun) == 1 else None
