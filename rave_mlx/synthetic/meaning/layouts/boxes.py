"""Forms: many small ruled boxes with their labels inside, and lines to write on."""

from __future__ import annotations

from rave_mlx.synthetic.meaning.facts import Stretch
from rave_mlx.synthetic.meaning.layouts.parts import any_roles, titled
from rave_mlx.synthetic.meaning.paper import Paper, Part
from rave_mlx.synthetic.sheet import Type
from rave_mlx.synthetic.words import MONTHS

TITLES = (
    "APPLICATION FORM", "Registration", "Membership application", "CLAIM FORM", "Wage and Tax Statement",
    "Patient record",
    "REQUEST FORM", "Customer data sheet", "Change of address", "Order form", "Incident report", "VISITOR FORM",
    "Employee information", "Loan application", "PROJECT SHEET", "Quality report", "Travel request", "Intake form",
)  # fmt: skip
_WORDS = (
    "Brand", "Product", "Account", "Region", "Marketing", "Test", "Sample", "Batch", "Survey", "Budget", "Project",
    "Market",
    "Field", "Program", "Material", "Distribution", "Copy", "Media", "Storage", "Process", "Quality", "Shipping",
    "Unit",
)  # fmt: skip
_TAILS = (
    "code",
    "group",
    "type",
    "plan",
    "manager",
    "area",
    "estimate",
    "class",
    "source",
    "level",
    "title",
    "size",
    "list",
)
_KINDS = frozenset(
    {"amount", "date", "birthday", "id", "person", "business", "city", "zip", "phone", "mail", "digits", "job",
    "country",
     "account", "state", "small", "rate", "person_no", "department", "status", "terms", "color", "weight", "height",
     "word",
     "period", "place_line", "language", "duration", "card_type", "tax_id", "product", "room", "sex", "blood", "event"}
)  # fmt: skip


def free_field(p: Paper) -> tuple[str, str, str]:
    """A field with a label that no role has, its value, and its role, which is none: ("Media plan", "K-2231", "
    ""free")."""
    label = f"{p.pick(_WORDS)} {p.pick(_TAILS)}"
    kind = p.pick(("id", "amount", "person", "word", "date", "small", "city", "month"))
    value = p.pick(MONTHS) if kind == "month" else p.draw(kind)
    if label.lower() in p.sheet.used:
        return "", "", ""
    p.sheet.used.add(label.lower())
    return label.upper() if p.chance(0.3) else label, value, "free"


def fields(p: Paper, count: int) -> list[tuple[str, str, str]]:
    """Labels, values and roles of a form, some of them with labels that belong to no role.

    Args:
        p: the page.
        count: how many.
    """
    out = []
    for role in any_roles(p, count, _KINDS):
        free = p.chance(0.25) and not p.held_roles
        found = free_field(p) if free else (p.label(role), p.of(role), role)
        if found[0]:
            out.append(found)
    return out


def boxes(p: Paper) -> None:
    """Rows of boxes, each with a tiny label in its corner and the value below it, as typed or written in."""
    p.kind = ("form", "page", "document")
    if p.chance(0.8):
        titled(p, p.pick(TITLES), p.pick(("l", "c")), p.bold)
        p.gap(0.2)
    typed = Type(p.sheet.style.heading, p.body.size)
    numbered = p.pick(("", "", "1", "a"))
    upper = p.chance(0.4)
    number = 0
    rows = p.rng.randint(2, 7)
    across = p.rng.randint(1, 4)
    found = fields(p, rows * across)
    while found:
        take = min(len(found), max(1, across + p.rng.choice((-1, 0, 0, 1))))
        row, found = found[:take], found[take:]
        cuts = [p.sheet.x0 + p.span * i / take for i in range(take + 1)]
        for i in range(1, take):
            cuts[i] += p.rng.uniform(-0.12, 0.12) * p.span / take
        number = _row(p, row, cuts, typed, numbered, upper, number)


def _row(
    p: Paper, row: list[tuple[str, str, str]], cuts: list[float], typed: Type, numbered: str, upper: bool, number: int
) -> int:
    """One row of boxes between the cuts; the number of the last box."""
    top = p.sheet.y
    labels: list[Part] = []
    values: list[Part] = []
    keep: list[tuple[str, str]] = []
    for (label, value, role), x0, x1 in zip(row, cuts, cuts[1:], strict=False):
        number += 1
        lead = {"": "", "1": f"{number} ", "a": f"{chr(96 + (number - 1) % 26 + 1)} "}[numbered]
        text = lead + (label.upper() if upper else label)
        room = x1 - x0 - 6
        shown = value
        for _ in range(10):
            if p.width(shown, typed) <= room or role == "free":
                break
            shown = p.of(role)
        if p.width(text, p.tiny) > room or p.width(shown, typed) > room:
            p.sheet.box(x0, top, x1, top + p.tiny.size * 1.3 + typed.size * 1.4)
            continue
        labels.append(Part(text, x0 + 3, p.tiny))
        values.append(
            Part(shown, x0 + p.rng.choice((3.0, 3.0, 8.0)) if p.width(shown, typed) + 10 < room else x0 + 3, typed)
        )
        keep.append((role, label))
        p.sheet.box(x0, top, x1, top + p.tiny.size * 1.3 + typed.size * 1.4)
    bottom = top + p.tiny.size * 1.3 + typed.size * 1.4
    if labels:
        p.sheet.y = top + 1
        first: list[Stretch] = p.line(*labels, pitch=p.tiny.size * 1.25)
        second = p.line(*values, pitch=typed.size * 1.3)
        for (role, label), a, b in zip(keep, first, second, strict=True):
            p.fact(role, (b,), label, (a,))
    p.sheet.y = bottom
    return number


def lined(p: Paper) -> None:
    """Labels with values on rules or behind colons, one or two on a line, as filled in on a typewriter."""
    p.kind = ("form", "page", "document")
    if p.chance(0.85):
        titled(p, p.pick(TITLES), p.pick(("l", "c")), p.bold)
        p.gap(0.4)
    typed = Type(p.sheet.style.heading, p.body.size)
    found = fields(p, p.rng.randint(3, 12))
    ruled, upper = p.chance(0.6), p.chance(0.35)
    double = p.chance(0.5)
    while found:
        row, found = (found[:2], found[2:]) if double and p.chance(0.7) else (found[:1], found[1:])
        width = p.span / len(row)
        parts: list[Part] = []
        for i, (label, value, role) in enumerate(row):
            text = (label.upper() if upper else label) + p.pick((":", ":", "", "."))
            x = p.sheet.x0 + i * width
            inner = p.width(text) + 0.6 * p.body.size
            if inner + p.width(value, typed) > width - 6:
                continue
            parts += [Part(text, x, label=True), Part(value, x + inner, typed, role)]
            if ruled:
                y = p.sheet.y + p.sheet.pitch() * 0.5 + p.body.size * 0.52
                p.sheet.rule(y, x + inner - 2, x + width - 8)
        if parts:
            p.line(*parts)
            p.gap(p.rng.choice((0.0, 0.15, 0.4)))
