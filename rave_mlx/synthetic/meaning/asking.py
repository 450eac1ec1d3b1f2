"""Questions for values by their role: whole sentences, nouns in frames, printed labels, names of a schema."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from rave_mlx.synthetic.meaning.phrase import expand, side
from rave_mlx.synthetic.meaning.proportions import NAMED_PAGE, STYLES
from rave_mlx.synthetic.meaning.roles import Role
from rave_mlx.synthetic.meaning.spoken import typed

FRAMES = tuple(
    sentence
    for pattern in (
        "what is the {}", "what is the {}", "which {} is [given|printed|shown|stated]",
        "what {} is [given|printed|shown]",
        "[tell me|give me|show me|find|read|read out|get|look up|extract] the {}", "{}", "{}", "the {}", "{} please",
        "[can you|could you] [tell me|find|read|give me] the {}", "what does it say for {}", "[need|I need] the {}",
        "[I would like to know|I'd like to know|I want to know|do you know] the {}", "what about the {}",
        "do you see the {}", "what's written as {}", "{} of this [page|document]", "and the {}",
        "[please|] return the {}", "value of {}", "look for the {}",
    )
    for sentence in expand(pattern)
)  # fmt: skip
"""Frames for nouns."""
KEYS = tuple(
    sentence
    for pattern in (
        "{}", "{}", "{}:", "what is {}", "extract {}", "[value|field|key] {}", "what is the value of {}", "find {}",
        "[Field name|Field|Name]: {}", "read the field {}", "{} = ?", "get {}", "what is the {}",
    )
    for sentence in expand(pattern)
)  # fmt: skip
"""Frames for names of a schema."""
GENERIC = frozenset(
    [
        "date",
        "name",
        "number",
        "time",
        "address",
        "place",
        "location",
        "customer",
        "price",
        "cost",
        "type",
        "state",
        "day",
        "amount",
        "code",
        "account",
        "payment",
        "charge",
        "total",
        "sum",
        "title",
        "status",
        "period",
        "level",
        "start",
        "end",
        "party",
        "reference",
        "document",
        "item",
        "product",
        "item",
        "card",
        "balance",
        "rate",
        "fee",
    ]
)
"""Nouns that mean a role only where the page has no other value of its kind."""
_PAGE = ("on the {}", "on this {}", "in this {}", "of this {}", "according to the {}", "here")


@dataclass(frozen=True)
class Phrased:
    """A question as typed, the pattern it was made from, and its style."""

    text: str
    pattern: str
    style: str


class Asker:
    """Draws questions of one side of the split.

    Args:
        rng: the page's generator.
        held: whether phrasings are those that training never sees.
        page: what the page is called.
    """

    def __init__(self, rng: Random, held: bool, page: tuple[str, ...]) -> None:
        self.rng, self.held, self.page = rng, held, page
        self.frames, self.keys = side(FRAMES, held), side(KEYS, held)

    def named(self, sentence: str) -> str:
        """The sentence, now and then saying which page it is about."""
        if self.rng.random() > NAMED_PAGE:
            return sentence
        return f"{sentence} {self.rng.choice(_PAGE).format(self.rng.choice((*self.page, 'page', 'document')))}"

    def role(self, role: Role, label: str, not_these: Collection[str], lonely: bool) -> Phrased | None:
        """A question for the value of a role; None where this side of the split has none that fits.

        Args:
            role: what is asked for.
            label: printed beside the value; "" for none.
            not_these: sentences and nouns, in lower case, that would ask for something else of the page as well.
            lonely: whether no other value of the kind is on the page.
        """
        styles = [s for s in STYLES if s != "label" or label]
        style = self.rng.choices(styles, [STYLES[s] for s in styles])[0]
        if style == "ask":
            asks = [a for a in side(role.asks, self.held) if a.lower() not in not_these]
            if asks:
                ask = self.rng.choice(asks)
                return Phrased(typed(self.rng, self.named(ask)), ask, style)
            style = "frame"
        nouns = [
            n
            for n in role.nouns
            if n.lower() not in not_these and (lonely or not _general(n) or n.lower() == label.lower())
        ]
        if style == "label":
            nouns = [label]
        if style == "schema":
            return self.key(role, not_these, lonely)
        if not nouns or not self.frames:
            return None
        frame = self.rng.choice(self.frames)
        noun = self.rng.choice(nouns)
        return Phrased(typed(self.rng, self.named(frame.format(noun)), noun if style == "label" else ""), frame, style)

    def key(self, role: Role, not_these: Collection[str], lonely: bool) -> Phrased | None:
        """A question as a program asks field by field; sometimes with what the field means.

        Args:
            role: what is asked for.
            not_these: as of `role`.
            lonely: as of `role`.
        """
        keys = [
            k
            for k in role.keys
            if k.replace("_", " ") not in not_these and (lonely or not _general(k.replace("_", " ")))
        ]
        if not keys or not self.keys:
            return None
        frame = self.rng.choice(self.keys)
        key = spelled(self.rng, self.rng.choice(keys))
        text = frame.format(key)
        if self.rng.random() < 0.25:
            text += self.rng.choice((": {}", " ({})", " - {}", ". {}")).format(self._meaning(role))
        if frame.startswith("what") and self.rng.random() < 0.7:
            text = text[:1].upper() + text[1:] + "?"
        return Phrased(text, f"key:{frame}", "schema")

    def _meaning(self, role: Role) -> str:
        """What a schema says about a field."""
        noun = self.rng.choice(role.nouns)
        return self.rng.choice(("the {}", "{}", "The {}.", "the {} as printed", "the {} of the document")).format(noun)


def _general(noun: str) -> bool:
    return noun.lower().strip() in GENERIC


def spelled(rng: Random, key: str) -> str:
    """A name of a schema in one of the usual spellings.

    Args:
        rng: the generator to draw from.
        key: in snake case, or as it is where it has capitals.
    """
    if "_" not in key:
        return rng.choice((key, key, key.capitalize())) if key.islower() else key
    parts = key.split("_")
    forms = (
        key, key, key, " ".join(parts), " ".join(p.capitalize() for p in parts),
        parts[0] + "".join(p.capitalize() for p in parts[1:]),
        "-".join(parts), "".join(p.capitalize() for p in parts), key.upper(),
    )  # fmt: skip
    return rng.choice(forms)


def plain(text: str) -> str:
    """A text for comparison: in lower case, words only."""
    return " ".join(re.findall(r"\w+", text.lower()))
