"""Further ways of listing what was bought: on two lines, with codes and tax letters, as on a menu."""

from __future__ import annotations

from rave_mlx.nano.documents.sheet import Cell, Sheet, Type
from rave_mlx.nano.documents.tables import draw_goods
from rave_mlx.nano.documents.values import digits


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
