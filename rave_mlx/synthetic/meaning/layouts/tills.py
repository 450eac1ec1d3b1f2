"""What tills print: receipts of shops, cafes and restaurants, and slips of card payments."""

from __future__ import annotations

from rave_mlx.synthetic.meaning.facts import Entry, Stretch
from rave_mlx.synthetic.meaning.goods import SHOPS, Good, draw_goods
from rave_mlx.synthetic.meaning.layouts.parts import address, issuer, reach, rule, some, sums
from rave_mlx.synthetic.meaning.paper import Paper, Part
from rave_mlx.synthetic.values import digits, held_out

_PRICES = {
    "cafe": (1.5, 12), "restaurant": (3, 45), "grocery": (0.5, 20), "hardware": (1, 150), "garden": (1, 90),
    "pharmacy": (2, 60), "stationery": (0.8, 40), "clothing": (8, 180), "electronics": (6, 400),
}  # fmt: skip
_THANKS = (
    "Thank you!", "THANK YOU FOR SHOPPING WITH US", "Please come again", "Have a nice day", "Thank you for your visit",
    "Goods sold are not returnable", "Returns within 14 days", "CUSTOMER COPY", "Keep this receipt",
    "*** THANK YOU ***",
    "VAT included where applicable", "Follow us online", "Tell us how we did",
)  # fmt: skip


def till(p: Paper) -> None:
    """A receipt: name at the top, most facts without a label, goods with prices, sums."""
    trade = p.pick(SHOPS)
    table = trade in ("cafe", "restaurant")
    p.kind = ("receipt", "bill", "check") if table else ("receipt", "slip", "receipt")
    mark = p.pick(("-", "=", "*", "", "", "_"))
    align = p.pick(("c", "c", "l"))
    issuer(p, trade, align)
    if p.chance(0.75):
        address(p, align)
    reach(p, some(p, ("phone", "tax_id", "site", "store_no"), 0, 2), align)
    if p.chance(0.35):
        p.line(
            Part(
                p.pick(("RECEIPT", "TAX INVOICE", "SALES RECEIPT", "Cash sale", "INVOICE", "Guest check")), "c", p.bold
            )
        )
    below = p.chance(0.3)
    if not below:
        _when(p)
    _numbers(p, table)
    rule(p, mark)
    prices = _goods(p, trade, table)
    rule(p, mark)
    _sums(p, prices, table)
    if below:
        rule(p, mark)
        _when(p)
    for text in p.rng.sample(_THANKS, p.rng.randint(0, 2)):
        if p.width(text) <= p.span:
            p.line(Part(text, "c"))


def _when(p: Paper) -> None:
    """Date and time of the purchase: bare, behind each other, at both margins, or with labels."""
    day, time = p.of("bought"), p.dates.time((7, 23))
    form = p.pick(("bare", "bare", "ends", "label", "date", "both"))
    if form == "date":
        p.line(Part(day, p.pick(("l", "c", "r")), role="bought"))
    elif form == "label":
        p.line(Part(p.label("bought").rstrip(":") + ":", "l", label=True), Part(day, role="bought"))
        if p.chance(0.7):
            p.line(Part(p.label("clock").rstrip(":") + ":", "l", label=True), Part(time, role="clock"))
    elif form == "both" and p.width(f"Date: {day} Time: {time}  ") < p.span:
        p.line(Part("Date:", "l", label=True), Part(day, role="bought"))
        p.sheet.y -= p.sheet.pitch()
        x = p.sheet.x1 - p.width(f"Time: {time}") - 0.3 * p.body.size
        p.line(Part("Time:", x, label=True), Part(time, role="clock"))
    elif form == "ends" and p.width(day + time) + 10 < p.span:
        p.line(Part(day, "l", role="bought"), Part(time, "r", role="clock"))
    else:
        p.line(Part(day, "l" if p.chance(0.6) else "c", role="bought"), Part(time, role="clock"))


