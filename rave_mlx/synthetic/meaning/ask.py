"""All questions of a page, each with its one answer, and the choice among them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from rave_mlx.synthetic.meaning import absent, entries, talk, yesno
from rave_mlx.synthetic.meaning.asking import Asker
from rave_mlx.synthetic.meaning.facts import Pieces, joined, text_of
from rave_mlx.synthetic.meaning.paper import Paper
from rave_mlx.synthetic.meaning.phrase import side
from rave_mlx.synthetic.meaning.proportions import MOST_ABSENT, QUESTIONS, SHARES
from rave_mlx.synthetic.meaning.roles import ROLES, Role
from rave_mlx.synthetic.meaning.sight import Candidate, Seen
from rave_mlx.synthetic.meaning.spoken import typed

LONGEST = 260
"""Characters of the longest answer that is asked for."""
FREE = "free"
"""The role of a labelled value that has none."""


def candidates(rng: Random, paper: Paper, seen: Seen, held: bool) -> list[Candidate]:
    """Everything that the page can be asked; no two questions of the same words.

    Args:
        rng: the page's generator.
        paper: the page.
        seen: what of it is in sight.
        held: whether phrasings are those that training never sees.
    """
    asker = Asker(rng, held, paper.kind)
    out = [
        *_values(rng, asker, seen),
        *_entries(rng, paper, seen, held),
        *absent.candidates(rng, asker, paper, seen, held),
        *yesno.candidates(rng, paper, seen, held),
        *_wholes(rng, paper, seen, held),
    ]
    found = [c for c in out if len(text_of(c.answer, paper.sheet.runs)) <= LONGEST]
    answers: dict[str, set[str]] = {}
    for c in found:
        answers.setdefault(c.text.lower().strip("?. "), set()).add(text_of(c.answer, paper.sheet.runs))
    return [c for c in found if len(answers[c.text.lower().strip("?. ")]) == 1]


def choose(rng: Random, found: Sequence[Candidate], most: int = QUESTIONS) -> list[Candidate]:
    """Some of the questions, in the proportions of `SHARES`.

    Args:
        rng: the page's generator.
        found: all that the page can be asked.
        most: how many at most.
    """
    by: dict[str, list[Candidate]] = {}
    for c in found:
        by.setdefault(c.kind, []).append(c)
    for group in by.values():
        rng.shuffle(group)
    out: list[Candidate] = []
    while by and len(out) < most:
        missing = sum(c.kind == "absent" for c in out)
        kinds = [k for k in by if k != "absent" or missing * MOST_ABSENT < len(out)]
        if not kinds:
            break
        kind = rng.choices(kinds, [SHARES[k] for k in kinds])[0]
        out.append(by[kind].pop())
        if not by[kind]:
            del by[kind]
    return out


def _values(rng: Random, asker: Asker, seen: Seen) -> Iterator[Candidate]:
    """Values by their role, where no other value could be meant; two questions for some."""
    visible = [*seen.facts, *seen.torn]
    groups = Counter(ROLES[f.role].group for f in visible if f.role != FREE)
    kinds = Counter(ROLES[f.role].kind for f in visible if f.role != FREE)
    labels = Counter(f.label.lower() for f in visible)
    for fact in seen.facts:
        quote = joined([fact.label_at, fact.value], " ") if fact.label_at else ()
        if fact.role == FREE:
            role = Role(
                FREE, "", FREE, (), (fact.label.lower(), fact.label), (), (fact.label.lower().replace(" ", "_"),), False
            )
            phrased = asker.role(role, fact.label, (), True)
            if phrased is not None and labels[fact.label.lower()] == 1:
                yield Candidate("value", phrased.text, fact.value, FREE, phrased.pattern, phrased.style, quote)
            continue
        role = ROLES[fact.role]
        others = [ROLES[f.role] for f in visible if f is not fact and f.role not in (FREE, fact.role)]
        if any(f is not fact and f.role == fact.role for f in visible):
            continue
        taken = set(labels) - {fact.label.lower(), ""}
        taken.update(*(said(o.name) for o in others))
        label = fact.label if labels[fact.label.lower()] == 1 else ""
        alone = groups[role.group] == 1
        for _ in range(3 if alone else 1):
            phrased = asker.role(role, label, taken, kinds[role.kind] == 1) if alone else None
            if phrased is None and label:
                by_label = Role(role.name, "", "", (), (label,), (), (), False)
                phrased = asker.role(by_label, label, (), True)
            if phrased is not None:
                yield Candidate("value", phrased.text, fact.value, role.name, phrased.pattern, phrased.style, quote)
            if rng.random() < 0.35:
                break


@functools.cache
def said(role: str) -> frozenset[str]:
    """Everything, in lower case, that asks for a role."""
    known = ROLES[role]
    return frozenset(
        t.lower() for t in (*known.asks, *known.nouns, *known.keys, *(k.replace("_", " ") for k in known.keys))
    )


def _entries(rng: Random, paper: Paper, seen: Seen, held: bool) -> Iterator[Candidate]:
    """Cells of rows by name, names by a value, extremes."""
    runs = paper.sheet.runs
    others = [text_of(f.value, runs) for f in (*seen.facts, *seen.torn)]
    asked = [*entries.ask_cells(rng, seen.entries, held), *entries.ask_names(rng, seen.entries, runs, held, others)]
    if seen.whole:
        asked += entries.ask_extremes(rng, seen.entries, runs, held)
    rows = {entry.name_at: entry for entry in seen.entries}
    for a in asked:
        entry = next((e for e in seen.entries if a.answer in e.cells.values()), rows.get(a.answer))
        quote = joined([entry.name_at, *entry.cells.values()], " ") if entry is not None else ()
        yield Candidate(a.kind, a.text, a.answer, a.about, a.pattern, "", quote)


def _wholes(rng: Random, paper: Paper, seen: Seen, held: bool) -> Iterator[Candidate]:
    """Greetings, senseless ones, what the page is, all goods, all of the text."""

    def say(kind: str, sentences: tuple[str, ...], answer: Pieces) -> Iterator[Candidate]:
        allowed = side(sentences, held)
        if answer and allowed:
            pattern = rng.choice(allowed)
            yield Candidate(kind, typed(rng, pattern), answer, kind, pattern)

    yield from say("greeting", talk.GREETINGS, (talk.GREETED,))
    yield from say("unclear", talk.OFF_TOPIC, (talk.UNCLEAR,))
    yield Candidate("unclear", talk.nonsense(rng), (talk.UNCLEAR,), "unclear", "nonsense", "", ())
    yield from say("about", talk.WHAT, _what(paper, seen))
    yield from say("summary", talk.SUMMARY, _summary(paper, seen))
    goods = [e for e in seen.entries if e.kind == "goods" and "amount" in e.cells]
    if seen.whole and len(goods) > 1:
        listed = joined([(*e.name_at, " ", *e.cells["amount"]) for e in goods], "\n")
        yield from say("list", talk.LIST, listed)
    if seen.whole and paper.kind[0] != "chart":
        yield from say("whole", talk.WHOLE, seen.lines)


def _first(seen: Seen, *roles: str) -> Pieces:
    """The value of the first of these roles that is in sight."""
    for role in roles:
        found = [f for f in seen.facts if f.role == role]
        if len(found) == 1:
            return found[0].value
    return ()


def _what(paper: Paper, seen: Seen) -> Pieces:
    """`a receipt from The Blue Oak`."""
    kind = paper.kind[0]
    out: Pieces = (f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}",)
    issuer = _first(seen, "issuer", "bank", "carrier", "employer")
    if issuer:
        return (*out, " from ", *issuer)
    if paper.subject and seen.whole:
        return (*out, ": ", *paper.subject)
    return out if seen.whole else ()


def _summary(paper: Paper, seen: Seen) -> Pieces:
    """`a receipt from The Blue Oak, 3 May 2024, total 12.50`, of what is there; nothing where there is too little."""
    out = _what(paper, seen)
    if not out:
        return ()
    said = 0
    for lead, roles in (
        ("for ", ("recipient", "holder", "employee", "passenger", "patient", "insured")),
        ("", ("bought", "issued", "event_date", "travel_date", "period")),
        ("total ", ("payable", "net", "price", "premium", "rent")),
        ("due ", ("due",)),
        ("balance ", ("balance_new",)),
    ):
        value = _first(seen, *roles)
        if value:
            out = (*out, f", {lead}", *value)
            said += 1
    return out if said else ()
