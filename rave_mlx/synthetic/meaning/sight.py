"""What of a page is in sight, and what the generators of questions give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rave_mlx.synthetic.meaning.facts import Entry, Fact, Pieces, Stretch, Switch, joined, stretches
from rave_mlx.synthetic.meaning.paper import Paper
from rave_mlx.synthetic.meaning.places import Places
from rave_mlx.synthetic.sheet import NO_LINE, Sheet


@dataclass(frozen=True)
class Seen:
    """What of a page is in sight.

    `facts`, `entries`, `switches`: whole; `hidden`: facts of which, label included, nothing is in sight; `torn`: the
    others; `whole`: whether nothing is cut off; `text`: everything in sight and half in sight; `lines`: what is whole.
    """

    facts: Sequence[Fact]
    entries: Sequence[Entry]
    hidden: Sequence[Fact]
    torn: Sequence[Fact]
    switches: Sequence[Switch]
    whole: bool
    text: str
    lines: Pieces


@dataclass(frozen=True)
class Candidate:
    """A question before it is known where its answer stands.

    `role`: what is asked for; `pattern`: what the question was made from; `style`: how; `quote`: label and value, or
    the row, as they stand on the page.
    """

    kind: str
    text: str
    answer: Pieces
    role: str
    pattern: str
    style: str = ""
    quote: Pieces = ()


def in_sight(paper: Paper, places: Places) -> Seen:
    """What of a page is in sight."""
    facts: list[Fact] = []
    hidden: list[Fact] = []
    torn: list[Fact] = []
    for fact in paper.facts:
        parts = [places.sight(s) for s in (*stretches(fact.value), *stretches(fact.label_at))]
        (facts if all(p == 1 for p in parts) else hidden if all(p == 0 for p in parts) else torn).append(fact)
    entries = [e for e in (_cut(entry, places) for entry in paper.entries) if e is not None]
    runs = paper.sheet.runs
    sights = {i: places.sight(Stretch(i, 0, len(r.text))) for i, r in enumerate(runs) if r.line != NO_LINE and r.text}
    by_line: dict[int, list[int]] = {}
    for i, sight in sights.items():
        if sight == 1:
            by_line.setdefault(runs[i].line, []).append(i)
    lines = [_line(by_line[n], paper.sheet) for n in sorted(by_line)]
    text = "\n".join(runs[i].text for i, sight in sights.items() if sight > 0)
    whole = all(sight == 1 for sight in sights.values())
    switches = [
        s for s in paper.switches if places.sees(s.state) and all(places.sight(n) == 1 for n in stretches(s.name_at))
    ]
    return Seen(facts, entries, hidden, torn, switches, whole, text, joined(lines, "\n"))


def _line(numbers: list[int], sheet: Sheet) -> Pieces:
    """A line from its runs, with a space between them where there is one on the page."""
    out: list[Stretch | str] = []
    end = 0.0
    for i in sorted(numbers, key=lambda i: sheet.runs[i].x):
        run = sheet.runs[i]
        if out and run.x - end > 0.12 * run.type.size:
            out.append(" ")
        out.append(Stretch(i, 0, len(run.text)))
        end = run.x + sheet.measure(run.text, run.type)
    return tuple(out)


def _cut(entry: Entry, places: Places) -> Entry | None:
    """A row with those of its cells that are whole in sight; None where its name is not."""
    if any(places.sight(s) < 1 for s in stretches(entry.name_at)):
        return None
    cells = {c: p for c, p in entry.cells.items() if all(places.sight(s) == 1 for s in stretches(p))}
    return replace(entry, cells=cells) if cells else None
