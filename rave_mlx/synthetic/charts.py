"""Bar and line charts whose values are written at the marks."""

from __future__ import annotations

from rave_mlx.synthetic import words
from rave_mlx.synthetic.sheet import Cell, Color, Shape, Sheet
from rave_mlx.synthetic.values import pseudoword


def _series(sheet: Sheet, count: int) -> list[tuple[str, float, str]]:
    """Distinct categories with a value and how it is written."""
    rng = sheet.rng
    pool = rng.choice(
        (
            [m[:3] for m in words.MONTHS],
            words.REGIONS,
            words.COUNTRIES,
            [str(y) for y in range(2010, 2032)],
            [pseudoword(rng, 2).capitalize() for _ in range(9)],
            list("ABCDEFGH"),
        )
    )
    names = rng.sample(sorted(set(pool)), min(count, len(set(pool))))
    top = rng.choice((9, 99, 99, 999))
    suffix = rng.choice(("", "", "", "%", "k"))
    decimals = 1 if rng.random() < 0.2 else 0
    values = [rng.uniform(0.08, 1) * top for _ in names]
    return [(n, float(f"{v:.{decimals}f}"), f"{v:.{decimals}f}{suffix}") for n, v in zip(names, values, strict=True)]


def bars(sheet: Sheet, wanted: int) -> None:
    """Vertical bars, values above, categories below."""
    rng, style = sheet.rng, sheet.style
    kind = sheet.type(rng.uniform(0.75, 0.95))
    pitch = round(kind.size * 1.3)
    series = _fitting(sheet, wanted, kind.size)
    base = min(sheet.bottom - pitch - 2, sheet.y + rng.uniform(70, 260))
    room = base - sheet.y - pitch - 4
    if len(series) < 2 or room < 24:
        return
    step = (sheet.x1 - sheet.x0) / len(series)
    color, outline = _bar_color(sheet), rng.random() < 0.3
    highest = max(v for _, v, _ in series)
    number = sheet.next_line()
    for i, (_, value, text) in enumerate(series):
        left = sheet.x0 + i * step
        top = base - room * value / highest
        box = (left + step * 0.18, top, left + step * 0.82, base)
        sheet.shapes.append(Shape(box, None if outline else color, style.ink if outline else None))
        x = left + (step - sheet.measure(text, kind)) / 2
        sheet.write(x, text, kind, number, round(top - 3))
    sheet.rule(base)
    sheet.y = base + 2
    sheet.line(
        [(sheet.x0 + (i + 0.5) * step - sheet.measure(n, kind) / 2, n, kind) for i, (n, _, _) in enumerate(series)]
    )
    _record(sheet, series)


def rows(sheet: Sheet, wanted: int) -> None:
    """Horizontal bars, category at the left, value at the end of the bar."""
    kind = sheet.type(sheet.rng.uniform(0.85, 1))
    pitch = round(kind.size * sheet.rng.uniform(1.4, 2))
    series = _series(sheet, min(wanted, int((sheet.bottom - sheet.y) / pitch)))
    if len(series) < 2:
        return
    start = sheet.x0 + max(sheet.measure(n, kind) for n, _, _ in series) + 8
    room = sheet.x1 - start - max(sheet.measure(t, kind) for _, _, t in series) - 8
    if room < 30:
        return
    highest = max(v for _, v, _ in series)
    color = _bar_color(sheet)
    for name, value, text in series:
        end = start + room * value / highest
        sheet.shapes.append(Shape((start, sheet.y + 2, end, sheet.y + pitch - 3), color))
        sheet.line([(sheet.x0, name, kind), (end + 5, text, kind)], pitch=pitch)
    _record(sheet, series)


def curve(sheet: Sheet, wanted: int) -> None:
    """A line chart: a value above every point, categories below."""
    rng, style = sheet.rng, sheet.style
    kind = sheet.type(rng.uniform(0.75, 0.95))
    series = _fitting(sheet, wanted, kind.size)
    base = min(sheet.bottom - kind.size * 1.4, sheet.y + rng.uniform(70, 240))
    room = base - sheet.y - kind.size - 12
    if len(series) < 3 or room < 24:
        return
    step = (sheet.x1 - sheet.x0) / len(series)
    highest = max(v for _, v, _ in series)
    points = [(sheet.x0 + (i + 0.5) * step, base - 6 - room * v / highest) for i, (_, v, _) in enumerate(series)]
    sheet.shapes.append(Shape(None, outline=_bar_color(sheet), width=rng.choice((1, 2)), points=tuple(points)))
    number = sheet.next_line()
    for (x, y), (_, _, text) in zip(points, series, strict=True):
        sheet.shapes.append(Shape((x - 2, y - 2, x + 2, y + 2), style.ink))
        sheet.write(x - sheet.measure(text, kind) / 2, text, kind, number, round(y - 5))
    sheet.rule(base)
    sheet.vertical(sheet.x0, sheet.y, base)
    sheet.y = base + 1
    sheet.line([(x - sheet.measure(n, kind) / 2, n, kind) for (x, _), (n, _, _) in zip(points, series, strict=True)])
    _record(sheet, series)


def _fitting(sheet: Sheet, wanted: int, size: float) -> list[tuple[str, float, str]]:
    """As many bars as have room for their texts."""
    kind = sheet.type(size / sheet.style.size)
    series = _series(sheet, wanted)
    widest = max(sheet.measure(t, kind) for n, _, v in series for t in (n, v)) + 5
    return series[: int((sheet.x1 - sheet.x0) / widest)]


def _bar_color(sheet: Sheet) -> Color:
    """The page's accent, or a random colour of middle lightness."""
    rng = sheet.rng
    return (
        sheet.style.accent if rng.random() < 0.5 else (rng.randint(60, 200), rng.randint(60, 200), rng.randint(60, 220))
    )


def _record(sheet: Sheet, series: list[tuple[str, float, str]]) -> None:
    """Note the values for questions."""
    sheet.chart = True
    sheet.items += len(series)
    sheet.cells += [Cell(name, "", text, "value") for name, _, text in series]
