"""Papers of banks, employers, landlords, insurers and suppliers of energy."""

from __future__ import annotations

from rave_mlx.synthetic.meaning.facts import Entry, Pieces
from rave_mlx.synthetic.meaning.figures import write_date
from rave_mlx.synthetic.meaning.layouts.parts import address, issuer, pairs, reach, rule, some, titled
from rave_mlx.synthetic.meaning.paper import Paper, Part
from rave_mlx.synthetic.meaning.vocabulary import business
from rave_mlx.synthetic.words import LAST

_OUT = ("Rent", "Insurance", "Electricity", "Groceries", "Card payment", "Standing order", "Direct debit",
"Transfer to",
        "Cash withdrawal", "Phone bill", "Fuel", "Gym", "Subscription", "School fees", "Loan payment")  # fmt: skip
_IN = ("Salary", "Refund", "Interest", "Transfer from", "Deposit", "Child benefit", "Pension", "Dividend")


def statement(p: Paper) -> None:
    """An account statement: holder, account, bookings with days, what they were and amounts."""
    p.kind = ("statement", "bank statement", "account statement")
    issuer(p, "bank", "l", role="bank")
    if p.chance(0.6):
        titled(
            p,
            p.pick(("Account statement", "STATEMENT", "Statement of account", "Current account")),
            p.pick(("l", "r")),
            p.bold,
        )
    roles = [
        "holder",
        *some(p, ("account", "iban", "period", "document_no", "issued", "customer_no", "credit_limit"), 1, 4),
    ]
    pairs(p, roles, p.sheet.x0, p.sheet.x1, p.pick(("follow", "column")))
    p.gap(0.5)
    _bookings(p)


def _bookings(p: Paper) -> None:
    """The table of bookings between the old and the new balance."""
    balance_column = p.chance(0.6) and p.span > 30 * p.body.size * 0.5
    sign_form = p.pick(("-", "-", "+-", "split"))
    days = p.dates.row(p.rng.randint(2, 8))
    now = p.money.draw(100, 6000)
    widest = p.width(p.money.text(-999999, False), p.body) + p.body.size
    ends = [p.sheet.x1 - widest, p.sheet.x1] if balance_column else [p.sheet.x1]
    what_x = p.sheet.x0 + p.width(write_date(days[0], p.dates.short_form) + "00") + p.body.size * 1.2
    heads = [
        p.pick(("Date", "DATE", "Day", "Posted")),
        p.pick(("Details", "Description", "Transaction", "DESCRIPTION")),
    ]
    tails = [p.pick(("Amount", "AMOUNT", "Debit/Credit")), p.pick(("Balance", "BALANCE"))][: len(ends)]
    p.line(Part(heads[0], "l", p.bold), Part(heads[1], what_x, p.bold),
           *(Part(t, e - p.width(t, p.bold), p.bold) for t, e in zip(tails, ends, strict=True)))  # fmt: skip
    p.sheet.rule(p.sheet.y - 1)
    opening = p.chance(0.7)
    if opening:
        label, text = p.label("balance_old"), p.money.text(now, False)
        found = p.line(Part(label, what_x), Part(text, p.sheet.x1 - p.width(text)))
        p.fact("balance_old", (found[1],), label, (found[0],))
    for day in days:
        low = p.chance(0.7)
        what = p.pick(_OUT if low else _IN)
        name = p.own(lambda rng, w=what: f"{w} {rng.choice((business(rng), rng.choice(LAST)))}")  # type: ignore[misc]
        amount = -p.money.draw(5, 900) if low else p.money.draw(20, 3000)
        now += amount
        text = p.money.text(amount, False)
        text = (
            "+" + text
            if sign_form == "+-" and amount > 0
            else text.lstrip("-")
            if sign_form == "split" and low
            else text
        )
        shown = write_date(day, p.dates.short_form)
        if what_x + p.width(name) + p.width(text) + 8 > ends[0]:
            name = what
        if what_x + p.width(name) + p.width(text) + 8 > ends[0] or any(name in e.names for e in p.entries):
            now -= amount
            continue
        parts = [Part(shown, "l"), Part(name, what_x), Part(text, ends[0] - p.width(text))]
        left = p.money.text(now, False)
        if balance_column:
            parts.append(Part(left, ends[1] - p.width(left)))
        found = p.line(*parts)
        cells: dict[str, Pieces] = {"day": (found[0],), "amount": (found[2],)}
        if balance_column:
            cells["balance"] = (found[3],)
        said = (name, *dict.fromkeys((what.lower(), name.removeprefix(what).strip() or what.lower())))
        p.entries.append(Entry("booking", said, cells, (found[1],), {"amount": tails[0]}))
    label, text = p.label("balance_new"), p.money.text(now, False)
    if p.chance(0.5):
        p.sheet.rule(p.sheet.y)
    face = p.bold if p.chance(0.5) else p.body
    found = p.line(Part(label, what_x, face), Part(text, p.sheet.x1 - p.width(text, face), face))
    p.fact("balance_new", (found[1],), label, (found[0],))


