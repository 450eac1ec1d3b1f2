"""Questions about rows of lists and tables: goods, bookings, sessions, opening hours, bars of charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from rave_mlx.synthetic.meaning.facts import Entry, Pieces, text_of
from rave_mlx.synthetic.meaning.phrase import expand, side
from rave_mlx.synthetic.meaning.spoken import typed
from rave_mlx.synthetic.sheet import Run

_PATTERNS = """
goods.amount how much [was|is|were|did I pay for|do they charge for] the {n} / what [did|does|do] the {n} cost
goods.amount [price|cost] of [|the ]{n} / {n} / how much did the {n} cost / {n} price
goods.amount what [was|is] the price of the {n} / how much for the {n} / what did I pay for the {n}
goods.amount how expensive [was|is] the {n} / what is charged for the {n}
goods.count how many {pl}
goods.count how many {pl} [did I buy|were there|are there|are listed|were bought|did we have|did they order]
goods.count number of {pl} / quantity of {n} / [what is the|] quantity of the {n} / how many of the {n}
goods.count how often [was|is] the {n} [ordered|listed]
goods.unit what does one {n} cost / [price per piece|unit price|rate|single price] of the {n}
goods.unit how much is a single {n} / what is the [unit price|rate|price per unit] [of|for] the {n}
goods.unit how much does each {n} cost
goods.code what is the [code|item number|article number] of the {n} / [code|article number] of {n}
goods.code which [code|number] does the {n} have
shipped.ordered how many {pl} were ordered / [number of|quantity of] {pl} ordered / how many {pl} did they want
shipped.sent how many {pl} were [delivered|sent|shipped] / how many {pl} [came|arrived]
shipped.sent [number of|quantity of] {pl} delivered
shipped.code what is the [code|item number] of the {n} / code of {n} / which [code|number] does the {n} have
booking.amount how much was [|the ]{n} / what [was paid|is the amount] for {n} / amount of {n} / {n}
booking.amount how much [went to|came from] {n} / what did {n} [cost|amount to]
booking.day when was [|the ]{n} [booked|paid|] / [on which day|on what day|date of] [was ]{n}
booking.day when did [|the ]{n} [happen|take place]
booking.balance what was the balance after {n} / how much was left after {n} / balance after {n}
slot.time when is [|the ]{n} / [what time|at what time] is [|the ]{n} / when does [|the ]{n} [start|begin|take place]
slot.time time of {n} / {n}
slot.venue where is [|the ]{n} / [in which|which|what] room is [|the ]{n} / where does [|the ]{n} take place
slot.venue place of {n}
slot.chair who [leads|gives|holds|does] [|the ]{n} / who is in charge of {n} / with whom is {n} / speaker of {n}
hours.open when [are they|are you|is it|do they] open on {n} / opening hours on {n} / {n}
hours.open from when to when is it open on {n} / hours on {n} / until when is it open on {n}
hours.open what are the hours on {n} / [when|how long] can I go there on {n}
bar.value what is the value [of|for|in] {n} / how [many|much|high] [is it|was it|were there|] in {n} / {n}
bar.value value of {n} / how many in {n} / what does the chart show for {n} / what was it in {n} / number for {n}
bar.value how high is the bar of {n} / figure for {n}
row.* what is the {c} of {n} / {c} of {n} / {n} {c} / what is the {c} for {n} / which {c} [does|did] {n} have
row.* {c} for {n} / [tell me|give me|read] the {c} of {n} / what was {n}'s {c} / {n}: {c}
row.* how [high|large] is the {c} of {n} / in the row {n}, what is the {c}
head.* what is the {c} of the {n} / {n} {c} / {c} of {n} / what does the column {c} say for {n} / {c} for the {n}
"""
_WHICH = """
booking.day what [happened|was booked|was paid|was there|did I pay] on {v} / which [booking|payment] was on {v}
booking.day booking of {v}
slot.time what [happens|is on|starts|is|takes place|is planned] at {v} / which event is at {v} / what comes at {v}
goods.amount what costs {v} / which [item|article] costs {v} / what did I pay {v} for / what is {v} for
booking.amount what [was|is] {v} for / which booking has {v}
bar.value which [one|bar|column] has {v} / where is it {v}
row.* which row has {v} / where does it say {v} / what has {v}
"""
_EXTREME = """
goods.amount.most what was the [dearest|most expensive] [item|thing] / what cost the most / most expensive item
goods.amount.least what was the cheapest [item|thing] / what cost the least / cheapest item
bar.value.most [which|what] [one|bar] is the highest / where is it highest / which has the largest value
bar.value.most what was the best / highest
bar.value.least [which|what] [one|bar] is the lowest / where is it lowest / which has the smallest value / lowest
"""


def _read(table: str) -> dict[str, tuple[str, ...]]:
    """Patterns by kind of entry and cell: the first word of a line, then patterns between slashes."""
    out: dict[str, tuple[str, ...]] = {}
    for line in table.strip().splitlines():
        key, _, patterns = line.partition(" ")
        out[key] = out.get(key, ()) + tuple(s for p in patterns.split(" / ") for s in expand(p))
    return out


PATTERNS, WHICH, EXTREME = _read(_PATTERNS), _read(_WHICH), _read(_EXTREME)
"""Questions for a cell of an entry; for the name of the entry that has a value; for the entry with the largest or "
"least."""
KINDS = frozenset(k.split(".")[0] for k in PATTERNS) - {"head"}


