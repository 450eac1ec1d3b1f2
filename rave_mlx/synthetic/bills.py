"""Further ways of listing what was bought: on two lines, with codes, as a statement, as on a menu."""

from __future__ import annotations

from rave_mlx.synthetic.sheet import Cell, Sheet, Type
from rave_mlx.synthetic.tables import draw_goods
from rave_mlx.synthetic.values import digits


def stacked(sheet: Sheet, wanted: int) -> None:
    """An article over two lines: its name, and quantity, unit price and price under it, or the other way round."""
    rng, body = sheet.rng, sheet.body
    pitch = sheet.pitch()
    detail = rng.choice(("times", "times", "at", "code", ""))
    price_above = rng.random() < 0.35
    inset = rng.choice((0.0, rng.uniform(6, 26)))
    gap = rng.choice((0, 0, rng.randint(2, 7)))
    for _ in range(wanted):
        if not sheet.room(2 * pitch + gap):
            return
        price, unit, count = sheet.values.draw("amount"), sheet.values.draw("amount"), str(rng.randint(1, 12))
        name = draw_goods(sheet, (sheet.x1 - sheet.x0) * 0.55, body)
        if name is None:
            continue
        texts = {"times": f"{count} x {unit}", "at": f"{count} @ {unit}", "code": digits(rng, rng.randint(5, 9))}
        small = texts.get(detail, "")
        xp = sheet.x1 - sheet.measure(price, body)
        if sheet.x0 + inset + sheet.measure(small, body) + 8 > xp:
            continue
        first: list[tuple[float, str, Type]] = [(sheet.x0, name, body)]
        second: list[tuple[float, str, Type]] = [(sheet.x0 + inset, small, body)] if small else []
        (first if price_above and small else second).append((xp, price, body))
        sheet.line(first, pitch=pitch)
        sheet.line(second, pitch=pitch)
        sheet.y += gap
        sheet.items += 1
        sheet.cells.append(Cell(name, "", price, "price"))
        if detail in ("times", "at"):
            sheet.cells.append(Cell(name, "", count, "quantity"))


def coded(sheet: Sheet, wanted: int) -> None:
    """One line an article with what tills add: an article number before the name, a tax letter behind the price."""
    rng, body = sheet.rng, sheet.body
    pitch = sheet.pitch()
    code = rng.choice((0, 3, 4, 6, 8))
    letters = rng.choice(("", "AB", "ABC", "T*", "12")) if code else rng.choice(("AB", "ABC", "FTN", "*"))
    tail = sheet.measure(" W", body) if letters else 0.0
    front = sheet.measure("8" * code + "  ", body) if code else 0.0
    unit_column = rng.random() < 0.25
    for _ in range(wanted):
        if not sheet.room(pitch):
            return
        price, unit = sheet.values.draw("amount"), sheet.values.draw("amount")
        name = draw_goods(sheet, (sheet.x1 - sheet.x0) * 0.6 - front, body)
        xp = sheet.x1 - tail - sheet.measure(price, body)
        if name is None:
            continue
        x = sheet.x0 + front
        end = x + sheet.measure(name, body) + 8
        xu = xp - sheet.measure(unit + "   ", body)
        if end > xp:
            continue
        parts: list[tuple[float, str, Type]] = [(x, name, body), (xp, price, body)]
        if code:
            parts.insert(0, (sheet.x0, digits(rng, code), body))
        if unit_column and xu > end:
            parts.insert(-1, (xu, unit, body))
        if letters:
            parts.append((sheet.x1 - tail + sheet.measure(" ", body), rng.choice(letters), body))
        sheet.line(parts, pitch=pitch)
        sheet.items += 1
        sheet.cells.append(Cell(name, "", price, "price"))


