"""Invoices, account statements and claim forms like those of a small office, drawn with exact truth of every field.

    python benchmarks/office_documents.py OUT --count 30 --seed 0

Every number of seed gives one document: a kind, a layout, a typeface, a currency, a way to write dates and amounts.
Labels are worded as people word them, several ways for a field; some fields are left off the paper, some stand on the
second page, and invoices and statements have tables. All of it is made up here; fonts are those of the machine.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

FACES = (
    "Liberation Sans", "Liberation Serif", "DejaVu Sans", "Carlito", "Caladea", "Open Sans", "Lato", "Roboto",
    "Noto Sans", "Noto Serif", "PT Sans", "PT Serif", "Nimbus Roman", "Courier Prime", "EB Garamond", "Cabin", "Inter",
)  # fmt: skip
_PEOPLE = (
    "Marlene Osterkamp", "Tobias Ferreira", "Ingrid Halvorsen", "Dominic Ashworth", "Yuki Hoshino", "Aoife Brennan",
    "Rashid Mansour", "Petra Vondrak", "Callum Drummond", "Noemi Castellani", "Bertrand Lacroix", "Svetlana Orlova",
)  # fmt: skip
_FIRMS = (
    "Halcyon Office Supplies Ltd", "Brightwater Plumbing", "Kestrel & Daughters", "Northgate Printing Co.",
    "Tamarind Catering GmbH", "Vellum Stationers", "Oakhurst Electrical Ltd", "Mistral Freight Lines",
    "Copperfield Cleaning Services", "Larkspur Gardens", "Ironbridge Tools plc", "Pemberton IT Consulting",
)  # fmt: skip
_BANKS = ("Severn Valley Bank", "Harbour Mutual", "First Meridian Bank", "Cooperative Bank of Aldwick")
_INSURERS = ("Fairhaven Insurance", "Compass Mutual Assurance", "Wexford General Insurance")
_STREETS = ("Mill Lane", "Canal Street", "Orchard Road", "Station Approach", "Bridge Street", "Tannery Row")
_TOWNS = ("Aldwick", "Thornbury", "Marlow", "Westhaven", "Kilbride", "Southmere")
_GOODS = (
    "Copy paper A4, 500 sheets", "Ink cartridge black", "Desk lamp, brass", "Filing cabinet", "Whiteboard markers",
    "Replacement valve 15 mm", "Labour, per hour", "Call-out charge", "Lunch buffet", "Delivery to site",
    "Window cleaning", "Network switch, 8 ports", "Toner collection", "Hedge trimming", "Extension lead 5 m",
)  # fmt: skip
_MOVES = (
    "Card payment Green Grocers", "Standing order rent", "Salary", "Cash withdrawal", "Direct debit electricity",
    "Transfer to savings", "Refund bookshop", "Insurance premium", "Card payment fuel", "Interest", "Council tax",
)  # fmt: skip


@dataclass
class Paper:
    """A document while it is written.

    Attributes:
        rng: what is drawn from.
        kind: "invoice", "statement" or "claim".
        truth: the value of every field, None where the paper lacks it; lists of rows for tables.
        pages: the HTML of each page.
    """

    rng: Random
    kind: str
    truth: dict[str, Any] = field(default_factory=dict)
    pages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        self._dates = rng.choice(("%d %B %Y", "%Y-%m-%d", "%d/%m/%Y", "%d.%m.%Y", "%b %d, %Y"))
        self._money = rng.choice(("{} €", "€{}", "£{}", "${}", "{} EUR", "{}"))
        self._comma = self._money in ("{} €", "{} EUR") and rng.random() < 0.6
        self._pairs = rng.choice((colons, grid, above, leaders, aligned))

    def day(self, day: date) -> str:
        """A date as this paper writes it."""
        return day.strftime(self._dates)

    def amount(self, cents: int, *, bare: bool = False) -> str:
        """An amount as this paper writes it; `bare`: without its currency."""
        text = f"{abs(cents) / 100:,.2f}"
        if self._comma:
            text = text.translate(str.maketrans(",.", ".,"))
        return ("-" if cents < 0 else "") + (text if bare else self._money.format(text))

    def pairs(self, entries: Sequence[tuple[str, Sequence[str], str, Any]]) -> str:
        """Labels and their values; an entry is a field, its labels to choose from, its text and its value."""
        shown = []
        for name, labels, text, value in entries:
            self.truth[name] = value
            shown.append((html.escape(self.rng.choice(labels)), mark(name, text)))
        return self._pairs(shown)

    def absent(self, *names: str) -> None:
        """Fields that this paper does not have."""
        self.truth.update(dict.fromkeys(names))


def mark(name: str, text: str) -> str:
    """Text whose place is wanted: a link, which printing turns into a rectangle of the PDF."""
    return f'<a href="http://field/{name}">{html.escape(text)}</a>'


def colons(entries: Sequence[tuple[str, str]]) -> str:
    """`Label: value`, one a line."""
    return "".join(f"<div class=line>{label}: {value}</div>" for label, value in entries)


def grid(entries: Sequence[tuple[str, str]]) -> str:
    """A ruled table of two columns."""
    rows = "".join(f"<tr><th>{label}</th><td>{value}</td></tr>" for label, value in entries)
    return f"<table class=grid>{rows}</table>"


def above(entries: Sequence[tuple[str, str]]) -> str:
    """Small labels above their values, several side by side."""
    boxes = "".join(f"<div class=box><small>{label}</small><br>{value}</div>" for label, value in entries)
    return f"<div class=boxes>{boxes}</div>"


def leaders(entries: Sequence[tuple[str, str]]) -> str:
    """Labels at the left, values at the right, a dotted line between."""
    return "".join(f"<div class=leader><span>{label}</span><i></i>{value}</div>" for label, value in entries)


def aligned(entries: Sequence[tuple[str, str]]) -> str:
    """Labels and values in two columns without rules."""
    rows = "".join(f"<tr><td class=label>{label}</td><td>{value}</td></tr>" for label, value in entries)
    return f"<table>{rows}</table>"


def table(name: str, headers: Mapping[str, str], rows: Sequence[Mapping[str, str]], style: str) -> str:
    """A table of `rows`, whose cells are marked `name.row.column`; `headers` by column."""
    head = "".join(f"<th class={column}>{html.escape(text)}</th>" for column, text in headers.items())
    body = "".join(
        "<tr>" + "".join(f"<td class={c}>{mark(f'{name}.{i}.{c}', row[c])}</td>" for c in headers) + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table class='rows {style}'><thead><tr>{head}</tr></thead>{body}</table>"


def _address(rng: Random) -> str:
    return (
        f"{rng.randint(1, 180)} {rng.choice(_STREETS)}<br>{rng.choice(_TOWNS)} "
        f"{rng.choice('ABKLMT')}{rng.choice('ABKLMT')}{rng.randint(1, 30)} {rng.randint(1, 9)}"
        f"{rng.choice('ABDEFG')}{rng.choice('ABDEFG')}"
    )


def _iban(rng: Random) -> str:
    return f"{rng.choice(('GB', 'DE', 'NL'))}{rng.randint(10, 99)} " + " ".join(
        f"{rng.randint(0, 9999):04d}" for _ in range(4)
    )


def _phone(rng: Random) -> str:
    return f"0{rng.randint(1000, 9999)} {rng.randint(100000, 999999)}"


def invoice(paper: Paper) -> None:
    """A bill with its items; payment details at the end, on a second page on half of them."""
    rng = paper.rng
    firm, customer = rng.choice(_FIRMS), rng.choice([*_PEOPLE, "Ashgrove Dental Practice", "St Brigid's School"])
    issued = date(2026, 1, 13) + timedelta(days=rng.randint(0, 300))
    issued = issued.replace(day=rng.randint(13, 28))
    due = (issued + timedelta(days=rng.choice((14, 30)))).replace(day=rng.randint(13, 28))
    rows, subtotal = [], 0
    for goods in rng.sample(_GOODS, rng.randint(2, 5)):
        count, price = rng.randint(1, 12), rng.randint(250, 24000)
        subtotal += count * price
        rows.append((goods, count, price * count))
    tax = round(subtotal * rng.choice((7, 19, 20)) / 100)
    number = f"{rng.choice(('INV-', 'R', '2026-', 'A/', ''))}{rng.randint(1000, 99999)}"
    paper.truth.update(vendor=firm, customer=customer)
    meta = [
        ("invoice_number", ("Invoice no.", "Invoice number", "Invoice #", "Inv. No"), number, number),
        ("invoice_date", ("Date", "Invoice date", "Date of issue"), paper.day(issued), issued.isoformat()),
        ("due_date", ("Due date", "Payment due", "Due", "Please pay by"), paper.day(due), due.isoformat()),
    ]
    if rng.random() < 0.6:
        order = f"PO-{rng.randint(100, 9999)}"
        meta.append(("purchase_order", ("PO number", "Purchase order", "Your order"), order, order))
    else:
        paper.absent("purchase_order")
    items = [{"description": g, "quantity": str(n), "amount": paper.amount(p)} for g, n, p in rows]
    paper.truth["items"] = [{"description": g, "quantity": n, "amount": p / 100} for g, n, p in rows]
    headers = {
        "description": rng.choice(("Description", "Item", "Article")), "quantity": rng.choice(("Qty", "Quantity")),
        "amount": rng.choice(("Amount", "Total", "Line total")),
    }  # fmt: skip
    sums = [
        ("subtotal", ("Subtotal", "Net", "Net total"), paper.amount(subtotal), subtotal / 100),
        ("vat", ("VAT", "VAT amount", "Tax"), paper.amount(tax), tax / 100),
        ("total", ("Total", "Total due", "Grand total", "Amount due"), paper.amount(subtotal + tax),
         (subtotal + tax) / 100),
    ]  # fmt: skip
    iban = _iban(rng)
    pay = [("iban", ("IBAN", "Account (IBAN)"), iban, iban)]
    if rng.random() < 0.5:
        terms = rng.choice(("30 days net", "14 days, no discount", "Cash on delivery"))
        pay.append(("payment_terms", ("Terms", "Payment terms"), terms, terms))
    else:
        paper.absent("payment_terms")
    style = rng.choice(("ruled", "banded", "plain"))
    first = (
        f"<header><b class=firm>{mark('vendor', firm)}</b><div>{_address(rng)}<br>Tel {_phone(rng)}</div></header>"
        f"<h1>{rng.choice(('INVOICE', 'Invoice', 'Tax invoice'))}</h1>"
        f"<p>{rng.choice(('Bill to', 'Invoice to', 'To'))}<br>{mark('customer', customer)}<br>{_address(rng)}</p>"
        + paper.pairs(meta)
        + table("items", headers, items, style)
        + f"<div class=sums>{paper.pairs(sums)}</div>"
    )
    closing = f"<h2>{rng.choice(('Payment', 'How to pay'))}</h2>" + paper.pairs(pay)
    thanks = "<p>Goods remain our property until they are paid for in full. Thank you for your custom.</p>"
    paper.pages = [first, closing + thanks] if rng.random() < 0.5 else [first + closing + thanks]


def statement(paper: Paper) -> None:
    """An account statement of two pages: balances at the beginning and at the end, bookings between."""
    rng = paper.rng
    bank, holder, iban = rng.choice(_BANKS), rng.choice(_PEOPLE), _iban(rng)
    until = date(2026, rng.randint(1, 11), rng.randint(13, 28))
    opening, moves, balance = rng.randint(10000, 900000), [], 0
    for number, name in enumerate(rng.sample(_MOVES, rng.randint(4, 7))):
        cents = rng.randint(500, 250000) * rng.choice((-1, -1, 1))
        balance += cents
        moves.append((until.replace(day=1) + timedelta(days=2 * number + 1), name, cents))
    closing, paid_in = opening + balance, sum(max(c, 0) for _, _, c in moves)
    paper.truth["bank"] = bank
    number, client = f"{rng.randint(1, 12)}/2026", f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"
    meta = [
        ("account_holder", ("Account holder", "Name", "Account name"), holder, holder),
        ("iban", ("IBAN", "Account number (IBAN)"), iban, iban),
        ("statement_number", ("Statement no.", "Statement number", "Statement"), number, number),
        ("statement_date", ("Date", "Statement date", "As of"), paper.day(until), until.isoformat()),
        ("customer_number", ("Customer no.", "Customer number", "Client number"), client, client),
    ]
    start = [("opening_balance", ("Opening balance", "Balance brought forward", "Previous balance"),
              paper.amount(opening), opening / 100)]  # fmt: skip
    if rng.random() < 0.5:
        limit = rng.randint(5, 40) * 10000
        start.append(("overdraft_limit", ("Overdraft limit", "Credit limit"), paper.amount(limit), limit / 100))
    else:
        paper.absent("overdraft_limit")
    paper.absent("branch_phone")
    end = [
        ("closing_balance", ("Closing balance", "New balance", "Balance carried forward"), paper.amount(closing),
         closing / 100),
        ("total_paid_in", ("Total paid in", "Total credits", "Paid in"), paper.amount(paid_in), paid_in / 100),
    ]  # fmt: skip
    short = paper.day(until)
    rows = [
        {
            "date": paper.day(d) if len(short) < 11 else d.strftime("%d %b"),
            "text": n,
            "amount": paper.amount(c, bare=True),
        }
        for d, n, c in moves
    ]
    paper.truth["transactions"] = [
        {"date": row["date"], "text": n, "amount": c / 100} for row, (_, n, c) in zip(rows, moves, strict=True)
    ]
    headers = {"date": "Date", "text": rng.choice(("Details", "Description", "Booking")), "amount": "Amount"}
    first = (
        f"<header><b class=firm>{mark('bank', bank)}</b><div>{_address(rng)}</div></header>"
        f"<h1>{rng.choice(('Account statement', 'STATEMENT OF ACCOUNT', 'Statement'))}</h1>"
        + paper.pairs(meta)
        + paper.pairs(start)
        + table("transactions", headers, rows, rng.choice(("ruled", "banded", "plain")))
    )
    last = (
        f"<h2>{rng.choice(('Summary', 'Summary of this period'))}</h2>"
        + paper.pairs(end)
        + "<p>Please check your statement and tell us of any errors within four weeks. Deposits are protected.</p>"
    )
    paper.pages = [first, last]


def claim(paper: Paper) -> None:
    """An insurance claim that somebody filled in, damage and signature on the second page."""
    rng = paper.rng
    insurer, person = rng.choice(_INSURERS), rng.choice(_PEOPLE)
    first_name, last_name = person.split(" ", 1)
    born = date(rng.randint(1950, 2004), rng.randint(1, 12), rng.randint(13, 28))
    happened = date(2026, rng.randint(1, 6), rng.randint(13, 28))
    signed = (happened + timedelta(days=35)).replace(day=rng.randint(13, 28))
    policy, mail = f"{rng.choice('KMPW')}{rng.randint(100000, 999999)}", f"{last_name.lower()}@example.org"
    paper.truth["insurer"] = insurer
    phone, town, cents = _phone(rng), rng.choice(_TOWNS), rng.randint(5000, 900000)
    about = [
        ("policy_number", ("Policy no.", "Policy number", "Contract number"), policy, policy),
        ("last_name", ("Last name", "Surname", "Family name"), last_name, last_name),
        ("first_name", ("First name", "Given name", "Forename"), first_name, first_name),
        ("date_of_birth", ("Date of birth", "Born", "Birth date"), paper.day(born), born.isoformat()),
        ("phone", ("Phone", "Telephone", "Daytime phone"), phone, phone),
        ("email", ("Email", "E-mail", "Email address"), mail, mail),
        ("town", ("Town", "City", "Town / city"), town, town),
    ]
    harm = [
        ("date_of_loss", ("Date of loss", "When did it happen", "Date of damage"), paper.day(happened),
         happened.isoformat()),
        ("amount_claimed", ("Amount claimed", "Claim amount", "Sum claimed"), paper.amount(cents), cents / 100),
    ]  # fmt: skip
    if rng.random() < 0.5:
        plate = f"{rng.choice('ABKL')}{rng.choice('ABKL')}{rng.randint(10, 75)} {rng.choice('KLMT')}XR"
        harm.insert(1, ("vehicle", ("Vehicle registration", "Number plate"), plate, plate))
    else:
        paper.absent("vehicle")
    paper.absent("occupation")
    end = [("signed_on", ("Date signed", "Signed on", "Date of signature"), paper.day(signed), signed.isoformat())]
    paper.pages = [
        f"<header><b class=firm>{mark('insurer', insurer)}</b><div>{_address(rng)}</div></header>"
        f"<h1>{rng.choice(('Claim form', 'CLAIM FORM', 'Notice of claim'))}</h1><p>Please fill in all boxes in block "
        f"letters and send the form to the address above.</p><h2>1. About you</h2>" + paper.pairs(about),
        f"<h2>2. {rng.choice(('What happened', 'The damage'))}</h2>"
        + paper.pairs(harm)
        + "<p>Tell us what happened: a pipe burst in the upstairs bathroom and water came through the ceiling.</p>"
        "<h2>3. Declaration</h2><p>I declare that this is true and complete.</p>" + paper.pairs(end),
    ]


KINDS: dict[str, Callable[[Paper], None]] = {"invoice": invoice, "statement": statement, "claim": claim}


def draw(seed: int) -> tuple[Paper, str]:
    """The paper of a seed, and its pages as one HTML document."""
    rng = Random(f"office {seed}")
    paper = Paper(rng, list(KINDS)[seed % len(KINDS)])
    KINDS[paper.kind](paper)
    from office_rendering import document

    return paper, document(paper.pages, rng.choice(FACES), rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the documents, truth.jsonl and a schema of each kind")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the first document; the next ones follow")
    given = parser.parse_args()
    from office_rendering import write_all

    write_all(given.out, range(given.seed, given.seed + given.count))


if __name__ == "__main__":
    main()
