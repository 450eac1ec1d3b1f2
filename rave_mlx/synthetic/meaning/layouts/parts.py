"""What several kinds of documents have: letterheads, rows of label and value, rules, sums."""

from __future__ import annotations

from collections.abc import Sequence

from rave_mlx.synthetic.meaning.facts import Pieces, joined
from rave_mlx.synthetic.meaning.paper import Paper, Part
from rave_mlx.synthetic.meaning.roles import ROLES, usual
from rave_mlx.synthetic.meaning.vocabulary import business, street, town
from rave_mlx.synthetic.sheet import Type


def issuer(p: Paper, trade: str, align: str = "l", face: Type | None = None, role: str = "issuer") -> None:
    """The name of the business, large, as nothing but itself.

    Args:
        p: the page.
        trade: of `vocabulary.TRADES`.
        align: as `Part.x`.
        face: None for a large one.
        role: what it is.
    """
    face = face or p.large
    name = p.own(lambda rng: business(rng, trade))
    if p.chance(0.3):
        name = name.upper()
    for _ in range(8):
        if p.width(name, face) <= p.span:
            break
        name = p.own(lambda rng: business(rng, trade))
    else:
        face = Type(face.family, max(8.0, face.size * p.span / p.width(name, face) * 0.97), face.bold)
    p.line(Part(name, align, face, role))


def address(p: Paper, align: str = "l", face: Type | None = None, role: str = "address", name: str = "") -> None:
    """Street and town on one line or two, perhaps below a name.

    Args:
        p: the page.
        align: as `Part.x`.
        face: None for the body's.
        role: of the address.
        name: a person's role, whose name stands above; "" for none.
    """
    face = face or p.body
    if name:
        p.line(Part(p.of(name), align, face, name))
    first, second = p.own(street), p.own(town)
    if p.chance(0.35) and p.width(f"{first}, {second}", face) < p.span * 0.9:
        p.line(Part(f"{first}, {second}", align, face, role))
        return
    lines = [p.line(Part(text, align, face))[0] for text in (first, second)]
    p.fact(role, joined([(line,) for line in lines], ", "))


def reach(p: Paper, roles: Sequence[str], align: str = "l", face: Type | None = None) -> None:
    """Phone, mail and the like on a line each, mostly with a short label.

    Args:
        p: the page.
        roles: in order.
        align: as `Part.x`.
        face: None for the body's.
    """
    face = face or p.body
    for role in roles:
        value = p.of(role)
        bare = role in ("mail", "site") and p.chance(0.6)
        label = "" if bare else p.label(role)
        if label and p.width(f"{label}: {value}", face) <= p.span:
            mark = p.pick((":", "", ".", ":")) if not label.endswith(".") else ""
            p.line(Part(label + mark, align, face, label=True), Part(value, None, face, role))
        elif p.width(value, face) <= p.span:
            p.line(Part(value, align, face, role))


def pairs(p: Paper, roles: Sequence[str], x0: float, x1: float, style: str, face: Type | None = None) -> None:
    """Rows of label and value between two places.

    Args:
        p: the page.
        roles: in order; one without a label left is passed over.
        x0: left end in pixels.
        x1: right end in pixels.
        style: "follow" (behind the label), "right" (at the right end), "column" (aligned), "below".
        face: of the values; None for the body's.
    """
    face = face or p.body
    muted = p.sheet.style.muted if p.chance(0.4) else None
    colon = p.pick((":", ":", "", " :"))
    rows = []
    for role in roles:
        label, value = p.label(role), p.of(role)
        if label:
            rows.append((label + ("" if label[-1] in ".:#?" else colon), value, role))
    column = x0 + max((p.width(label) for label, _, _ in rows), default=0) + 0.8 * p.body.size
    for label, value, role in rows:
        wide = p.width(label) + p.width(value, face) + 0.6 * p.body.size
        if style == "below" or wide > x1 - x0 or (style == "column" and column + p.width(value, face) > x1):
            shown = next((v for v in (value, *(p.of(role) for _ in range(8))) if p.width(v, face) <= x1 - x0), value)
            first = p.line(Part(label, x0, p.small if style == "below" else p.body, color=muted))
            second = p.line(Part(shown, x0, face))
            p.fact(role, (second[0],), label.strip(" :"), (first[0],))
            continue
        x = {"follow": None, "right": x1 - p.width(value, face), "column": column}[style]
        p.line(Part(label, x0, label=True, color=muted), Part(value, x, face, role))