def statement(sheet: Sheet, wanted: int) -> None:
    """Columns that end with the article: a date, a number or a quantity first, then the amount."""
    rng, body = sheet.rng, sheet.body
    pitch = sheet.pitch()
    first = rng.choice(("quantity", "quantity", "date", "number"))
    right, rules = rng.random() < 0.5, rng.random() < 0.25
    firsts, amounts = [], []
    for number in range(wanted):
        count = str(rng.randint(1, 12))
        firsts.append({"quantity": count, "date": f"{rng.randint(1, 28):02}.{rng.randint(1, 12):02}."}.get(first, ""))
        firsts[-1] = firsts[-1] or f"{number + 1}."
        amounts.append(sheet.values.draw("amount"))
    gap = rng.uniform(6, 18)
    x1 = sheet.x0 + max(sheet.measure(text, body) for text in firsts) + gap
    widest = max(sheet.measure(text, body) for text in amounts)
    x2, top = x1 + widest + gap, sheet.y
    for text, amount in zip(firsts, amounts, strict=True):
        if not sheet.room(pitch):
            break
        name = draw_goods(sheet, sheet.x1 - x2, body)
        if name is None:
            continue
        at = x1 + (widest - sheet.measure(amount, body) if right else 0)
        sheet.line([(sheet.x0, text, body), (at, amount, body), (x2, name, body)], pitch=pitch)
        sheet.items += 1
        sheet.cells.append(Cell(name, "", amount, "price"))
        if first == "quantity":
            sheet.cells.append(Cell(name, "", text, "quantity"))
    if rules and sheet.y > top:
        for x in (x1, x2):
            sheet.vertical(x - gap / 2, top, sheet.y)


def opposite(sheet: Sheet, wanted: int) -> None:
    """Names at the right margin, each with its price, or a quantity and its price, at the left; often dots between."""
    rng, body = sheet.rng, sheet.body
    pitch = sheet.pitch()
    mark = rng.choice(("", ".", ".", "-"))
    times = rng.choice(("", "", "{} x ", "({}) ", "{} for "))
    for _ in range(wanted):
        if not sheet.room(pitch):
            return
        price, count = sheet.values.draw("amount"), str(rng.randint(1, 12))
        shown = times.format(count) + price
        end = sheet.x0 + sheet.measure(shown, body)
        name = draw_goods(sheet, sheet.x1 - end - 10, body)
        if name is None:
            continue
        x = sheet.x1 - sheet.measure(name, body)
        baseline = sheet.line([(sheet.x0, shown, body), (x, name, body)], pitch=pitch)
        sheet.leader(end, x, mark, body, baseline)
        sheet.items += 1
        sheet.cells.append(Cell(name, "", price, "price"))
        if times:
            sheet.cells.append(Cell(name, "", count, "quantity"))


def menu(sheet: Sheet, wanted: int) -> None:
    """Name and price as on a menu or a price list: beside each other without columns, either first, or on two lines."""
    rng, body = sheet.rng, sheet.body
    pitch = sheet.pitch()
    strong = sheet.type(bold=rng.random() < 0.5)
    mark = rng.choice((" ", "  ", " - ", ", ", ": ", " / ", " | "))
    order = rng.choice(("price first", "price first", "name first", "under", "over"))
    centred = rng.random() < 0.5
    gap = rng.choice((0, 0, rng.randint(2, 8)))
    rows = 2 if order in ("under", "over") else 1

    def start(width: float) -> float:
        """Where a line of this width starts, in pixels from the left of the page."""
        return (sheet.width - width) / 2 if centred else sheet.x0

    for _ in range(wanted):
        if not sheet.room(rows * pitch + gap):
            return
        price = sheet.values.draw("amount")
        name = draw_goods(sheet, (sheet.x1 - sheet.x0) * 0.55, strong)
        if name is None:
            continue
        pair = [(price, body), (name, strong)] if order in ("price first", "over") else [(name, strong), (price, body)]
        if rows == 2:
            for text, kind in pair:
                sheet.line([(start(sheet.measure(text, kind)), text, kind)], pitch=pitch)
        else:
            first = pair[0][0] + mark.rstrip()
            space = sheet.measure(" " * (len(mark) - len(mark.rstrip())), body)
            width = sheet.measure(first, pair[0][1]) + space
            total = width + sheet.measure(pair[1][0], pair[1][1])
            if total > sheet.x1 - sheet.x0:
                continue
            x = start(total)
            sheet.line([(x, first, pair[0][1]), (x + width, pair[1][0], pair[1][1])], pitch=pitch)
        sheet.y += gap
        sheet.items += 1
        sheet.cells.append(Cell(name, "", price, "price"))
