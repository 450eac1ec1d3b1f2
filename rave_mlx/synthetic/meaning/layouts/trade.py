"""Invoices, delivery notes and confirmations of orders: who, to whom, numbers and days, line items, sums."""

from __future__ import annotations

from rave_mlx.synthetic.meaning.facts import Entry
from rave_mlx.synthetic.meaning.goods import SHOPS, Good, draw_goods
from rave_mlx.synthetic.meaning.layouts.parts import address, issuer, pairs, reach, rule, some, sums, titled
from rave_mlx.synthetic.meaning.paper import Paper, Part
from rave_mlx.synthetic.meaning.vocabulary import person, street, town
from rave_mlx.synthetic.sheet import Type
from rave_mlx.synthetic.values import digits, held_out

_META = ("document_no", "issued", "due", "order_no", "customer_no", "terms", "period", "reference", "delivered")
_FOOT = ("iban", "bic", "account", "sort_code", "tax_id", "phone", "mail", "bank", "terms", "contact")
_NAMES = ("Description", "Item", "Article", "Service", "Work", "Details", "DESCRIPTION", "Product")
_COUNTS = ("Qty", "Quantity", "Hours", "Units", "QTY", "Pcs", "Ordered")
_UNITS = ("Unit price", "Rate", "Price", "Each", "UNIT PRICE", "Cost")
_AMOUNTS = ("Amount", "Total", "Line total", "AMOUNT", "Sum", "Net")
_CODES = ("Code", "Item no.", "SKU", "Art. no.", "No.")


def invoice(p: Paper) -> None:
    """An invoice, a quote or an order: head in two columns or in a row of boxes."""
    kind = p.pick(("invoice", "invoice", "invoice", "bill", "quote", "purchase order", "credit note"))
    p.kind = (kind, "document", "page")
    trade = p.pick(("services", "company", "services", *SHOPS))
    title = kind.title() if p.chance(0.5) else kind.upper()
    form = p.pick(("two columns", "two columns", "strip", "stacked"))
    half = p.sheet.x0 + p.span * p.rng.uniform(0.5, 0.6)
    if form == "two columns":
        _two_columns(p, trade, title, half)
    else:
        if p.chance(0.5):
            titled(p, title, p.pick(("l", "c", "r")))
            issuer(p, trade, "l", p.bold)
        else:
            issuer(p, trade)
            titled(p, title, p.pick(("l", "r")), p.bold)
        address(p)
        p.gap(0.5)
        roles = some(p, _META, 2, 4)
        if form == "strip":
            strip(p, ["document_no", *[r for r in roles if r != "document_no"]][:4])
        else:
            pairs(p, roles, p.sheet.x0, p.sheet.x1, p.pick(("follow", "column")))
        p.gap(0.5)
        _recipient(p)
    p.gap(0.7)
    total = items(p, trade if trade in (*SHOPS, "services") else "services")
    p.gap(0.3)
    _sums(p, total, half)
    p.gap(0.5)
    roles = some(p, _FOOT, 0, 4)
    pairs(p, [r for r in roles if p.label(r)], p.sheet.x0, p.sheet.x1, "follow", p.body)


def _two_columns(p: Paper, trade: str, title: str, half: float) -> None:
    """Issuer at the left, title and numbers at the right; then the recipient."""
    right, top = p.sheet.x1, p.sheet.y
    p.sheet.x1 = half - p.body.size
    issuer(p, trade)
    address(p)
    reach(p, some(p, ("phone", "mail", "site", "tax_id"), 0, 2))
    low = p.sheet.y
    p.sheet.x0, p.sheet.x1, left, p.sheet.y = half, right, p.sheet.x0, top
    titled(p, title, p.pick(("l", "r")))
    pairs(p, ["document_no", *some(p, _META[1:], 1, 4)], half, right, p.pick(("follow", "right", "column")))
    p.sheet.x0 = left
    p.sheet.y = max(low, p.sheet.y)
    p.gap(0.7)
    _recipient(p)


def _recipient(p: Paper) -> None:
    """Who the invoice is for, with an address, often under a label."""
    label = p.pick(("Bill to", "BILL TO", "Customer", "Sold to", "To", "Invoice to", "Client", "Billed to", ""))
    if label:
        first = p.line(Part(label + p.pick((":", "")), "l", p.bold if p.chance(0.5) else p.small))
    name = p.own(person)
    (place,) = p.line(Part(name, "l"))
    p.fact("recipient", (place,), label, (first[0],) if label else ())
    if p.chance(0.8):
        lines = [p.line(Part(text, "l"))[0] for text in (p.own(street), p.own(town))]
        p.fact("home", (lines[0], ", ", lines[1]))


