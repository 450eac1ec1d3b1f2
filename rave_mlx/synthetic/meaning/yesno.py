"""Questions that are answered with yes or no."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from rave_mlx.synthetic.meaning.absent import is_missing
from rave_mlx.synthetic.meaning.asking import plain
from rave_mlx.synthetic.meaning.facts import Pieces, text_of
from rave_mlx.synthetic.meaning.paper import Paper
from rave_mlx.synthetic.meaning.phrase import expand, side
from rave_mlx.synthetic.meaning.roles import ROLES
from rave_mlx.synthetic.meaning.sight import Candidate, Seen
from rave_mlx.synthetic.meaning.spoken import typed

YES, NO = "yes", "no"
ON = (*expand("is [|the ]{n} [on|turned on|switched on|enabled|activated|active]"), "{n} on", "do I have {n} on")
OFF = expand("is [|the ]{n} [off|turned off|switched off|disabled]")
OPEN = (*expand("[are they|is it|are you|is the shop] open on {n}"), "can I go there on {n}", "open on {n}")
CLOSED = expand("[are they|is it] closed on {n}")
THERE = (
    *expand("is there a {n}[| on it| printed| given| on the page]"),
    "does it have a {n}",
    "do they give a {n}",
    "does it say the {n}",
)
CASH = ("was it paid in cash", "did I pay cash", "paid in cash", "did they pay in cash")
CARD = ("was it paid by card", "did I pay by card", "paid with a card", "was a card used", "did I use a card")
PAID = (
    "is it paid",
    "has it been paid",
    "was it paid",
    "paid already",
    "is the bill paid",
    "has this been paid already",
)
APPROVED = ("was it approved", "was the payment approved", "did the payment go through", "approved", "is it approved")
_NOUNS = {
    "phone": "phone number", "mail": "email address", "discount": "discount", "tip": "tip", "due": "due date",
    "site": "website",
    "shipping": "shipping charge", "tax": "tax", "tracking": "tracking number", "iban": "IBAN", "fax": "fax number",
    "deposit": "deposit", "signer": "signature name", "born": "date of birth", "expires": "expiry date",
    "card_no": "card number",
    "customer_no": "customer number", "contact": "contact person", "order_no": "order number",
}  # fmt: skip


def candidates(rng: Random, paper: Paper, seen: Seen, held: bool) -> Iterator[Candidate]:
    """Questions about switches, closed days, how and whether it was paid, and whether something is there.

    Args:
        rng: the page's generator.
        paper: the page.
        seen: what of it is in sight.
        held: the side of the split.
    """
    for switch in seen.switches:
        for patterns, when in ((ON, True), (OFF, False)):
            if when or rng.random() < 0.3:
                yield from _say(rng, patterns, held, switch.on == when, "switch", switch.name)
    for entry in seen.entries:
        if entry.kind == "hours":
            for patterns, when in ((OPEN, True), (CLOSED, False)):
                if ("closed" in entry.cells or rng.random() < 0.5) and (when or rng.random() < 0.3):
                    yield from _say(rng, patterns, held, ("open" in entry.cells) == when, "hours", entry.names[0])
    found = {f.role: text_of(f.value, paper.sheet.runs) for f in seen.facts}
    if "card_type" in found:
        cash = found["card_type"].lower() == "cash"
        yield from _say(rng, CASH, held, cash, "card_type", "")
        if found["card_type"] not in ("PayPal",):
            yield from _say(rng, CARD, held, not cash, "card_type", "")
    if found.get("status", "") in ("Paid", "Open", "Pending"):
        yield from _say(rng, PAID, held, found["status"] == "Paid", "status", "")
    if found.get("status", "").lower() in ("approved", "transaction approved", "declined", "rejected"):
        yield from _say(rng, APPROVED, held, "approved" in found["status"].lower(), "status", "")
    groups = {ROLES[f.role].group for f in (*seen.facts, *seen.torn) if f.role in ROLES}
    text = plain(seen.text)
    asked = 0
    for role in rng.sample(list(_NOUNS), 8):
        there = role in found
        # Most of these are missing on most pages: half of the answers would be too easy to guess.
        if asked >= 2 or (not there and rng.random() < 0.7):
            continue
        if there or is_missing(ROLES[role], groups, text):
            asked += 1
            yield from _say(rng, THERE, held, there, role, _NOUNS[role])


def _say(rng: Random, patterns: tuple[str, ...], held: bool, yes: bool, role: str, name: str) -> Iterator[Candidate]:
    """One question of the patterns, where this side of the split has any."""
    allowed = side(patterns, held)
    if allowed:
        pattern = rng.choice(allowed)
        answer: Pieces = (YES if yes else NO,)
        article = pattern.replace("a {n}", "an {n}") if name[:1].lower() in "aeio" else pattern
        yield Candidate("yesno", typed(rng, article.format(n=name), name), answer, role, pattern)
