"""Values of every kind in several national formats, drawn from a seeded generator and split by hash.

A value whose CRC is divisible by ten is held out: training pages never carry it, held-out pages carry no other
(kinds with a handful of values, such as colours, are exempt).
"""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable
from random import Random

from rave_mlx.synthetic import words

CLOSED_KINDS = frozenset({"color", "currency", "language", "pay", "country", "first", "last", "count", "percent"})
"""Kinds with too few values to hold any out."""


def held_out(value: str) -> bool:
    """Whether a value belongs to the held-out split."""
    return zlib.crc32(value.encode()) % 10 == 0


def digits(rng: Random, n: int) -> str:
    """`n` random digits, zeros in front included."""
    return "".join(rng.choices("0123456789", k=n))


def letters(rng: Random, n: int) -> str:
    """n random capital letters."""
    return "".join(rng.choices(string.ascii_uppercase, k=n))


def pseudoword(rng: Random, syllables: int | None = None) -> str:
    """A pronounceable word that no language model could guess, of one to three syllables unless told."""
    word = "".join(rng.choices(words.SYLLABLES, k=syllables or rng.randint(1, 3)))
    if rng.random() < 0.4:
        word += rng.choice("nrslmtkdx")
    case = rng.random()
    return word.capitalize() if case < 0.5 else word.upper() if case < 0.65 else word


def identifier(rng: Random) -> str:
    """An order number, code or reference in one of nine forms."""
    form = rng.randrange(9)
    if form == 0:
        return digits(rng, rng.randint(3, 9))
    if form == 1:
        return f"{letters(rng, rng.randint(1, 3))}-{digits(rng, rng.randint(2, 6))}"
    if form == 2:
        return letters(rng, rng.randint(1, 3)) + digits(rng, rng.randint(3, 6))
    if form == 3:
        return f"{digits(rng, 3)}-{digits(rng, 4)}"
    if form == 4:
        return f"#{digits(rng, rng.randint(3, 6))}"
    if form == 5:
        return "".join(rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(4, 8)))
    if form == 6:
        return f"{letters(rng, rng.randint(2, 3))}/{digits(rng, 4)}"
    if form == 7:
        return f"{rng.randint(2015, 2030)}-{digits(rng, rng.randint(3, 5))}"
    return f"{letters(rng, 3)}-{digits(rng, 4)}-{letters(rng, 1)}"


def money(rng: Random, style: str) -> str:
    """An amount in one page's style: `.`/`,` decimals, currency sign or code, before or behind, or none."""
    value = rng.uniform(*rng.choice(((0.2, 10), (1, 30), (10, 100), (100, 1000), (1000, 20000))))
    cents = 0.0 if rng.random() < 0.06 else 0.01
    text = f"{value:,.2f}" if cents else f"{value:,.0f}"
    return dress_money(text if rng.random() < 0.75 else text.replace(",", ""), style)


def dress_money(text: str, style: str) -> str:
    """`1,234.50` in the style of a page, for example `1.234,50 €` in style `, €`."""
    decimal, sign = style[0], style[1:]
    if decimal == ",":
        text = text.translate(str.maketrans(",.", ".,"))
    if sign.startswith(" "):
        return text + sign
    return sign + text


MONEY_STYLES = (
    ".$",
    ".$",
    ".",
    ".",
    ".",
    ".£",
    ".€",
    ", €",
    ", EUR",
    ",",
    ". USD",
    ". GBP",
    ". kr",
    ".CHF ",
    ", zł",
    ".USD ",
)
"""Decimal mark and currency sign; a sign that begins with a space stands behind the number, any other before it.

An entry that is repeated is drawn more often; so everywhere in the generator.
"""


def date(rng: Random, form: int | None = None) -> str:
    """A date in one of 11 national forms."""
    d, m, y = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1955, 2034)
    month, short = words.MONTHS[m - 1], words.MONTHS[m - 1][:3]
    forms = (
        lambda: f"{y}-{m:02d}-{d:02d}",
        lambda: f"{d:02d}/{m:02d}/{y}",
        lambda: f"{m}/{d}/{y}",
        lambda: f"{d} {short} {y}",
        lambda: f"{short} {d}, {y}",
        lambda: f"{d:02d}.{m:02d}.{y}",
        lambda: f"{d:02d}.{m:02d}.{y % 100:02d}",
        lambda: f"{d} {month} {y}",
        lambda: f"{month} {d}, {y}",
        lambda: f"{d}. {words.MONTHS_DE[m - 1]} {y}",
        lambda: f"{d:02d}-{short}-{y}",
    )
    return forms[rng.randrange(len(forms)) if form is None else form]()


def time(rng: Random) -> str:
    """A time of day, 24 or 12 hours."""
    h, m = rng.randint(0, 23), rng.randint(0, 59)
    return f"{h:02d}:{m:02d}" if rng.random() < 0.75 else f"{h % 12 or 12}:{m:02d} {'AM' if h < 12 else 'PM'}"


def first(rng: Random) -> str:
    """A given name."""
    return rng.choice(words.FIRST) if rng.random() < 0.7 else pseudoword(rng, 2).capitalize()


def last(rng: Random) -> str:
    """A family name."""
    return rng.choice(words.LAST) if rng.random() < 0.7 else pseudoword(rng, 2).capitalize()