def strip(p: Paper, roles: list[str]) -> None:
    """A row of boxes or columns, each with a small label above its value."""
    width = p.span / len(roles)
    boxed, y = p.chance(0.5), p.sheet.y
    labels, values = [], []
    for i, role in enumerate(roles):
        x = p.sheet.x0 + i * width + 4
        label = p.label(role) or "No."
        value = p.of(role)
        for _ in range(10):
            if p.width(value) < width - 8:
                break
            value = p.of(role)
        face = p.small if p.width(label, p.small) < width - 8 else p.tiny
        labels.append(Part(label, x, face, color=p.sheet.style.muted))
        values.append(Part(value, x))
    first = p.line(*labels)
    second = p.line(*values)
    for role, a, b, part in zip(roles, first, second, labels, strict=True):
        p.fact(role, (b,), part.text, (a,))
    if boxed:
        for i in range(len(roles)):
            p.sheet.box(p.sheet.x0 + i * width, y - 2, p.sheet.x0 + (i + 1) * width, p.sheet.y + 2)


def items(p: Paper, trade: str) -> int:
    """A table of line items; the sum in cents."""
    columns = p.pick(("name amount", "name count unit amount", "count name unit amount", "code name count unit amount",
                      "name count amount", "name count unit amount", "count name amount")).split()  # fmt: skip
    heads = {"name": _NAMES, "count": _COUNTS, "unit": _UNITS, "amount": _AMOUNTS, "code": _CODES}
    headers = {c: p.pick(heads[c]) for c in columns}
    if headers.get("unit") == "Price" and headers["amount"] == "Net":
        headers["amount"] = "Amount"
    sign = p.chance(0.35)
    goods, rows = draw_goods(p.rng, trade, p.rng.randint(1, 7)), []
    total = 0
    for good in goods:
        count = p.rng.choice((1, 1, 2, 3, 4, 5, 8, 10, 12, 20, 24))
        for _ in range(20):
            unit = p.money.price(2, 300)
            if held_out(p.money.text(unit * count, sign)) == p.sheet.values.held:
                break
        total += unit * count
        rows.append({"name": good.printed, "count": str(count), "unit": p.money.text(unit, sign),
                     "amount": p.money.text(unit * count, sign),
                     "code": f"{p.pick('ABHLSX')}-{digits(p.rng, 3)}"})  # fmt: skip
    ends = _columns(p, columns, headers, rows)
    if ends is None:
        columns = ["name", "amount"]
        ends = _columns(p, columns, headers, rows) or {"name": p.sheet.x0, "amount": p.sheet.x1}
    _rows(p, columns, headers, goods, rows, ends)
    return total


def _columns(
    p: Paper, columns: list[str], headers: dict[str, str], rows: list[dict[str, str]]
) -> dict[str, float] | None:
    """Left end of each text column, right end of each column of numbers; None where they do not fit."""
    gap = p.body.size * 0.9
    widths = {c: max(p.width(text, p.bold) for text in (headers[c], *(row[c] for row in rows))) + gap for c in columns}
    if sum(widths.values()) > p.span + gap:
        return None
    widths["name"] += p.span + gap - sum(widths.values())
    x, ends = p.sheet.x0, {}
    for c in columns:
        ends[c] = x if c in ("name", "code") else x + widths[c] - gap
        x += widths[c]
    return ends


def _rows(
    p: Paper, columns: list[str], headers: dict[str, str], goods: list[Good], rows: list[dict[str, str]],
    ends: dict[str, float],
) -> None:  # fmt: skip
    """Write header and rows, with rules in one of several ways."""

    def at(c: str, text: str, face: Type) -> float:
        return ends[c] if c in ("name", "code") else ends[c] - p.width(text, face)

    lines = p.pick(("", "under", "grid", "band"))
    if lines in ("band", "grid") and p.chance(0.7):
        p.sheet.box(p.sheet.x0 - 2, p.sheet.y, p.sheet.x1 + 2, p.sheet.y + p.sheet.pitch(), fill=p.sheet.style.band)
    top = p.sheet.y
    head = p.bold if p.chance(0.7) else p.body
    p.line(*(Part(headers[c], at(c, headers[c], head), head) for c in columns))
    if lines:
        p.sheet.rule(p.sheet.y - 1)
    for good, row in zip(goods, rows, strict=True):
        shown = [c for c in columns if not (c in ("count", "unit") and p.chance(0.03))]
        found = p.line(*(Part(row[c], at(c, row[c], p.body)) for c in shown))
        cells = {c: (place,) for c, place in zip(shown, found, strict=True) if c != "name"}
        name = (found[shown.index("name")],)
        p.entries.append(Entry("goods", (good.printed, good.name), cells, name, headers, good.plural))
        if lines == "grid":
            p.sheet.rule(p.sheet.y - 1)
    if lines == "grid" and p.chance(0.6):
        p.sheet.box(p.sheet.x0 - 3, top - 1, p.sheet.x1 + 3, p.sheet.y - 1)


