"""Questions for what is not on a page although something near it is: the answer is `ABSENT`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from rave_mlx.synthetic.meaning.asking import Asker, plain
from rave_mlx.synthetic.meaning.entries import PATTERNS, WHICH
from rave_mlx.synthetic.meaning.facts import Entry
from rave_mlx.synthetic.meaning.figures import write_date
from rave_mlx.synthetic.meaning.goods import SHOPS, draw_goods
from rave_mlx.synthetic.meaning.layouts.grids import DAYS
from rave_mlx.synthetic.meaning.layouts.screens import SWITCHES
from rave_mlx.synthetic.meaning.paper import Paper
from rave_mlx.synthetic.meaning.phrase import side
from rave_mlx.synthetic.meaning.roles import ROLES, Role
from rave_mlx.synthetic.meaning.sight import Candidate, Seen
from rave_mlx.synthetic.meaning.spoken import typed
from rave_mlx.synthetic.meaning.vocabulary import business
from rave_mlx.synthetic.questions import ABSENT
from rave_mlx.synthetic.words import CITIES, MONTHS

CLOSE = tuple(
    frozenset(line.split())
    for line in """issuer employer landlord carrier venue artist chair
total price fee premium rent net_pay gross paid refund minimum balance_new deposit sum_insured subtotal_of_few
issued event begins signed ends delivered check_in hired inspected period answer_by due
time starts_at departs arrives boarding hours event
expires ends due answer_by period
address home city postcode venue country state destination origin room_no room
document_no control_no tracking policy_no booking reference person_no customer_no order_no
recipient contact signer receiver chair doctor driver server emergency
event_name artist subject product job department
pay card_no account
usage reading_new reading_old data_used
status theme version cover_type travel_class
language country currency
room_no floor seat seat_row gate platform coach zone access table_no
duration hours period warranty terms""".splitlines()
)
"""Groups of roles of which one could be given for another by a sensible reader, so that it is not asked for in vain."""
_ALLOWED = frozenset(
    {("subtotal", "total"), ("order_no", "document_no"), ("customer_no", "document_no"), ("customer_no", "order_no"),
     ("due", "issued"), ("delivered", "issued"), ("deposit", "total"), ("reading_old", "usage"), ("tracking",
     "order_no"),
     ("server", "recipient"), ("server", "signer"), ("doctor", "recipient"), ("driver", "receiver"), ("emergency",
     "recipient"),
     ("chair", "recipient"), ("refund", "total"), ("seat", "gate"), ("platform", "coach"), ("floor", "room_no"),
     ("reference", "document_no"), ("policy_no", "document_no"), ("city", "address"), ("landlord", "issuer"),
     ("expires", "due")}
)  # fmt: skip
"""Pairs (not there, there) that are asked all the same: telling these apart is what is to be learnt."""
_TRIES = 30


def is_missing(role: Role, groups: set[str], text: str) -> bool:
    """Whether nothing on a page could be taken for a value of the role.

    Args:
        role: to ask for.
        groups: of the roles that are on the page.
        text: of the page, as `asking.plain` writes it.
    """
    if role.group in groups:
        return False
    for close in CLOSE:
        if role.group in close and any(g in close and (role.group, g) not in _ALLOWED for g in groups):
            return False
    words = f" {text} "
    return not any(f" {plain(name)} " in words for name in (*role.labels, *role.nouns) if len(plain(name)) > 1)


def candidates(rng: Random, asker: Asker, paper: Paper, seen: Seen, held: bool) -> Iterator[Candidate]:
    """Up to four values of roles, and some rows.

    Args:
        rng: the page's generator.
        asker: draws phrasings.
        paper: the page.
        seen: what of it is in sight.
        held: the side of the split.
    """
    visible = [f for f in (*seen.facts, *seen.torn) if f.role in ROLES]
    groups = {ROLES[f.role].group for f in visible}
    kinds = {ROLES[f.role].kind for f in visible}
    text = plain(seen.text)
    taken = {t.lower() for f in visible for t in (*ROLES[f.role].asks, *ROLES[f.role].nouns)}
    every = [r for r in ROLES.values() if r.held <= paper.held_roles and r.name != "heading"]
    near = [r for r in every if r.kind in kinds]
    gone = [ROLES[f.role] for f in seen.hidden if f.role in ROLES]
    wanted, asked = 3, set[str]()
    for _ in range(_TRIES):
        pool = gone if gone and rng.random() < 0.4 else near if near and rng.random() < 0.7 else every
        role = rng.choice(pool)
        if role.name in asked or not is_missing(role, groups, text):
            continue
        # A noun such as "number" would fit whatever is there.
        phrased = asker.role(role, "", taken, False)
        if phrased is not None:
            asked.add(role.name)
            yield Candidate("absent", phrased.text, (ABSENT,), role.name, phrased.pattern, phrased.style)
        if len(asked) >= wanted:
            break
    yield from _rows(rng, paper, seen, held, text)


def _rows(rng: Random, paper: Paper, seen: Seen, held: bool, text: str) -> Iterator[Candidate]:
    """Questions for rows that a list or table of this sort could have and has not."""
    kinds = {e.kind for e in seen.entries}
    for kind in sorted(kinds):
        entries = [e for e in seen.entries if e.kind == kind]
        sample = rng.choice(entries)
        for name, more in _others(rng, kind, sample)[:2]:
            if any(f" {w} " in f" {text} " for w in re.findall(r"\w{3,}", name.lower())):
                continue
            cells = [c for c in sample.cells if f"{kind}.{c}" in PATTERNS or kind == "row"]
            if not cells:
                continue
            cell = rng.choice(cells)
            patterns = side(PATTERNS["row.*" if kind == "row" else f"{kind}.{cell}"], held)
            patterns = tuple(s for s in patterns if ("{pl}" not in s or more) and s != "{n}")
            if patterns:
                pattern = rng.choice(patterns)
                said = name if rng.random() < 0.4 else name.lower()
                question = typed(rng, pattern.format(n=said, pl=more, c=sample.headers.get(cell, cell)), said)
                yield Candidate("absent", question, (ABSENT,), f"{kind}.{cell}", pattern)
        if kind == "booking" and side(WHICH["booking.day"], held):
            pattern = rng.choice(side(WHICH["booking.day"], held))
            day = write_date(paper.dates.day(), paper.dates.short_form)
            if plain(day) not in text:
                yield Candidate("absent", typed(rng, pattern.format(v=day), day), (ABSENT,), "booking.day", pattern)
    if paper.switches:
        name = rng.choice(SWITCHES)
        patterns = side(
            (
                "is {n} on",
                "is {n} turned on",
                "is {n} enabled",
                "is {n} switched off",
                "{n} on or off",
                "is the {n} active",
            ),
            held,
        )
        if plain(name) not in text and patterns:
            pattern = rng.choice(patterns)
            yield Candidate("absent", typed(rng, pattern.format(n=name), name), (ABSENT,), "switch", pattern)


def _others(rng: Random, kind: str, sample: Entry) -> list[tuple[str, str]]:
    """Names that such a row could have, with their plural where one is counted."""
    if kind in ("goods", "shipped"):
        return [(g.name, g.plural) for g in draw_goods(rng, rng.choice(SHOPS), 3)]
    if kind == "booking":
        return [(business(rng), "")]
    if kind == "hours":
        return [(day, "") for day in rng.sample(DAYS, 2)]
    if kind == "slot":
        return [
            (rng.choice(("Football match", "Auction", "Fireworks", "Tea tasting", "Job interview", "Fire drill")), "")
        ]
    name = sample.names[0]
    if name in MONTHS or name in {m[:3] for m in MONTHS}:
        return [(rng.choice(MONTHS)[: len(name) if len(name) == 3 else 9], "")]
    if name.isdigit():
        return [(str(int(name) + rng.randint(6, 30)), "")]
    return [(rng.choice(CITIES), "")]
