"""Rows of things: receipt items with totals, and tables with a header."""

from __future__ import annotations

from dataclasses import dataclass

from rave_mlx.synthetic import words
from rave_mlx.synthetic.sheet import Cell, Color, Field, Sheet, Type
from rave_mlx.synthetic.values import dress_money, pseudoword

TOTALS = ("Total", "TOTAL", "Total due", "Amount due", "Grand total", "Sum", "To pay", "Total amount")
BEFORE = ("Subtotal", "Sub-total", "Tax", "VAT", "Discount", "Shipping", "Tip", "Service", "Delivery fee", "Net")
AFTER = ("Cash", "Change", "Paid", "Card", "Balance")


def draw_goods(sheet: Sheet, width: float, kind: Type) -> str | None:
    """An article name that fits and that the page does not have yet; None where twelve tries gave none.

    Args:
        sheet: the page; it reserves the name.
        width: the most it may take, in pixels.
        kind: the face that it will have.
    """
    for _ in range(12):
        name = sheet.values.goods()
        if sheet.fit(name, kind, width) and sheet.claim(name):
            return name
    return None


def items(sheet: Sheet, wanted: int, left_prices: bool = False) -> None:
    """Receipt lines: article, sometimes a quantity, and a price at the right margin (held out: at the left).

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many articles, where they fit.
        left_prices: whether prices stand at the left margin.
    """
    rng, body = sheet.rng, sheet.body
    pitch = sheet.pitch()
    quantity = rng.choice(("", "", "", "2 x", "x2", "column", "front"))
    mark = rng.choice(("", "", "", "", ".", ".", "-"))
    column = sheet.x0 + (sheet.x1 - sheet.x0) * rng.uniform(0.45, 0.65)
    prices = [sheet.values.draw("amount") for _ in range(wanted)]
    inset = max((sheet.measure(price, body) for price in prices), default=0.0) + 8 if left_prices else 0.0
    front = sheet.measure("88  ", body) if quantity == "front" else 0
    for price in prices:
        if not sheet.room(pitch):
            return
        name = draw_goods(sheet, (sheet.x1 - sheet.x0) * 0.6 - inset, body)
        if name is None:
            continue
        count = str(rng.randint(1, 12))
        shown = {"2 x": f"{count} x {name}", "x2": f"{name} x{count}"}.get(quantity, name)
        xp = sheet.x0 if left_prices else sheet.x1 - sheet.measure(price, body)
        x = sheet.x0 + inset + front
        line: list[tuple[float, str, Type]] = [(x, shown, body), (xp, price, body)]
        end = x + sheet.measure(shown, body)
        if quantity == "column" and end + 6 < column < xp - sheet.measure(count, body) - 8:
            line.insert(1, (column, count, body))
            end = column + sheet.measure(count, body)
        elif quantity == "column":
            count = ""
        elif quantity == "front":
            line.insert(0, (sheet.x0 + inset, count, body))
        if not left_prices and end + 8 > xp:
            continue
        baseline = sheet.line(line if not left_prices else sorted(line), pitch=pitch)
        if not left_prices:
            sheet.leader(end, xp, mark, body, baseline)
        sheet.items += 1
        sheet.cells.append(Cell(name, "", price, "price"))
        if quantity and count:
            sheet.cells.append(Cell(name, "", count, "quantity"))


def ticket(sheet: Sheet, wanted: int) -> None:
    """Held-out layout: prices at the left margin."""
    items(sheet, wanted, left_prices=True)


def totals(sheet: Sheet, x0: float | None = None) -> None:
    """Subtotal, tax and total lines, amounts at the right margin; the total often larger or bold."""
    rng = sheet.rng
    left = sheet.x0 if x0 is None else x0
    before = rng.sample(BEFORE, rng.choice((0, 1, 1, 2, 2, 3)))
    after = rng.sample(AFTER, rng.choice((0, 0, 1, 2)))
    strong = sheet.type(rng.choice((1, 1, 1.15, 1.35)), bold=rng.random() < 0.6)
    colon = rng.choice(("", "", ":"))
    rule = rng.random() < 0.5
    if rule and sheet.room(10):
        sheet.y += 2
        sheet.rule(x0=left)
        sheet.y += 2
    for label, kind in [
        *((b, sheet.body) for b in before),
        (rng.choice(TOTALS), strong),
        *((a, sheet.body) for a in after),
    ]:
        if not sheet.room(sheet.pitch(kind)) or not sheet.claim(label):
            continue
        value = sheet.values.draw("amount")
        x = sheet.x1 - sheet.measure(value, kind)
        if left + sheet.measure(label + colon, kind) + 8 > x:
            continue
        sheet.line([(left, label + colon, kind), (x, value, kind)])
        sheet.fields.append(Field(label, value, "amount"))