def sums(p: Paper, rows: Sequence[tuple[str, str, str]], x0: float, x1: float, strong: str = "payable") -> None:
    """Sums with their labels: the label at the left, the amount at the right end.

    Args:
        p: the page.
        rows: (label, amount, role).
        x0: left end in pixels.
        x1: right end in pixels.
        strong: the role that is set in bold, often.
    """
    loud = p.chance(0.6)
    larger = Type(p.body.family, p.body.size * p.rng.choice((1.0, 1.15, 1.4)), bold=True)
    for label, amount, role in rows:
        face = larger if loud and role == strong else p.body
        if p.width(label, face) + p.width(amount, face) + 4 > x1 - x0:
            face = p.body
        p.line(Part(label, x0, face, label=True), Part(amount, x1 - p.width(amount, face), face, role))


def rule(p: Paper, mark: str = "") -> None:
    """A line across the page: drawn, or of characters that are no text.

    Args:
        p: the page.
        mark: the character; "" for one that is drawn, or at random a blank.
    """
    if mark:
        p.sheet.leader(p.sheet.x0 - 4, p.sheet.x1 + 3, mark, p.body, p.sheet.y + p.body.size * 0.8)
        p.sheet.y += p.sheet.pitch()
        return
    p.sheet.y += p.body.size * 0.3
    p.sheet.rule()
    p.sheet.y += p.body.size * 0.4


def some(p: Paper, roles: Sequence[str], low: int, high: int) -> list[str]:
    """Between `low` and `high` of the roles, in their order; only those of the page's side of the split.

    Args:
        p: the page.
        roles: names.
        low: least.
        high: most.
    """
    allowed = [name for name in roles if p.held_roles or not ROLES[name].held]
    chosen = set(p.rng.sample(allowed, min(len(allowed), p.rng.randint(low, high))))
    return [name for name in allowed if name in chosen]


def any_roles(p: Paper, count: int, kinds: frozenset[str] | None = None) -> list[str]:
    """Roles of all sorts in random order, none twice; held-out ones first on a page of that side.

    Args:
        p: the page.
        count: how many.
        kinds: of their values; None for any.
    """
    taken = {ROLES[fact.role].group for fact in p.facts}
    rest = [r.name for r in usual(False) if (kinds is None or r.kind in kinds) and r.group not in taken]
    p.rng.shuffle(rest)
    held = [r.name for r in usual(True) if (kinds is None or r.kind in kinds) and r.group not in taken]
    first = p.rng.sample(held, min(len(held), count - count // 2)) if p.held_roles else []
    out = [*first, *rest][:count]
    p.rng.shuffle(out)
    groups: set[str] = set()
    return [name for name in out if not (ROLES[name].group in groups or groups.add(ROLES[name].group))]  # type: ignore[func-returns-value]


def titled(p: Paper, text: str, align: str = "l", face: Type | None = None) -> Pieces:
    """A heading, which says what the page is; the page's subject.

    Args:
        p: the page.
        text: of the heading.
        align: as `Part.x`.
        face: None for a large one.
    """
    face = face or p.large
    if p.width(text, face) > p.span:
        face = Type(face.family, max(8.0, face.size * p.span / p.width(text, face) * 0.97), face.bold)
    p.subject = (p.line(Part(text, align, face))[0],)
    if not any(fact.role == "heading" for fact in p.facts):
        p.fact("heading", p.subject)
    return p.subject
