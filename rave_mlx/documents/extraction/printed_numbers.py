"""Numbers as people print them: thousands separators, decimal commas, currencies, percent signs, brackets for minus."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

_MONEY = (
    "aed|ars|aud|bgn|brl|cad|chf|clp|cny|cop|czk|dkk|egp|eur|gbp|hkd|huf|idr|ils|inr|isk|jpy|kes|krw|mad|mxn|myr|ngn|"
    "nok|nzd|pen|php|pkr|pln|rmb|ron|rsd|rub|sar|sek|sgd|thb|try|twd|uah|usd|vnd|zar|"
    "euros?|dollars?|cents?|pounds?|francs?|yen|rupees?|kr|zł|kč|ft|fr|rs"
)
_CURRENCY = re.compile(
    rf"(?<![^\W\d_])(?:{_MONEY})(?![^\W\d_])\.?|(?<![^\W\d_])(?:US|CA|AU|NZ|HK|R|C|A)(?=\$)", re.IGNORECASE
)
_LARGE = re.compile(
    r"\d\s*(?:k|m|mn|mio|mrd|bn|thousand|million|billion|trillion|tausend|millionen?|milliarden?|lakhs?|crores?)\b\.?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[^\d:]{1,60}:\s*")
_BODY = re.compile(r"[.,]?[0-9](?:[0-9.,'’ ]*[0-9])?")
_UNIT = re.compile(r"[^\W\d_]{1,12}\.?")
_NO_CENTS = re.compile(r"(?<=[0-9])[.,]\s*(?:-{1,2}|—)(?![0-9])")
_PLAIN = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_WITH_COMMA = re.compile(r"(?<![\d.,])\d{1,3}(?:[.' ]?\d{3})*,\d{2}(?![\d.,])")
_WITH_POINT = re.compile(r"(?<![\d.,])\d{1,3}(?:[,' ]?\d{3})*\.\d{2}(?![\d.,])")


def parse_number(text: str, decimal_comma: bool | None = None) -> Decimal:
    """The number that a printed text gives: "1.234,56 €" is 1234.56, "(12.00)" is -12.00, "19 %" is 19.

    A single comma or point before three digits may group thousands or begin decimals. Without a hint a comma groups
    ("1,234" is 1234) and a point begins decimals ("1.234" is 1.234), as in English and in JSON. A unit of one word
    behind the number and a label with a colon before it are left out ("Qty: 3 pcs." is 3); words like "million" are
    refused.

    Args:
        text: one number.
        decimal_comma: whether the document writes decimals behind a comma; None: not known.

    Raises:
        ValueError: for no number or several, or one whose separators make no sense.
    """
    clean = _clean(text)
    if _PLAIN.fullmatch(clean) and ("e" in clean.lower() or "." not in clean):
        return Decimal(clean)
    if _LARGE.search(clean):
        raise ValueError(f"{text!r} has a word for a large number")
    clean = _NO_CENTS.sub("", _LABEL.sub("", clean, count=1) if ":" in clean else clean)
    clean = _CURRENCY.sub(" ", clean)
    clean = "".join(" " if unicodedata.category(c) == "Sc" or c == "%" else c for c in clean).strip()
    bodies = list(_BODY.finditer(clean))
    if len(bodies) != 1:
        raise ValueError(f"{text!r} has {'no number' if not bodies else 'more than one number'} in it")
    before, after = clean[: bodies[0].start()].strip(), clean[bodies[0].end() :].strip().rstrip(".,")
    brackets = before.startswith("(") and after.endswith(")")
    if brackets:
        before, after = before[1:].strip(), after[:-1].strip()
    minus = before.endswith("-"), after.startswith("-")
    before, after = before.removesuffix("-").removesuffix("+").strip(), after.removeprefix("-").strip()
    if before or (after and not _UNIT.fullmatch(after)):
        raise ValueError(f"{text!r} has more than a number in it: {before or after!r}")
    if brackets + sum(minus) > 1:
        raise ValueError(f"{text!r} has two minus signs")
    number = _read(bodies[0].group(), text, decimal_comma)
    return -number if brackets or any(minus) else number


def find_decimal_comma(texts: Iterable[str]) -> bool | None:
    """Whether a document writes amounts as 12,50 rather than as 12.50; None where it does neither, or both.

    Args:
        texts: what stands in it, in any pieces.
    """
    comma = point = 0
    for text in texts:
        comma += len(_WITH_COMMA.findall(text))
        point += len(_WITH_POINT.findall(text))
    return True if comma > 3 * point else False if point > 3 * comma else None


def _clean(text: str) -> str:
    """Plain spaces, digits, hyphens and commas for what looks like them; square metres are metres."""
    plain = unicodedata.normalize("NFKC", text.translate({0xB2: None, 0xB3: None})).translate(
        {0x2212: "-", 0x2013: "-", 0x2010: "-", 0x2011: "-"}
    )
    digits = (str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    return " ".join("".join(digits).split())


def _read(body: str, text: str, decimal_comma: bool | None) -> Decimal:
    """Digits with separators as a number."""
    grouped = re.sub(r"(?<=[0-9])['’ ](?=[0-9]{3}(?![0-9]))", "", body)
    if re.search(r"['’ ]", grouped):
        raise ValueError(f"{text!r} has more than one number in it, or digits in groups that are not thousands")
    marks = [c for c in grouped if c in ".,"]
    if not marks:
        return Decimal(grouped)
    last = marks[-1]
    if len(marks) == 1:
        whole, _, fraction = grouped.partition(last)
        if len(fraction) == 3 and 1 <= len(whole) <= 3 and whole.lstrip("0") and grouped == body:
            begins_decimals = (last == ",") == decimal_comma if decimal_comma is not None else last == "."
            return Decimal(f"{whole}.{fraction}" if begins_decimals else whole + fraction)
        return Decimal(f"{whole or 0}.{fraction}")
    whole, _, fraction = grouped.rpartition(last)
    if last in whole:  # it comes more than once: it groups thousands, and nothing begins decimals
        whole, fraction = grouped, ""
    other = next(c for c in whole if c in ".,")
    if not re.fullmatch(rf"[0-9]{{1,3}}(?:\{other}[0-9]{{2,3}})*\{other}[0-9]{{3}}", whole):
        raise ValueError(f"{text!r} has separators that are neither thousands nor decimals")
    return Decimal(f"{whole.replace(other, '')}.{fraction or 0}") if fraction else Decimal(whole.replace(other, ""))