@dataclass(frozen=True)
class Column:
    """Header, kind of value, role for questions, and alignment: 0 left, 0.5 centre, 1 right."""

    header: str
    kind: str
    role: str = ""
    align: float = 0.0


FIRST_COLUMNS = (
    ("Item", "goods"),
    ("Product", "goods"),
    ("Article", "goods"),
    ("Description", "goods"),
    ("Part", "goods"),
    ("Name", "first"),
    ("Student", "name"),
    ("Employee", "name"),
    ("City", "city"),
    ("Region", "region"),
    ("Month", "month"),
    ("Department", "word"),
    ("Code", "id"),
    ("", "region"),
)
COLUMNS = (
    Column("Qty", "count", "quantity", 1),
    Column("Quantity", "count", "quantity", 1),
    Column("Units", "count", "quantity", 1),
    Column("Price", "amount", "price", 1),
    Column("Cost", "amount", "price", 1),
    Column("Amount", "amount", "", 1),
    Column("Total", "amount", "", 1),
    Column("Unit price", "amount", "price", 1),
    Column("Stock", "count", "", 1),
    Column("Score", "count", "", 1),
    Column("Points", "count", "", 1),
    Column("Age", "count", "", 1),
    Column("Year", "year", "", 0.5),
    Column("Date", "date"),
    Column("Time", "time"),
    Column("Code", "id"),
    Column("Ref", "id"),
    Column("City", "city"),
    Column("Color", "color"),
    Column("Room", "room"),
    Column("Rate", "percent", "", 1),
    Column("Share", "percent", "", 1),
    Column("Weight", "measure", "", 1),
    Column("Phone", "phone"),
    Column("Status", "word"),
    Column("Type", "word"),
    Column("Owner", "last"),
    Column("Q1", "count", "", 1),
    Column("Q2", "count", "", 1),
    Column("2023", "count", "", 1),
    Column("2024", "count", "", 1),
    Column("Sales", "count", "", 1),
    Column("A", "count", "", 0.5),
    Column("B", "count", "", 0.5),
)


def _draw(sheet: Sheet, kind: str, bare_money: bool) -> str:
    """A value for a column of this kind; `bare_money` leaves the currency sign away."""
    rng, values = sheet.rng, sheet.values
    if kind == "goods":
        return values.goods()
    if kind == "region":
        return rng.choice(words.REGIONS)
    if kind == "month":
        return rng.choice(words.MONTHS)[: rng.choice((3, 12))]
    if kind == "year":
        return str(rng.randint(1950, 2030))
    if kind == "room":
        return rng.choice("ABCDEF") + str(rng.randint(1, 40))
    if kind == "amount" and bare_money:
        return dress_money(f"{rng.uniform(0.5, 999):.2f}", values.money_style[0])
    return values.draw(kind)


def _make(sheet: Sheet, rows: int, columns: int) -> tuple[list[Column], list[list[str]]]:
    """Header and body of a random table; first cells are distinct."""
    rng = sheet.rng
    header, kind = rng.choice(FIRST_COLUMNS)
    chosen: list[Column] = [Column(header, kind)]
    for column in rng.sample(COLUMNS, len(COLUMNS)):
        if len(chosen) < columns and column.header not in {c.header for c in chosen}:
            strange = Column(pseudoword(rng, 2).capitalize(), column.kind, "", column.align)
            chosen.append(strange if rng.random() < 0.12 else column)
    bare = rng.random() < 0.6
    names: list[str] = []
    for _ in range(rows * 4):
        name = _draw(sheet, kind, bare)
        if len(names) < rows and name not in names:
            names.append(name)
    return chosen, [[n, *(_draw(sheet, c.kind, bare) for c in chosen[1:])] for n in names]


