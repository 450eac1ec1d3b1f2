"""Small things: identity and member cards, badges, tickets, boarding passes, labels on medicine."""

from __future__ import annotations

from rave_mlx.synthetic.meaning.layouts.parts import address, issuer, pairs, some, titled
from rave_mlx.synthetic.meaning.layouts.trade import strip
from rave_mlx.synthetic.meaning.paper import Paper, Part


def card(p: Paper) -> None:
    """A card with a name in large type, numbers and days, perhaps a photograph."""
    which = p.pick(("member", "identity", "licence", "health"))
    p.kind = {"member": ("membership card", "card", "card"), "identity": ("identity card", "card", "ID"),
              "licence": ("licence", "card", "license"), "health": ("insurance card", "card",
              "card")}[which]  # fmt: skip
    top = p.sheet.y
    p.sheet.x0, p.sheet.x1 = p.sheet.x0 + 6, p.sheet.x1 - 6
    p.sheet.y += 5
    if which in ("member", "health"):
        issuer(p, "library" if which == "member" else "insurance", "l", p.bold)
    else:
        titled(
            p,
            p.pick(("IDENTITY CARD", "DRIVING LICENCE", "RESIDENCE PERMIT", "STUDENT CARD", "NATIONAL ID")),
            "l",
            p.bold,
        )
    left = p.sheet.x0
    photo = p.chance(0.55)
    start = p.sheet.y
    if photo:
        wide = p.span * 0.26
        p.sheet.box(left, p.sheet.y + 4, left + wide, p.sheet.y + 4 + wide * 1.25, fill=p.sheet.style.band)
        p.sheet.x0 = left + wide + p.body.size
    if p.chance(0.5):
        p.line(Part(p.of("holder"), "l", p.large if p.chance(0.5) else p.bold, "holder"))
        roles = []
    else:
        roles = ["holder"]
    more = {"member": ("customer_no", "expires", "hired", "cover_type"), "identity": ("person_no", "born", "country",
    "sex", "expires", "height"),
            "licence": ("person_no", "born", "issued", "expires", "state", "home", "blood"), "health": ("policy_no",
            "born", "expires", "reference")}[which]  # fmt: skip
    roles += some(p, more, 2, 4)
    pairs(p, roles, p.sheet.x0, p.sheet.x1, p.pick(("follow", "below", "column", "below")))
    p.sheet.x0 = left
    if photo:
        p.sheet.y = max(p.sheet.y, start + 8 + p.span * 0.26 * 1.25)
    p.sheet.y += 4
    p.sheet.x0, p.sheet.x1 = p.sheet.x0 - 6, p.sheet.x1 + 6
    p.sheet.box(p.sheet.x0, top, p.sheet.x1, p.sheet.y, width=p.rng.choice((1, 2)))


def badge(p: Paper) -> None:
    """A badge or business card: firm, name, position, a few more lines without labels."""
    p.kind = ("badge", "card", "business card")
    issuer(p, "company", p.pick(("l", "c")), p.bold)
    p.gap(0.3)
    align = p.pick(("l", "c"))
    p.line(Part(p.of("holder"), align, p.large, "holder"))
    p.line(Part(p.of("job"), align, role="job"))
    if p.chance(0.4):
        p.line(Part(p.of("department"), align, role="department"))
    p.gap(0.3)
    pairs(
        p,
        some(p, ("staff_no", "access", "phone", "mail", "room_no", "mobile"), 1, 3),
        p.sheet.x0,
        p.sheet.x1,
        p.pick(("follow", "below")),
    )
    if p.chance(0.3):
        address(p, align)


def ticket(p: Paper) -> None:
    """A ticket: labels above values in rows, or behind each other."""
    which = p.pick(("train", "event", "hotel", "event"))
    rows: list[list[str]]
    if which == "train":
        p.kind = ("ticket", "ticket", "train ticket")
        issuer(p, "transport", "l", p.bold)
        rows = [["origin", "destination", "travel_date"], ["departs", "arrives", "train"], ["coach", "seat",
        "travel_class"],
                ["passenger", "platform", "price"]]  # fmt: skip
    elif which == "hotel":
        p.kind = ("booking confirmation", "booking", "page")
        issuer(p, "restaurant", "l", p.bold)
        rows = [["passenger", "booking"], ["check_in", "check_out"], ["room_no", "guests"], ["payable", "card_type"]]
    else:
        p.kind = ("ticket", "ticket", "page")
        if p.chance(0.6):
            p.line(Part(p.of("event"), "l", p.large, "event"))
        p.line(Part(p.of("artist"), "l", p.bold, "artist"))
        p.line(Part(p.of("venue"), "l", role="venue"))
        rows = [["event_date", "starts_at"], ["seat_row", "seat", "gate"], ["booking", "price"]]
        rows = [["row" if r == "seat_row" else r for r in row] for row in rows]
    p.gap(0.3)
    if which == "event" and p.chance(0.5):
        for row in rows:
            p.line(*_bare(p, row))
    else:
        for row in rows:
            chosen = some(p, row, max(1, len(row) - 1), len(row))
            strip(p, chosen)
            p.gap(0.2)


def _bare(p: Paper, row: list[str]) -> list[Part]:
    """Values behind each other; those that need a word have it."""
    need = {"row", "seat", "gate", "booking", "starts_at"}
    out: list[Part] = []
    for role in row:
        if role in need:
            out.append(Part(p.label(role), label=True))
        out.append(Part(p.of(role), role=role))
    return out


def boarding(p: Paper) -> None:
    """A boarding pass."""
    p.kind = ("boarding pass", "pass", "ticket")
    issuer(p, "airline", "l", p.bold, role="carrier")
    strip(p, ["passenger", "flight"])
    p.gap(0.2)
    strip(p, ["origin", "destination", "travel_date"])
    p.gap(0.2)
    strip(p, some(p, ("gate", "boarding", "seat", "travel_class", "booking"), 3, 4))


def medicine(p: Paper) -> None:
    """A label on medicine, or a prescription."""
    p.kind = ("prescription", "label", "page")
    issuer(p, p.pick(("pharmacy", "health")), "l", p.bold)
    if p.chance(0.5):
        address(p)
    pairs(
        p,
        ["patient", *some(p, ("born", "issued", "doctor", "document_no"), 1, 3)],
        p.sheet.x0,
        p.sheet.x1,
        p.pick(("follow", "column")),
    )
    p.gap(0.3)
    p.line(Part(p.of("medicine"), "l", p.bold, "medicine"))
    p.line(Part(p.of("dose"), "l", role="dose"))
    pairs(p, some(p, ("expires", "phone", "pages"), 1, 2), p.sheet.x0, p.sheet.x1, "follow")