def _numbers(p: Paper, table: bool) -> None:
    """Receipt number, till, cashier, table: one or two on a line."""
    roles = (
        ("document_no", "cashier", "table_no", "guests") if table else ("document_no", "till", "cashier", "terminal")
    )
    chosen = some(p, roles, 0, 3)
    while chosen:
        take = 2 if len(chosen) > 1 and p.chance(0.4) else 1
        texts = []
        for role in chosen[:take]:
            label, value = p.label(role), p.of(role)
            label = label or "No."
            texts.append((label + ("" if label[-1] in ".:#" or p.chance(0.4) else ":"), value, role))
        chosen = chosen[take:]
        total = sum(p.width(label + value) + p.body.size for label, value, _ in texts)
        if total > p.span:
            texts = texts[:1]
        if p.width(texts[0][0] + texts[0][1]) + p.body.size > p.span:
            continue
        (label, value, role), *rest = texts
        p.line(Part(label, "l", label=True), Part(value, role=role))
        for label, value, role in rest:
            p.sheet.y -= p.sheet.pitch()
            x = p.sheet.x1 - p.width(label + value) - 0.4 * p.body.size
            p.line(Part(label, x, label=True), Part(value, role=role))


def _goods(p: Paper, trade: str, table: bool) -> list[int]:
    """The goods in one of several manners; their prices in cents."""
    manner = p.pick(("plain", "front", "front", "times", "stacked", "code", "columns"))
    low, high = _PRICES[trade]
    sign = p.chance(0.3)
    letter = p.pick(("", "", "", "A", "T", "*")) if manner != "columns" else ""
    prices = []
    if manner == "columns":
        heads = p.pick(("Qty|Item|Price", "QTY|DESCRIPTION|AMT", "Qty|Article|Amount")).split("|")
        xs = (p.sheet.x0, p.sheet.x0 + 3.2 * p.body.size)
        p.line(Part(heads[0], xs[0]), Part(heads[1], xs[1]), Part(heads[2], "r"))
    for good in draw_goods(p.rng, trade, p.rng.randint(1, 8)):
        count = p.rng.choice((1, 1, 1, 2, 2, 3, 4, 6, 12))
        for _ in range(20):
            unit = p.money.price(low, high)
            if held_out(p.money.text(unit * count, sign)) == p.sheet.values.held:
                break
        if _good(p, good, count, unit, manner, sign, letter):
            prices.append(unit * count)
    return prices


def _good(p: Paper, good: Good, count: int, unit: int, manner: str, sign: bool, letter: str) -> bool:
    """One good; False where there is no room for its name."""
    amount = p.money.text(unit * count, sign)
    each = p.money.text(unit, sign)
    end = p.sheet.x1 - (p.width(" " + letter) if letter else 0)
    xp = end - p.width(amount)
    front = {"front": f"{count}", "columns": f"{count}"}.get(manner, "")
    code = digits(p.rng, 5) if manner == "code" else ""
    x = p.sheet.x0 + (3.2 * p.body.size if manner == "columns" else 0)
    lead = p.width((front or code) + " ") + 0.5 * p.body.size if (front or code) and manner != "columns" else 0
    if x + lead + p.width(good.printed) + 6 > (xp if manner != "stacked" else p.sheet.x1):
        return False
    cells: dict[str, tuple[Stretch | str, ...]] = {}
    tail = [Part(letter, p.sheet.x1 - p.width(letter))] if letter else []
    if manner == "stacked" or (manner == "times" and count > 1):
        (name,) = p.line(Part(good.printed, "l"))
        inset = p.sheet.x0 + p.body.size
        times = p.pick(("x", "@", "X"))
        found = p.line(Part(f"{count}", inset), Part(times), Part(each), Part(amount, xp), *tail)
        cells = {"count": (found[0],), "unit": (found[2],), "amount": (found[3],)}
    else:
        parts = [Part(front or code, p.sheet.x0)] if front or code else []
        found = p.line(*parts, Part(good.printed, x + lead), Part(amount, xp), *tail)
        name = found[len(parts)]
        cells = {"amount": (found[len(parts) + 1],)}
        if front:
            cells["count"] = (found[0],)
        if code:
            cells["code"] = (found[0],)
    p.entries.append(Entry("goods", (good.printed, good.name), cells, (name,), plural=good.plural))
    return True