def table(sheet: Sheet, wanted: int, columns: int | None = None) -> None:
    """A table with a header row: ruled, gridded, banded or bare; columns left, right or centred.

    Args:
        sheet: the page; written on from its cursor down.
        wanted: how many rows below the header; fewer where they do not fit.
        columns: how many; None for two to five. Fewer where they do not fit.
    """
    rng = sheet.rng
    pitch = round(sheet.pitch() * rng.choice((1, 1, 1.15, 1.35)))
    rows = min(wanted, int((sheet.bottom - sheet.y) / pitch) - 1)
    if rows < 1:
        return
    width = sheet.x1 - sheet.x0
    body, head = sheet.body, sheet.type(bold=rng.random() < 0.65)
    for count in range(columns or rng.choice((2, 3, 3, 4, 4, 5)), 1, -1):
        header, grid = _make(sheet, rows, count)
        need = [
            max(sheet.measure(c.header, head), *(sheet.measure(r[i], body) for r in grid)) for i, c in enumerate(header)
        ]
        pad = rng.uniform(6, 16)
        if grid and sum(need) + pad * count <= width:
            sheet.items += len(grid)
            for row in grid:
                sheet.cells += [Cell(row[0], c.header, v, c.role) for c, v in zip(header[1:], row[1:], strict=True)]
            order = _order(sheet, count)
            moved = [[row[i] for i in order] for row in grid]
            needs = [need[i] + pad for i in order]
            _place(sheet, [header[i] for i in order], moved, needs, (body, head), pitch)
            return


def _order(sheet: Sheet, count: int) -> list[int]:
    """Columns as they stand: mostly the naming one first, now and then behind the next one or at the end."""
    order = list(range(count))
    if sheet.chance(0.16):
        order.insert(sheet.rng.choice((1, count - 1)), order.pop(0))
    return order


def _place(
    sheet: Sheet, header: list[Column], grid: list[list[str]], need: list[float], faces: tuple[Type, Type], pitch: int
) -> None:
    """Draw a table whose columns need the given widths."""
    rng, style = sheet.rng, sheet.style
    body, head = faces
    slack = sheet.x1 - sheet.x0 - sum(need)
    share = rng.choice((0.0, rng.random(), 1.0, 1.0)) * slack / len(need)
    widths = [n + share for n in need]
    lines = rng.choice(("none", "head", "head", "rows", "grid", "grid", "zebra", "zebra-grid"))
    aligns = [rng.choice((c.align, c.align, 0.0)) for c in header]
    if rng.random() < 0.1:
        aligns = [0.5] * len(header)
    edges = [sheet.x0 + sum(widths[:i]) for i in range(len(widths) + 1)]
    top = sheet.y
    inverse = rng.random() < 0.2
    if inverse or rng.random() < 0.25:
        sheet.box(edges[0], top, edges[-1], top + pitch - 1, fill=style.accent if inverse else style.band)
    colors = [(255, 255, 255) if inverse and sum(style.accent) < 330 else style.ink, style.ink]
    for r, row in enumerate([[c.header for c in header], *grid]):
        if r and lines.startswith("zebra") and r % 2:
            sheet.box(edges[0], sheet.y, edges[-1], sheet.y + pitch - 1, fill=style.band)
        face, color = (head, colors[0]) if r == 0 else (body, colors[1])
        sheet.line([_cell(sheet, text, face, color, edges, aligns, i) for i, text in enumerate(row)], pitch=pitch)
        if lines == "rows" or lines.endswith("grid") or (lines == "head" and r == 0):
            sheet.rule(sheet.y - 1, edges[0], edges[-1])
    if lines.endswith("grid"):
        for x in edges:
            sheet.vertical(x, top, sheet.y - 1)
        sheet.rule(top, edges[0], edges[-1])


def _cell(
    sheet: Sheet, text: str, face: Type, color: Color, edges: list[float], aligns: list[float], i: int
) -> tuple[float, str, Type, Color]:
    """An entry of column `i` as a part of a line, placed between the column's edges."""
    free = edges[i + 1] - edges[i] - 6 - sheet.measure(text, face)
    return edges[i] + 3 + free * aligns[i], text, face, color