def _sums(p: Paper, net: int, x0: float) -> None:
    """Net, discount, shipping, tax and total."""
    sign, rows = p.chance(0.6), []
    left = x0 if p.chance(0.8) else p.sheet.x0
    total = net
    if p.chance(0.75):
        rows.append((p.label("subtotal"), p.money.text(net, sign), "subtotal"))
        if p.chance(0.2):
            off = round(net * p.rng.choice((0.05, 0.1)))
            rows.append((p.label("discount"), p.money.text(-off, sign), "discount"))
            total -= off
        if p.chance(0.25):
            post = p.money.price(3, 40)
            rows.append((p.label("shipping"), p.money.text(post, sign), "shipping"))
            total += post
        if p.chance(0.75):
            rate = p.rng.choice((5, 6, 7, 8, 10, 19, 20, 21, 25))
            tax = round(total * rate / 100)
            label = p.label("tax")
            rows.append(
                (f"{label} {rate}{p.pick(('%', ' %'))}" if p.chance(0.5) else label, p.money.text(tax, sign), "tax")
            )
            total += tax
        if p.chance(0.15):
            paid = round(total * 0.3)
            rows.append((p.label("deposit"), p.money.text(-paid, sign), "deposit"))
            total -= paid
    rows.append((p.label("payable"), p.money.text(total, sign), "payable"))
    sums(p, [row for row in rows if row[0]], left, p.sheet.x1)


def delivery(p: Paper) -> None:
    """A delivery note: carrier and parcels, articles with quantities, who received them."""
    p.kind = ("delivery note", "note", "document")
    titled(
        p,
        p.pick(("DELIVERY NOTE", "Delivery Note", "Packing Slip", "PACKING LIST", "Goods Received Note")),
        p.pick(("l", "c")),
    )
    issuer(p, p.pick(("company", *SHOPS)), "l", p.bold)
    roles = some(
        p, ("document_no", "delivered", "carrier", "parcels", "weight", "driver", "tracking", "order_no"), 3, 6
    )
    pairs(p, roles, p.sheet.x0, p.sheet.x1, p.pick(("follow", "column")))
    _recipient(p)
    p.gap(0.5)
    rows = draw_goods(p.rng, p.pick(SHOPS), p.rng.randint(2, 6))
    heads = (
        p.pick(_CODES),
        p.pick(_NAMES),
        p.pick(("Ordered", "Qty", "Quantity")),
        p.pick(("Delivered", "Shipped", "Sent")),
    )
    x = p.sheet.x0 + 5 * p.body.size
    right = p.sheet.x1 - p.width(heads[3] + "   ", p.bold)
    p.line(
        Part(heads[0], "l", p.bold),
        Part(heads[1], x, p.bold),
        Part(heads[2], right - p.width(heads[2], p.bold), p.bold),
        Part(heads[3], "r", p.bold),
    )
    if p.chance(0.6):
        p.sheet.rule(p.sheet.y - 1)
    for good in rows:
        ordered = p.rng.randint(1, 60)
        sent = ordered if p.chance(0.6) else p.rng.randint(0, ordered)
        if x + p.width(good.printed) + 8 > right - p.width(heads[2], p.bold):
            continue
        found = p.line(Part(f"{p.pick('ABHLSX')}-{digits(p.rng, 3)}", "l"), Part(good.printed, x),
                       Part(str(ordered), right - p.width(str(ordered))), Part(str(sent), "r"))  # fmt: skip
        cells = {"code": (found[0],), "ordered": (found[2],), "sent": (found[3],)}
        headers = {"code": heads[0], "ordered": heads[2], "sent": heads[3]}
        p.entries.append(Entry("shipped", (good.printed, good.name), cells, (found[1],), headers, good.plural))
    p.gap(0.5)
    pairs(p, ["receiver", *some(p, ("signed", "item_count"), 0, 1)], p.sheet.x0, p.sheet.x1, "follow")


def menu(p: Paper) -> None:
    """A menu or price list: names and prices, under headings."""
    p.kind = ("menu", "price list", "card")
    trade = p.pick(("cafe", "restaurant"))
    issuer(p, trade, p.pick(("c", "l")))
    goods = draw_goods(p.rng, trade, p.rng.randint(4, 10))
    low, high = (2, 14) if trade == "cafe" else (4, 38)
    sign, dots = p.chance(0.4), p.pick(("", ".", "", ""))
    headings = iter(("Starters", "Mains", "Drinks", "Sweet", "Specials"))
    for i, good in enumerate(goods):
        if i % 4 == 0 and p.chance(0.7):
            p.gap(0.3)
            p.line(Part(next(headings), p.pick(("l", "c")), p.bold))
        amount = p.money.text(p.money.price(low, high), sign)
        if p.width(good.name + amount) + 12 > p.span:
            continue
        name, price = p.line(Part(good.name, "l"), Part(amount, "r"))
        run = p.sheet.runs[name.run]
        p.sheet.leader(run.x + p.width(good.name), p.sheet.runs[price.run].x, dots, p.body, run.baseline)
        p.entries.append(Entry("goods", (good.name,), {"amount": (price,)}, (name,)))
    if p.chance(0.5):
        rule(p)
        reach(p, ["phone"], "c")
