"""Whether a text can be a value of a kind: an amount is no date, a name no amount. Rules of thumb, for English."""

from __future__ import annotations

import re
from collections.abc import Callable

_WORDS_OF_DATES = re.compile(
    r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)[a-z]*\b", re.IGNORECASE
)
_TIME = re.compile(r"\b\d{1,2}[:.h]\d\d\b(?!\.?\d)|\d ?(am|pm|o'clock)\b", re.IGNORECASE)
_BARE_TIME = re.compile(r"\d{1,2}:\d\d")
_DATE = re.compile(r"\b\d{1,4}[./-]\d{1,2}([./-]|\b)")
_BARE_DATE = re.compile(r"\d{1,2}[./]\d{1,2}[./]\d{2,4}")
_DECIMAL = re.compile(r"\D*(\d+[.,]|\d{1,3}([, ']\d{3})+\.|\d{1,3}([. ']\d{3})+,)\d\d\D*")
_JOINED = re.compile(r"\d[:/]\d|\d-\d|\d[./-]\d{1,2}[./-]\d")


def fits(kind: str, text: str) -> bool:
    """Whether `text` can be a value of `kind`; True where nothing speaks against it.

    Args:
        kind: of a role's values, as `synthetic.meaning.Role.kind` has it.
        text: an answer.
    """
    test = _TESTS.get(kind)
    return test is None or test(text.strip())


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)


def _letters(text: str) -> float:
    """Share of letters among all that is no space."""
    return sum(character.isalpha() for character in text) / max(1, len(text.replace(" ", "")))


def _has_date_words(text: str) -> bool:
    return _digits(text) > 0 and _WORDS_OF_DATES.search(text) is not None


def _date(text: str) -> bool:
    if _BARE_TIME.fullmatch(text):
        return False
    return _has_date_words(text) or (_DATE.search(text) is not None and not _DECIMAL.fullmatch(text))


def _time(text: str) -> bool:
    return _TIME.search(text) is not None


def _amount(text: str) -> bool:
    return (
        0 < _digits(text) <= 9
        and _letters(text) <= 0.5
        and "%" not in text
        and not _has_date_words(text)
        and _JOINED.search(text) is None
    )


def _measure(text: str) -> bool:
    return _digits(text) > 0 and _letters(text) <= 0.8 and not _date(text) and re.search(r"\d:\d\d", text) is None


def _share(text: str) -> bool:
    return _digits(text) > 0 and "%" in text


def _name(text: str) -> bool:
    return len(text) > 1 and _letters(text) >= 0.7 and not _has_date_words(text)


def _person(text: str) -> bool:
    return _name(text) and _digits(text) == 0


def _words(text: str) -> bool:
    return _letters(text) >= 0.5 and not _time(text) and not _date(text)


def _number(text: str) -> bool:
    """A number that names something: of a document, a device, a place in a list."""
    return (
        _digits(text) > 0
        and re.search(r"^\D*[\d,.]*[.,]\d\d$", text) is None
        and _WORDS_OF_DATES.search(text) is None
        and not _BARE_TIME.fullmatch(text)
        and not _BARE_DATE.fullmatch(text)
    )


def _long_number(text: str) -> bool:
    return _digits(text) >= 5 and _WORDS_OF_DATES.search(text) is None


def _card(text: str) -> bool:
    return _number(text) and _digits(text) >= 3


def _count(text: str) -> bool:
    return _digits(text) > 0 and len(text) <= 8


def _place_code(text: str) -> bool:
    """Of a seat, a gate, a room."""
    return 0 < len(text) <= 12 and not _date(text) and not _time(text)


def _address(text: str) -> bool:
    return _letters(text) >= 0.3 and not _time(text) and not _date(text)


_KINDS: dict[Callable[[str], bool], str] = {
    _amount: "amount",
    _date: "date birthday",
    lambda text: _digits(text) > 0: "period",
    _time: "time span",
    _measure: "duration weight height kwh data_size dose",
    _share: "rate battery",
    _person: "person doctor",
    _name: "business artist city country bank",
    _words: "event job department language theme subject product color cover heading venue medicine network status"
    " travel_class zone_name card_type word terms",
    _number: "id digits tax_id person_no tracking flight train plate zip sort_code",
    _long_number: "account iban_full phone",
    _card: "card",
    _count: "small",
    _place_code: "gate seat seat_row room floor",
    _address: "place_line",
    lambda text: "@" in text: "mail",
    lambda text: "." in text: "site",
    lambda text: re.search(r"\d+\.\d+", text) is not None: "ip",
}
_TESTS = {kind: test for test, kinds in _KINDS.items() for kind in kinds.split()}