def name(rng: Random) -> str:
    """A person: full, with an initial, or with a title."""
    form = rng.random()
    if form < 0.8:
        return f"{first(rng)} {last(rng)}"
    if form < 0.9:
        return f"{first(rng)[0]}. {last(rng)}"
    return f"{rng.choice(('Dr.', 'Mr.', 'Ms.', 'Mrs.'))} {last(rng)}"


def city(rng: Random) -> str:
    """A town, real or made up."""
    return rng.choice(words.CITIES) if rng.random() < 0.5 else pseudoword(rng, 3).capitalize()


def phone(rng: Random) -> str:
    """A telephone number in one of six national forms."""
    form = rng.randrange(6)
    if form == 0:
        return f"{digits(rng, 3)}-{digits(rng, 4)}"
    if form == 1:
        return f"+{digits(rng, 2)} {digits(rng, 3)} {digits(rng, 4)}"
    if form == 2:
        return f"({digits(rng, 3)}) {digits(rng, 3)}-{digits(rng, 4)}"
    if form == 3:
        return f"0{digits(rng, 2)} {digits(rng, 7)}"
    if form == 4:
        return f"{digits(rng, 3)}-{digits(rng, 3)}-{digits(rng, 4)}"
    return f"+{digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)}"


def mail(rng: Random) -> str:
    """An email address."""
    user = rng.choice(words.FIRST[:50]).lower() if rng.random() < 0.4 else pseudoword(rng, 2).lower()
    return f"{user}@{pseudoword(rng, 2).lower()}{rng.choice(('.com', '.org', '.net', '.de', '.io'))}"


def street(rng: Random) -> str:
    """Street and number, English or German order."""
    base = rng.choice(words.LAST[:50]) if rng.random() < 0.5 else pseudoword(rng, 2).capitalize()
    if rng.random() < 0.25:
        return f"{base}straße {rng.randint(1, 99)}" if rng.random() < 0.5 else f"{base}weg {rng.randint(1, 99)}"
    return f"{rng.randint(1, 299)} {base} {rng.choice(('St', 'Rd', 'Ave', 'Lane', 'Street', 'Road', 'Drive'))}"


def measure(rng: Random) -> str:
    """A number with a unit."""
    number = f"{rng.uniform(0.1, 200):.1f}" if rng.random() < 0.7 else str(rng.randint(1, 900))
    if rng.random() < 0.15:
        number = number.replace(".", ",")
    return f"{number} {rng.choice(('kg', 'cm', 'mm', 'g', 'lb', 'm', 'km', 'L', 'ml', 'oz', 'in', 'ft'))}"


def percent(rng: Random) -> str:
    """A percentage."""
    return f"{rng.uniform(0, 99):.1f}%" if rng.random() < 0.5 else f"{rng.randint(1, 99)}{rng.choice(('%', '%', ' %'))}"


def company(rng: Random) -> str:
    """A firm or shop."""
    base = pseudoword(rng, 2).capitalize() if rng.random() < 0.7 else rng.choice(words.LAST)
    return f"{base} {rng.choice(words.SHOP)}"


def postcode(rng: Random) -> str:
    """A postal code: digits, or British."""
    if rng.random() < 0.75:
        return digits(rng, rng.choice((4, 5, 5, 5)))
    return f"{letters(rng, 2)}{rng.randint(1, 9)} {rng.randint(1, 9)}{letters(rng, 2)}"


_KINDS: dict[str, Callable[[Random], str]] = {
    "id": identifier,
    "date": date,
    "time": time,
    "name": name,
    "first": first,
    "last": last,
    "city": city,
    "phone": phone,
    "mail": mail,
    "count": lambda rng: str(rng.randint(1, rng.choice((9, 99, 999)))),
    "measure": measure,
    "percent": percent,
    "zip": postcode,
    "word": lambda rng: pseudoword(rng, rng.randint(2, 3)),
    "street": street,
    "company": company,
    "site": lambda rng: f"www.{pseudoword(rng, 2).lower()}{rng.choice(('.com', '.org', '.net'))}",
    "iban": lambda rng: f"{letters(rng, 2)}{digits(rng, 2)} {digits(rng, 4)} {digits(rng, 4)}",
    "card": lambda rng: f"{rng.choice(('**** ', 'XXXX-', '...'))}{digits(rng, 4)}",
    "country": lambda rng: rng.choice(words.COUNTRIES),
    "color": lambda rng: rng.choice(words.COLORS),
    "currency": lambda rng: rng.choice(words.CURRENCIES),
    "language": lambda rng: rng.choice(words.LANGUAGES),
    "pay": lambda rng: rng.choice(words.PAYMENTS),
}
KINDS = (*_KINDS, "amount")


class Values:
    """Draws values for one page: one split, one money style."""

    def __init__(self, rng: Random, held: bool) -> None:
        self.rng, self.held = rng, held
        self.money_style = rng.choice(MONEY_STYLES)

    def draw(self, kind: str) -> str:
        """A value of the kind, from the split of this page."""
        while True:
            value = money(self.rng, self.money_style) if kind == "amount" else _KINDS[kind](self.rng)
            if kind in CLOSED_KINDS or held_out(value) == self.held:
                return value

    def goods(self) -> str:
        """An article name: a known one, or a made-up one."""
        roll = self.rng.random()
        if roll < 0.65:
            return self.rng.choice(words.GOODS)
        word = pseudoword(self.rng, 2).capitalize()
        return word if roll < 0.85 else f"{word} {self.rng.choice(words.GOODS).lower()}"