def _sums(p: Paper, prices: list[int], table: bool) -> None:
    """Subtotal, tax, tip, total, payment and change; they add up."""
    goods = sum(prices) or p.money.draw()
    sign = p.chance(0.4)
    rows = []
    total = goods

    def row(role: str, cents: int) -> None:
        label = p.label(role)
        if label:
            rows.append((label, p.money.text(cents, sign), role))

    if p.chance(0.5):
        row("subtotal", goods)
        if p.chance(0.25):
            off = round(goods * p.rng.choice((0.05, 0.1, 0.2)))
            row("discount", -off)
            total -= off
        if p.chance(0.7):
            tax = round(total * p.rng.choice((0.05, 0.06, 0.07, 0.0825, 0.1, 0.2)))
            row("tax", tax)
            total += tax
        if table and p.chance(0.4):
            tip = round(goods * p.rng.choice((0.1, 0.12, 0.15, 0.2)))
            row("tip", tip)
            total += tip
    row("payable", total)
    paid = p.pick(("cash", "card", "card", "none"))
    if paid == "cash":
        given = -(-total // 500) * 500 if p.chance(0.7) else -(-total // 2000) * 2000
        given += 500 if given == total else 0
        row("paid", given)
        row("change", given - total)
    sums(p, rows, p.sheet.x0, p.sheet.x1)
    if paid == "card":
        kind = p.pick(("VISA", "MASTERCARD", "Visa Debit", "AMEX", "Maestro", "EFTPOS"))
        if p.chance(0.5):
            p.line(Part(kind, "l", role="card_type"), Part(p.draw("card"), role="card_no"))
        else:
            p.line(Part(kind, "l", role="card_type"))
        if p.chance(0.4):
            p.line(Part(p.label("auth") + ":", "l", label=True), Part(p.of("auth"), role="auth"))
    if p.chance(0.2):
        p.line(Part(p.label("item_count") + ":", "l", label=True), Part(str(len(p.entries)), role="item_count"))


def slip(p: Paper) -> None:
    """The slip of a card payment."""
    p.kind = ("card slip", "slip", "receipt")
    issuer(p, p.pick(SHOPS), "c", p.bold)
    if p.chance(0.4):
        address(p, "c")
    for role in some(p, ("merchant_id", "terminal", "till"), 1, 2):
        p.line(Part(p.label(role) + p.pick((":", "")), "l", label=True), Part(p.of(role), role=role))
    _when(p)
    p.gap(0.5)
    p.line(Part(p.pick(("SALE", "PURCHASE", "Payment", "CARD PAYMENT", "DEBIT SALE")), p.pick(("l", "c"))))
    p.line(Part(p.pick(("VISA", "MASTERCARD", "AMEX", "Visa Debit", "Maestro")), "l", role="card_type"))
    p.line(Part(p.draw("card"), "l", role="card_no"))
    label = p.pick(("AMOUNT", "Amount", "TOTAL", "Total"))
    amount = p.draw("amount")
    sums(p, [(label, amount, "payable")], p.sheet.x0, p.sheet.x1)
    for role in some(p, ("auth", "reference", "document_no"), 1, 2):
        p.line(Part(p.label(role) + p.pick((":", "")), "l", label=True), Part(p.of(role), role=role))
    p.line(Part(p.pick(("APPROVED", "Approved", "TRANSACTION APPROVED", "DECLINED")), "c", role="status"))
    if p.chance(0.5):
        p.line(Part(p.pick(("CUSTOMER COPY", "Please retain for your records", "No signature required")), "c"))
