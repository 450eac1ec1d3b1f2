"""Writing on a page: lines made of parts, of which some are values with a role and some are their labels.

Pages grow downwards without an end; `document.py` cuts them to a size afterwards and keeps what can still be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from rave_mlx.synthetic.meaning import vocabulary
from rave_mlx.synthetic.meaning.facts import Entry, Fact, Pieces, Stretch, Switch
from rave_mlx.synthetic.meaning.figures import Dates, Money
from rave_mlx.synthetic.meaning.roles import ROLES
from rave_mlx.synthetic.sheet import Color, Sheet, Type
from rave_mlx.synthetic.values import held_out

SPACE = 0.3
"""Width of the space between two parts, of the size of the face."""
_TRIES = 60
AMOUNTS = {
    "rent": (280, 3200), "gross": (900, 9800), "net": (800, 7200), "withheld": (60, 2400), "pension": (40, 900),
    "health_pay": (30, 700), "overtime": (20, 800), "premium": (20, 1400), "excess": (50, 1000),
    "sum_insured": (2000, 250000),
    "credit_limit": (500, 20000), "deposit": (50, 2500), "minimum": (10, 150), "penalty": (3, 80), "fee": (5, 400),
    "balance_old": (-500, 9000), "balance_new": (-500, 9000), "price": (2, 380), "refund": (5, 900),
}  # fmt: skip
"""Amounts that a role may have, in whole units, where not any will do."""


@dataclass(frozen=True)
class Part:
    """A piece of a line.

    `x`: pixels, "l" or "r" for a margin, "c" for the middle, None for behind the part before it. `role`: what the text
    means; `label`: whether it is the label of the values that follow on the line.
    """

    text: str
    x: float | str | None = None
    face: Type | None = None
    role: str = ""
    label: bool = False
    color: Color | None = None


class Paper:
    """A page being written, with what it means.

    Attributes:
        facts, entries, switches: what questions are asked about.
        kind: names of the document as people call it; the first is what it is.
        subject: pieces that say what the page is about, as its title; empty where it has none.
        money, dates: values in the style of this page.

    Args:
        sheet: laid out so far.
        held_roles: whether roles are taken from those that training never sees.
    """

    def __init__(self, sheet: Sheet, held_roles: bool) -> None:
        self.sheet, self.rng, self.held_roles = sheet, sheet.rng, held_roles
        self.facts: list[Fact] = []
        self.entries: list[Entry] = []
        self.switches: list[Switch] = []
        self.kind: tuple[str, ...] = ("page",)
        self.subject: Pieces = ()
        self.money = Money(sheet.rng, sheet.values.money_style)
        self.dates = Dates(sheet.rng)
        style = sheet.style
        self.body = Type(style.family, style.size)
        self.bold = Type(style.family, style.size, bold=True)
        self.small = Type(style.family, max(7.5, style.size * 0.78))
        self.tiny = Type(style.family, max(7.0, style.size * 0.62))
        self.large = Type(style.heading, round(style.size * self.rng.uniform(1.25, 1.8)), bold=self.rng.random() < 0.7)

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self.rng.random() < p

    def pick(self, options: Sequence[str]) -> str:
        """One of several texts."""
        return self.rng.choice(options)

    def draw(self, kind: str) -> str:
        """A value from the split of this page: `amount`, `date`, `time` in its style, else of `values.KINDS`."""
        for _ in range(_TRIES):
            if kind == "amount":
                value = self.money.text(self.money.draw())
            elif kind == "date":
                value = self.dates.draw()
            elif kind == "birthday":
                value = self.dates.birthday()
            elif kind == "time":
                return self.dates.time()
            elif kind in vocabulary.KINDS:
                value = vocabulary.make(self.rng, kind)
            else:
                return self.sheet.values.draw(kind)
            if held_out(value) == self.sheet.values.held:
                break
        return value

    def of(self, role: str) -> str:
        """A value that the role could have."""
        if role in AMOUNTS:
            low, high = AMOUNTS[role]
            for _ in range(_TRIES):
                text = self.money.text(self.money.draw(low, high))
                if held_out(text) == self.sheet.values.held:
                    break
            return text
        return self.draw(ROLES[role].kind)

    def label(self, role: str) -> str:
        """A printed label of the role that the page does not have yet, without its colon; "" where all are taken."""
        options = [text for text in ROLES[role].labels if text.lower() not in self.sheet.used]
        if not options:
            return ""
        text = self.rng.choice(options)
        self.sheet.used.add(text.lower())
        return text

    def own(self, make: Callable[[Random], str]) -> str:
        """A text that `make` composes, from the split of this page."""
        for _ in range(_TRIES):
            value = make(self.rng)
            if held_out(value) == self.sheet.values.held:
                break
        return value

    def width(self, text: str, face: Type | None = None) -> float:
        """Of a text in pixels."""
        return self.sheet.measure(text, face or self.body)

    @property
    def span(self) -> float:
        """Pixels between the margins."""
        return self.sheet.x1 - self.sheet.x0

    def gap(self, lines: float = 1.0) -> None:
        """Leave blank lines."""
        self.sheet.y += lines * self.sheet.pitch()

    def line(self, *parts: Part, pitch: float = 0) -> list[Stretch]:
        """Write one line of parts at the cursor; the place of each. Values with a role become facts of the page.

        Args:
            parts: from left to right.
            pitch: height of the line in pixels; 0 for that of its largest face.
        """
        ink = self.sheet.style.ink
        placed = [(x, part.text, part.face or self.body, part.color or ink) for x, part in self._place(parts)]
        first = len(self.sheet.runs)
        self.sheet.line(placed, pitch)
        found = [Stretch(first + i, 0, len(part.text)) for i, part in enumerate(parts)]
        label: Pieces = ()
        named = ""
        for part, stretch in zip(parts, found, strict=True):
            if part.label:
                label, named = (stretch,), part.text.strip(" :.#-")
            elif part.role:
                self.fact(part.role, (stretch,), named, label)
        return found

    def fact(self, role: str, value: Pieces, label: str = "", label_at: Pieces = ()) -> None:
        """Say what a text of the page means.

        Args:
            role: of `roles.ROLES`.
            value: where it stands.
            label: what is printed for it.
            label_at: where that stands.
        """
        self.facts.append(Fact(role, value, label, label_at))

    def _place(self, parts: Sequence[Part]) -> list[tuple[float, Part]]:
        """The left end of each part; parts without a place follow the one before, and are aligned together with it."""
        groups: list[list[Part]] = []
        for part in parts:
            if part.x is None and groups:
                groups[-1].append(part)
            else:
                groups.append([part])
        out = []
        for group in groups:
            widths = [self.width(part.text, part.face) for part in group]
            gaps = [SPACE * (part.face or self.body).size for part in group]
            total = sum(widths) + sum(gaps[1:])
            x = self._start(group[0].x, total)
            for part, width, gap in zip(group, widths, gaps, strict=True):
                out.append((x, part))
                x += width + gap
        return out

    def _start(self, x: float | str | None, width: float) -> float:
        """Where something of a width begins."""
        if x == "r":
            return self.sheet.x1 - width
        if x == "c":
            return (self.sheet.width - width) / 2
        return x if isinstance(x, float | int) else self.sheet.x0

    def wrapped(self, parts: Sequence[Part], x0: float | None = None, x1: float | None = None) -> None:
        """Running text: parts one after the other, broken into lines between words. Values may run over two lines.

        Args:
            parts: in order; a part that starts with punctuation follows without a space.
            x0: left end in pixels; None for the margin.
            x1: right end in pixels; None for the margin.
        """
        left = self.sheet.x0 if x0 is None else x0
        right = self.sheet.x1 if x1 is None else x1
        line: list[tuple[float, str, Type, int]] = []
        stands: dict[int, list[Stretch]] = {}
        x = left

        def flush() -> None:
            first = len(self.sheet.runs)
            merged: list[list[tuple[float, str, Type, int]]] = []
            for item in line:
                if merged and merged[-1][0][3] == item[3]:
                    merged[-1].append(item)
                else:
                    merged.append([item])
            runs = [(items[0][0], " ".join(i[1] for i in items), items[0][2]) for items in merged]
            if runs:
                self.sheet.line(runs)
                for i, items in enumerate(merged):
                    stands.setdefault(items[0][3], []).append(Stretch(first + i, 0, len(runs[i][1])))

        for number, part in enumerate(parts):
            face = part.face or self.body
            space = self.width(" ", face)
            for i, word in enumerate(part.text.split()):
                glued = i == 0 and word[0] in ",.;:!?)"
                if glued and line:
                    x -= space
                if x + self.width(word, face) > right and line and not glued:
                    flush()
                    line, x = [], left
                line.append((x, word, face, number))
                x += self.width(word, face) + space
        flush()
        for number, part in enumerate(parts):
            if part.role and number in stands:
                self.fact(part.role, joined_words(stands[number]))


def joined_words(found: Sequence[Stretch]) -> Pieces:
    """Stretches of running text as one answer."""
    out: list[Stretch | str] = []
    for i, stretch in enumerate(found):
        out += ([" "] if i else []) + [stretch]
    return tuple(out)