@dataclass(frozen=True)
class Asked:
    """A question for an entry and its answer; `pattern` is what it was made from, `about` what is meant."""

    kind: str
    text: str
    pattern: str
    about: str
    answer: Pieces


def _patterns(table: dict[str, tuple[str, ...]], entry: Entry, cell: str, held: bool) -> tuple[str, ...]:
    """The patterns for a cell of an entry on one side of the split."""
    return side(table.get(f"{entry.kind}.{cell}", table.get(f"{entry.kind}.*", ())), held)


def unclear_names(entries: Sequence[Entry]) -> set[str]:
    """Names, in lower case, that more than one entry could be called."""
    said = Counter(name.lower() for entry in entries for name in {n.lower() for n in entry.names})
    every = list(said)
    return {
        n
        for n in every
        if said[n] > 1
        or any(n != other and f" {n} " in f" {other} " and not _same(entries, n, other) for other in every)
    }


def _same(entries: Sequence[Entry], a: str, b: str) -> bool:
    return any({a, b} <= {n.lower() for n in entry.names} for entry in entries)


def ask_cells(rng: Random, entries: Sequence[Entry], held: bool) -> Iterator[Asked]:
    """One question for each cell of each entry that its name tells apart.

    Args:
        rng: the page's generator.
        entries: of the page.
        held: the side of the split.
    """
    unclear = unclear_names(entries)
    for entry in entries:
        names = [n for n in entry.names if n.lower() not in unclear]
        if not names:
            continue
        for cell, answer in entry.cells.items():
            name = rng.choice(names)
            patterns = _patterns(PATTERNS, entry, cell, held)
            header = entry.headers.get(cell, "")
            if header and entry.kind != "row" and rng.random() < 0.2:
                patterns = side(PATTERNS["head.*"], held)
            if not entry.plural or name not in entry.names[-1:]:
                patterns = tuple(s for s in patterns if "{pl}" not in s)
            if len(entry.cells) > 1 and entry.kind not in ("goods", "slot", "booking"):
                patterns = tuple(s for s in patterns if s != "{n}")
            if not patterns:
                continue
            pattern = rng.choice(patterns)
            said = name if rng.random() < 0.45 else name.lower()
            text = pattern.format(
                n=said, pl=entry.plural, c=(header or cell).lower() if rng.random() < 0.5 else header or cell
            )
            yield Asked(
                "entry", typed(rng, text, said), pattern, f"{entry.kind}.{'*' if entry.kind == 'row' else cell}", answer
            )


def ask_names(
    rng: Random, entries: Sequence[Entry], runs: Sequence[Run], held: bool, others: Sequence[str]
) -> Iterator[Asked]:
    """Which row has a value, where only one has it.

    Args:
        rng: the page's generator.
        entries: of the page.
        runs: of its sheet.
        held: the side of the split.
        others: further values on the page.
    """
    values = Counter(text_of(a, runs) for entry in entries for a in entry.cells.values())
    values.update(others)
    for entry in entries:
        for cell, answer in entry.cells.items():
            value = text_of(answer, runs)
            patterns = _patterns(WHICH, entry, cell, held)
            if values[value] == 1 and patterns:
                pattern = rng.choice(patterns)
                yield Asked(
                    "which", typed(rng, pattern.format(v=value), value), pattern, f"{entry.kind}.{cell}", entry.name_at
                )


def ask_extremes(rng: Random, entries: Sequence[Entry], runs: Sequence[Run], held: bool) -> Iterator[Asked]:
    """The dearest and the cheapest, the highest and the lowest; only of three or more with different values.

    Args:
        rng: the page's generator.
        entries: all that the page has.
        runs: of its sheet.
        held: the side of the split.
    """
    for about, sentences in EXTREME.items():
        kind, cell, which = about.split(".")
        found = [(e, _number(text_of(e.cells[cell], runs))) for e in entries if e.kind == kind and cell in e.cells]
        if len(found) < 3 or any(n is None for _, n in found) or len({n for _, n in found}) < len(found):
            continue
        allowed = side(sentences, held)
        if allowed and rng.random() < 0.6:
            pattern = rng.choice(allowed)
            entry = (max if which == "most" else min)(found, key=lambda pair: pair[1] or 0.0)[0]
            yield Asked("extreme", typed(rng, pattern), pattern, about, entry.name_at)


def _number(text: str) -> float | None:
    """The number in a printed amount; None where there is none."""
    figures = [c for c in text if c.isdigit() or c in ".,-"]
    plain = "".join(figures)
    cut = max(plain.rfind("."), plain.rfind(","))
    if cut >= 0 and len(plain) - cut - 1 != 3:
        plain = plain[:cut].replace(".", "").replace(",", "") + "." + plain[cut + 1 :]
    else:
        plain = plain.replace(".", "").replace(",", "")
    try:
        return float(plain)
    except ValueError:
        return None
