"""Questions about a page, in many phrasings, each with the one right answer.

Some phrasings of every kind are held out. Values are asked for by label, by another name of the label, by row
and column; pages are read by line and as a whole; what is not there is answered with `ABSENT`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from rave_mlx.synthetic import words
from rave_mlx.synthetic.absent import missing_cell, missing_label
from rave_mlx.synthetic.phrasings import (
    CELL,
    CHART,
    COUNT,
    FIELD,
    FIRST_LINE,
    LAST,
    LINE,
    MUCH,
    PRICE,
    QUANTITY,
    READ,
    REVERSE,
    REVERSE_ROW,
    TITLE,
    WHEN,
    WHO,
    Phrasings,
)
from rave_mlx.synthetic.sheet import Cell, Field, Sheet

ABSENT = "not found"
KINDS = ("read", "line", "title", "field", "price", "quantity", "cell", "reverse", "absent", "count", "chart")


@dataclass(frozen=True)
class Question:
    """One question with its answer; `kind` is one of `KINDS`."""

    kind: str
    text: str
    answer: str


def text_lines(sheet: Sheet) -> list[str]:
    """The lines of the page in reading order, runs of a line joined by a space."""
    lines: dict[int, list[tuple[float, str]]] = {}
    for run in sheet.runs:
        if run.line >= 0:
            lines.setdefault(run.line, []).append((run.x, run.text))
    return [" ".join(text for _, text in sorted(lines[i], key=lambda r: r[0])) for i in sorted(lines)]


def counted_lines(sheet: Sheet) -> int:
    """How many lines from the top have one number: those that no other line stands beside, as in two columns."""
    baselines: dict[int, float] = {}
    for run in sheet.runs:
        if run.line >= 0:
            baselines[run.line] = max(run.baseline, baselines.get(run.line, 0.0))
    rows = [baselines[line] for line in sorted(baselines)]
    for number, row in enumerate(rows):
        if any(other <= row for other in rows[number + 1 :]):
            return number
    return len(rows)


def names(label: str) -> tuple[str, ...]:
    """Other names a question may use for a label."""
    if label in words.LABELS:
        return words.LABELS[label][1]
    head, _, tail = label.rpartition(" ")
    return (f"{head} {words.SUFFIXES[tail]}",) if head and tail in words.SUFFIXES else ()


class Asker:
    """Draws phrasings from one side of the split."""

    def __init__(self, rng: Random, held: bool) -> None:
        self.rng, self.held = rng, held

    def phrase(self, phrasings: Phrasings) -> str:
        """A phrasing; known ones are now and then typed carelessly."""
        rng = self.rng
        if self.held:
            return rng.choice(phrasings.held)
        text = rng.choice(phrasings.composed if phrasings.composed and rng.random() < 0.5 else phrasings.usual)
        if rng.random() < 0.1:
            text = text.rstrip("?.")
        return text[:1].lower() + text[1:] if rng.random() < 0.1 else text

    def case(self, text: str) -> str:
        """Names as printed or, half the time, in lower case."""
        return text.lower() if self.rng.random() < 0.5 else text

    def field(self, field: Field, asked: str) -> Question:
        """Ask for a value by a name of its label."""
        templates = FIELD
        if field.kind in ("name", "first", "last", "company") and self.rng.random() < 0.3:
            templates = WHO
        elif field.kind == "date" and self.rng.random() < 0.2:
            templates = WHEN
        elif field.kind == "amount" and self.rng.random() < 0.3:
            templates = MUCH
        return Question("field", self.phrase(templates).format(self.case(asked)), field.value)

    def cell(self, cell: Cell, columns: int) -> Question:
        """Ask for an entry by its row, and its column where there is one."""
        row = self.case(cell.row)
        if cell.role == "value":
            return Question("chart", self.phrase(CHART).format(row), cell.value)
        by_role = {"price": PRICE, "quantity": QUANTITY}.get(cell.role)
        if by_role and (not cell.column or self.rng.random() < 0.25):
            return Question(cell.role, self.phrase(by_role).format(row), cell.value)
        if columns == 1 and self.rng.random() < 0.3:
            return Question("cell", self.phrase(FIELD).format(row), cell.value)
        return Question("cell", self.phrase(CELL).format(row=row, column=self.case(cell.column)), cell.value)


def ask(rng: Random, sheet: Sheet, held_phrasing: bool = False) -> list[Question]:
    """All questions that the page answers without ambiguity, one phrasing each.

    Args:
        rng: the generator to draw from.
        sheet: the laid-out page.
        held_phrasing: whether phrasings are drawn from the held-out side of the split.
    """
    asker = Asker(rng, held_phrasing)
    lines = text_lines(sheet)
    out = [Question("read", asker.phrase(READ), "\n".join(lines))]
    counted = counted_lines(sheet)
    out += [
        Question("line", asker.phrase(LINE).format(i + 1), text) for i, text in enumerate(lines[: min(counted, 12)])
    ]
    if len(lines) > 1 and counted == len(lines):
        out.append(Question("line", asker.phrase(LAST), lines[-1]))
    if len(lines) > 1 and counted:
        out.append(Question("line", asker.phrase(FIRST_LINE), lines[0]))
    if sheet.title:
        out.append(Question("title", asker.phrase(TITLE), sheet.title))
    out += _fields(asker, sheet.fields)
    out += _cells(asker, sheet.cells)
    out += _reverse(asker, sheet)
    if sheet.items > 1 and rng.random() < 0.3:
        out.append(Question("count", asker.phrase(COUNT), str(sheet.items)))
    if rng.random() < 0.35 and (sheet.fields or sheet.cells):
        out.append(_absent(asker, "\n".join(lines).lower()))
    out += _near(held_phrasing, sheet, "\n".join(lines).lower())
    return _unambiguous(out)


def _unambiguous(questions: list[Question]) -> list[Question]:
    """Without those whose text, case aside, has two answers (a row called like a field, say)."""
    answers: dict[str, set[str]] = {}
    for q in questions:
        answers.setdefault(q.text.lower(), set()).add(q.answer)
    return [q for q in questions if len(answers[q.text.lower()]) == 1]


def _fields(asker: Asker, fields: list[Field]) -> Iterator[Question]:
    """Questions for fields by their label, and often by another name of it that fits no other field."""
    taken = Counter(n.lower() for f in fields for n in {f.label, *names(f.label)})
    taken.update({f.label.lower() for f in fields})
    for field in fields:
        yield asker.field(field, field.label)
        others = [n for n in names(field.label) if taken[n.lower()] == 1]
        if others and asker.rng.random() < 0.6:
            yield asker.field(field, asker.rng.choice(others))


def _cells(asker: Asker, cells: list[Cell]) -> Iterator[Question]:
    """Questions for entries; those that two entries would answer (two prices of one row, no header) are left out."""
    columns = len({c.column for c in cells})
    prices = Counter((c.row, c.role) for c in cells if c.role)
    for cell in cells:
        if cell.column or prices[(cell.row, cell.role)] == 1:
            question = asker.cell(cell, columns)
            if question.kind == "cell" or prices[(cell.row, cell.role)] == 1:
                yield question


def _reverse(asker: Asker, sheet: Sheet) -> Iterator[Question]:
    """Now and then: which label or row has a value, where only one has it."""
    values = Counter([f.value for f in sheet.fields] + [c.value for c in sheet.cells])
    for field in sheet.fields:
        if values[field.value] == 1 and asker.rng.random() < 0.15:
            yield Question("reverse", asker.phrase(REVERSE).format(field.value), field.label)
    for cell in sheet.cells:
        if values[cell.value] == 1 and asker.rng.random() < 0.1:
            yield Question("reverse", asker.phrase(REVERSE_ROW).format(cell.value), cell.row)


def _absent(asker: Asker, text: str) -> Question:
    """A question for a usual label that the page (`text`, in lower case) does not have."""
    while True:
        label = asker.rng.choice(list(words.LABELS))
        if not any(n.lower() in text for n in (label, *names(label))):
            return Question("absent", asker.phrase(FIELD).format(label.lower()), ABSENT)


def _near(held: bool, sheet: Sheet, text: str) -> Iterator[Question]:
    """On some pages a question that fits the page's kind and has no answer on it.

    It has a generator of its own, so that all other questions of a seed are what they were without it.
    """
    rng = Random(text)
    if not (sheet.fields or sheet.cells) or rng.random() > 0.35:
        return
    asker = Asker(rng, held)
    if sheet.cells and (not sheet.fields or rng.random() < 0.7):
        cell = missing_cell(rng, sheet, text)
        if cell is not None:
            yield replace(asker.cell(cell, len({c.column for c in sheet.cells})), kind="absent", answer=ABSENT)
    else:
        label = missing_label(rng, text)
        if label is not None:
            yield replace(asker.field(Field(label, ABSENT, "id"), label), kind="absent")
