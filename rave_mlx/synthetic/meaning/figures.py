"""Amounts, dates and times in the style of one page."""

from __future__ import annotations

import datetime
from random import Random

from rave_mlx.synthetic.values import dress_money
from rave_mlx.synthetic.words import MONTHS

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FORMS = (
    "{y}-{m:02}-{d:02}", "{d:02}/{m:02}/{y}", "{m:02}/{d:02}/{y}", "{m}/{d}/{y}", "{d:02}.{m:02}.{y}",
    "{d:02}.{m:02}.{s:02}", "{d:02}-{m:02}-{y}", "{m:02}/{d:02}/{s:02}", "{d} {mon} {y}", "{mon} {d}, {y}",
    "{d} {month} {y}", "{month} {d}, {y}", "{d:02}-{mon}-{s:02}", "{d:02} {MON} {y}", "{y}/{m:02}/{d:02}",
    "{day}, {d} {month} {y}", "{dy} {d} {mon} {y}", "{dy} {d} {month} {y}", "{day}, {month} {d}, {y}",
)  # fmt: skip
_SHORT = (
    "{d} {month}", "{d} {mon}", "{month} {d}", "{mon} {d}", "{d:02}.{m:02}.", "{d:02}/{m:02}", "{m}/{d}",
    "{dy} {d} {mon}", "{day}, {d} {month}",
)  # fmt: skip
SPOKEN = ("{d} {month}", "{month} {d}", "the {n} of {month}", "{mon} {d}", "{d} {mon}")
"""How a question may name a day."""


def _ordinal(number: int) -> str:
    """A number as in `the 21st`."""
    if number in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def write_date(day: datetime.date, form: str) -> str:
    """A day in a form of this file."""
    month = MONTHS[day.month - 1]
    name = _DAYS[day.weekday()]
    return form.format(
        y=day.year, s=day.year % 100, m=day.month, d=day.day, month=month, mon=month[:3], MON=month[:3].upper(),
        day=name,
        dy=name[:3], n=_ordinal(day.day),
    )  # fmt: skip


class Dates:
    """Days and times as one page writes them.

    Args:
        rng: the page's generator.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.form, self.short_form = rng.choice(_FORMS), rng.choice(_SHORT)
        self.year = rng.choice((*range(2012, 2031), 2024, 2025, 2026, 1998, 2004))
        self.clock = rng.choice(("24", "24", "24", "seconds", "am", "AM"))

    def day(self) -> datetime.date:
        """A day of the page's year."""
        return datetime.date(self.year, 1, 1) + datetime.timedelta(days=self.rng.randrange(365))

    def draw(self) -> str:
        """A day of the page's year, written out in full."""
        return write_date(self.day(), self.form)

    def birthday(self) -> str:
        """A day on which a grown person was born."""
        day = datetime.date(self.year - self.rng.randint(18, 80), 1, 1) + datetime.timedelta(self.rng.randrange(365))
        return write_date(day, self.form)

    def row(self, count: int) -> list[datetime.date]:
        """Days in ascending order, within two months, no two the same."""
        start = self.day()
        return [start + datetime.timedelta(days=n) for n in sorted(self.rng.sample(range(60), count))]

    def time(self, hour: tuple[int, int] = (6, 22), plain: bool = False) -> str:
        """A time of day.

        Args:
            hour: first and last hour.
            plain: without seconds.
        """
        h, m = self.rng.randint(*hour), self.rng.choice((0, 15, 30, 45)) if plain else self.rng.randint(0, 59)
        if self.clock in ("am", "AM"):
            mark = {"am": ("am", "pm"), "AM": ("AM", "PM")}[self.clock][h >= 12]
            return f"{h % 12 or 12}:{m:02} {mark}"
        seconds = f":{self.rng.randint(0, 59):02}" if self.clock == "seconds" and not plain else ""
        return f"{h:02}:{m:02}{seconds}"


class Money:
    """Amounts in cents, and how one page writes them.

    Args:
        rng: the page's generator.
        style: as in `values.MONEY_STYLES`.
    """

    def __init__(self, rng: Random, style: str) -> None:
        self.rng, self.style = rng, style
        self.thousands = rng.random() < 0.75
        self.ends = rng.choice((0, 0, 0, 5, 9, 99))

    @property
    def bare(self) -> str:
        """The style without its currency sign."""
        return self.style[0]

    def draw(self, low: float = 0.5, high: float = 0.0) -> int:
        """An amount in cents, small ones more often.

        Args:
            low: least, in whole units.
            high: most; 0 for one of several ranges.
        """
        top = high or self.rng.choice((10, 30, 100, 1000, 10000))
        return round(self.rng.triangular(low, top, low + (top - low) * 0.25) * 100)

    def price(self, low: float, high: float) -> int:
        """A price as shops make them, in cents.

        Args:
            low: least, in whole units.
            high: most.
        """
        cents = self.draw(low, high)
        return cents - cents % 10 + self.ends % 10 if self.ends != 99 else cents - cents % 100 + 99

    def text(self, cents: int, sign: bool = True) -> str:
        """An amount as the page writes it.

        Args:
            cents: may be negative.
            sign: with the currency.
        """
        written = f"{abs(cents) / 100:,.2f}"
        written = written if self.thousands else written.replace(",", "")
        return ("-" if cents < 0 else "") + dress_money(written, self.style if sign else self.bare)