def bill(p: Paper) -> None:
    """A bill of a supplier: the amount in a large box, then details in rows."""
    p.kind = ("bill", "invoice", "letter")
    issuer(p, "utility")
    if p.chance(0.6):
        titled(
            p,
            p.pick(("Your bill", "Your electricity bill", "Monthly statement", "Water bill", "Phone bill")),
            "l",
            p.body,
        )
    if p.chance(0.5):
        pairs(p, some(p, ("issued", "document_no", "holder"), 1, 3), p.sheet.x0, p.sheet.x1, "follow")
    p.gap(0.4)
    top = p.sheet.y
    inset = 6.0
    p.sheet.x0, p.sheet.x1, p.sheet.y = p.sheet.x0 + inset, p.sheet.x1 - inset, top + 3
    style = p.pick(("right", "follow", "below"))
    pairs(p, ["payable"], p.sheet.x0, p.sheet.x1, style, p.large if style != "follow" else p.bold)
    pairs(p, ["due"], p.sheet.x0, p.sheet.x1, style)
    p.sheet.x0, p.sheet.x1 = p.sheet.x0 - inset, p.sheet.x1 + inset
    p.sheet.y += 4
    p.sheet.box(p.sheet.x0, top, p.sheet.x1, p.sheet.y, width=p.rng.choice((1, 2)))
    p.gap(0.5)
    roles = ["customer_no", "period", "reading_old", "reading_new", "usage", "balance_old", "refund", "account",
    "meter",
             "fee", "minimum", "interest", "tax", "penalty"]  # fmt: skip
    pairs(p, some(p, roles, 4, 8), p.sheet.x0, p.sheet.x1, p.pick(("right", "column", "right")))
    if p.chance(0.5):
        p.gap(0.4)
        reach(p, some(p, ("phone", "mail", "site"), 1, 2))


def policy(p: Paper) -> None:
    """A policy, a lease, a membership: a title and rows of label and value."""
    which = p.pick(("insurance", "housing", "library", "utility"))
    roles = {
        "insurance": (
            "policy_no",
            "insured",
            "cover_type",
            "sum_insured",
            "excess",
            "premium",
            "begins",
            "ends",
            "penalty",
        ),
        "housing": (
            "tenant",
            "rent",
            "deposit",
            "begins",
            "period",
            "reference",
            "landlord",
            "due",
            "room_no",
            "floor",
        ),
        "library": ("holder", "customer_no", "fee", "begins", "expires", "cover_type", "mail", "phone", "hired"),
        "utility": ("customer_no", "cover_type", "price", "begins", "duration", "data_used", "serial", "mobile"),
    }[which]
    names = {
        "insurance": "insurance policy",
        "housing": "rental agreement",
        "library": "membership",
        "utility": "contract",
    }
    p.kind = (names[which], "document", "page")
    issuer(p, which)
    titled(p, p.pick(("Schedule", "Summary", "Your contract at a glance", "Agreement", "Details")), "l", p.bold)
    p.gap(0.4)
    pairs(p, some(p, roles, 4, 8), p.sheet.x0, p.sheet.x1, p.pick(("column", "right", "follow", "column")))
    if p.chance(0.5):
        p.gap(0.4)
        pairs(p, some(p, ("signer", "signed"), 1, 2), p.sheet.x0, p.sheet.x1, "follow")


def payslip(p: Paper) -> None:
    """A pay slip: employee and period, earnings and deductions, net pay."""
    p.kind = ("payslip", "pay slip", "document")
    issuer(p, "company", role="employer")
    titled(p, p.pick(("PAYSLIP", "Pay statement", "Earnings statement", "Salary slip")), p.pick(("l", "r")), p.bold)
    roles = ["employee", *some(p, ("staff_no", "period", "department", "job", "account", "person_no", "hired"), 2, 4)]
    pairs(p, roles, p.sheet.x0, p.sheet.x1, p.pick(("column", "follow")))
    rule(p)
    pairs(
        p, ["gross", *some(p, ("overtime", "withheld", "pension", "health_pay"), 2, 4)], p.sheet.x0, p.sheet.x1, "right"
    )
    rule(p)
    pairs(p, ["net"], p.sheet.x0, p.sheet.x1, "right", p.bold)
    if p.chance(0.4):
        address(p, face=p.small)
