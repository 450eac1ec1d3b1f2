"""Tables with described rows and merged headers, timetables, opening hours, posters, charts with axes."""

from __future__ import annotations

from collections.abc import Sequence

from rave_mlx.synthetic.meaning.facts import Entry, Pieces, Stretch
from rave_mlx.synthetic.meaning.layouts.parts import issuer, reach, some, titled
from rave_mlx.synthetic.meaning.paper import Paper, Part
from rave_mlx.synthetic.meaning.vocabulary import business, make, person
from rave_mlx.synthetic.sheet import Shape, Type
from rave_mlx.synthetic.words import CITIES, MONTHS, REGIONS

_SUBJECTS = (
    "Model", "Region", "Method", "City", "Runner", "Player", "Team", "Month", "Site", "Sample", "Group", "Country",
    "Class",
)  # fmt: skip
_MEASURES = (
    "Time", "Score", "Accuracy", "Mean", "Error", "Visitors", "Speed", "Weight", "Cost", "Rainfall", "Points", "Length",
    "Rate", "Sales", "Profit", "Height", "Distance", "Share", "Count", "Density", "Runs", "Yield",
)  # fmt: skip
_OVER = (
    "2022|2023",
    "Men|Women",
    "Before|After",
    "Train|Test",
    "Summer|Winter",
    "North|South",
    "Heat|Final",
    "Min|Max",
)
_TALKS = (
    "Welcome", "Coffee break", "Lunch", "Group photo", "Choir", "Swimming", "Yoga class", "Piano lesson",
    "Lecture on bees",
    "Guided tour", "Chess club", "Team meeting", "Film evening", "Puppet theatre", "Book reading", "Prize giving",
    "Dinner",
    "Science quiz", "Language course", "First aid course", "Dance class", "Pottery workshop", "Registration",
    "Closing words",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _cell(p: Paper, form: str) -> str:
    """A number in the form of its column."""
    r = p.rng
    return {
        "int": lambda: f"{r.randint(1, 9999):,}",
        "dec": lambda: f"{r.uniform(0, 100):.2f}",
        "pct": lambda: f"{r.uniform(0, 100):.1f}%",
        "std": lambda: f"{r.uniform(0, 200):.2f} ({r.uniform(0, 50):.2f})",
        "unit": lambda: f"{r.randint(2, 1500)} {p.pick(('sec', 'mm', 'kg'))}",
        "sci": lambda: f"{r.uniform(0, 1):.4f}",
    }[form]()


def grid(p: Paper) -> None:
    """A table of numbers; its header is plain or has groups of columns under a common heading."""
    p.kind = ("table", "page", "sheet")
    if p.chance(0.7):
        text = f"{p.pick(_MEASURES)} by {p.pick(_SUBJECTS).lower()}, {p.rng.randint(1990, 2030)}"
        titled(p, (f"Table {p.rng.randint(1, 12)}. " if p.chance(0.4) else "") + text, p.pick(("l", "c")), p.bold)
    merged = p.chance(0.4)
    first = p.pick(_SUBJECTS)
    if merged:
        tops = p.rng.sample(_MEASURES, 2)
        below = p.pick(_OVER).split("|")
        names = [f"{low} {top}" for top in tops for low in below]
        shown = [low for _ in tops for low in below]
    else:
        tops = []
        names = shown = p.rng.sample(_MEASURES, p.rng.randint(2, 4))
    forms = [p.pick(("int", "dec", "pct", "std", "unit", "sci", "dec", "int")) for _ in names]
    rows = [(name, [_cell(p, f) for f in forms]) for name in _row_names(p, p.rng.randint(2, 8))]
    _table(p, first, tops, names, shown, rows)


def _row_names(p: Paper, count: int) -> list[str]:
    """Different names of rows, all of one sort."""
    sort = p.pick(("person", "city", "month", "region", "business", "model"))
    if sort == "month":
        return list(MONTHS[:count]) if p.chance(0.5) else p.rng.sample(MONTHS, count)
    if sort in ("city", "region"):
        return p.rng.sample(CITIES if sort == "city" else REGIONS, count)
    if sort == "model":
        word = p.pick(("Base", "Model", "Run", "Sample", "Group", "Setup"))
        return [f"{word} {n}" for n in p.rng.sample(range(1, 600), count)]
    return list(dict.fromkeys(p.own(person if sort == "person" else business) for _ in range(count)))


def _table(
    p: Paper, first: str, tops: Sequence[str], names: Sequence[str], shown: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
) -> None:  # fmt: skip
    """Write a table whose columns are as wide as they need, as far as the page has room."""
    gap = p.body.size
    wide = max(p.width(first, p.bold), *(p.width(name) for name, _ in rows)) + gap
    widths = [max(p.width(s, p.bold), *(p.width(row[i]) for _, row in rows)) + gap for i, s in enumerate(shown)]
    if tops:
        for i, top in enumerate(tops):
            lack = p.width(top, p.bold) + gap - widths[2 * i] - widths[2 * i + 1]
            widths[2 * i] += max(0.0, lack)
    while wide + sum(widths) > p.span + gap and len(widths) > 1:
        widths = widths[:-2] if tops else widths[:-1]
        if tops and len(widths) < 4:
            break
    spare = max(0.0, p.span - wide - sum(widths)) / (len(widths) + 1) if p.chance(0.6) else 0.0
    left = [p.sheet.x0]
    for w in [wide, *widths]:
        left.append(left[-1] + w + spare)
    border, right = p.pick(("grid", "rows", "top", "none")), p.chance(0.5)
    marks = [p.sheet.y]

    def at(i: int, text: str, face: Type) -> float:
        return left[i + 2] - gap / 2 - p.width(text, face) if right else left[i + 1] + gap / 2

    heads = [Part(shown[i], at(i, shown[i], p.bold), p.bold) for i in range(len(widths))]
    if tops and len(widths) >= 4:
        p.line(
            *(Part(t, (left[2 * i + 1] + left[2 * i + 3] - p.width(t, p.bold)) / 2, p.bold) for i, t in enumerate(tops))
        )
        p.sheet.rule(p.sheet.y - 1, left[1])
    p.line(Part(first, p.sheet.x0 + 2, p.bold), *heads)
    marks.append(p.sheet.y)
    for name, row in rows:
        found = p.line(Part(name, p.sheet.x0 + 2), *(Part(row[i], at(i, row[i], p.body)) for i in range(len(widths))))
        cells: dict[str, Pieces] = {names[i]: (found[i + 1],) for i in range(len(widths))}
        p.entries.append(Entry("row", (name,), cells, (found[0],), {n: n for n in cells}))
        marks.append(p.sheet.y)
    for y in {"grid": marks, "rows": marks[1:], "top": [marks[0], marks[1], marks[-1]], "none": []}[border]:
        p.sheet.rule(y - 1, p.sheet.x0 - 1, left[-1])
    if border == "grid":
        for x in (*left[1:], p.sheet.x0 - 1):
            p.sheet.vertical(x if x < left[-1] else left[-1], marks[0] - 1, p.sheet.y - 1)


def schedule(p: Paper) -> None:
    """A timetable: when, what, where, who."""
    p.kind = ("schedule", "timetable", "programme")
    titled(p, p.pick(("Programme", "Timetable", "Schedule", "Agenda", "Open day", "Course plan", "What is on")))
    if p.chance(0.7):
        p.line(Part(p.draw("date"), "l", role="event_date"))
    p.gap(0.3)
    columns = ["what", *some(p, ("venue", "chair"), 0, 2)]
    hour = p.rng.randint(7, 10)
    heads = {
        "what": p.pick(("Event", "What", "Session")),
        "venue": p.pick(("Where", "Room", "Place")),
        "chair": p.pick(("Speaker", "Who", "With")),
    }
    x1 = p.sheet.x0 + p.width("00:00 pm ") + p.body.size * 0.5
    talks = p.rng.sample(_TALKS, p.rng.randint(3, 8))
    widths = {"what": max(p.width(t) for t in talks) + p.body.size, "venue": p.width("A 300 Room") + p.body.size}
    xs = [x1, x1 + widths["what"], x1 + widths["what"] + widths["venue"]]
    if p.chance(0.6):
        p.line(
            Part(p.pick(("Time", "When", "TIME")), "l", p.bold),
            *(Part(heads[c], xs[i], p.bold) for i, c in enumerate(columns)),
        )
        p.sheet.rule(p.sheet.y - 1)
    for i, talk in enumerate(talks):
        time = p.dates.time((hour + i, hour + i), plain=True)
        parts, got = [Part(time, "l"), Part(talk, xs[0])], ["what"]
        for j, c in enumerate(columns[1:], 1):
            value = make(p.rng, "room") if c == "venue" else p.own(person)
            if xs[j] + p.width(value) <= (xs[j + 1] - 6 if c == "venue" and len(columns) > 2 else p.sheet.x1):
                parts.append(Part(value, xs[j]))
                got.append(c)
        found = p.line(*parts)
        cells: dict[str, Pieces] = {"time": (found[0],)}
        cells |= {c: (place,) for c, place in zip(got[1:], found[2:], strict=True)}
        p.entries.append(Entry("slot", (talk,), cells, (found[1],)))


def hours(p: Paper) -> None:
    """A sign with opening hours by day."""
    p.kind = ("sign", "notice", "page")
    align = p.pick(("c", "l"))
    issuer(p, p.pick(("restaurant", "pharmacy", "garden", "library", "stationery", "health")), align)
    if p.chance(0.5):
        p.line(Part(p.pick(("Opening hours", "We are open", "HOURS")), align))
    p.gap(0.3)
    short = p.chance(0.3)
    x = p.sheet.x0 + p.span * p.rng.uniform(0.4, 0.55)
    for day in DAYS[: p.rng.choice((5, 6, 7))]:
        closed = p.chance(0.15)
        text = p.pick(("closed", "Closed")) if closed else p.draw("span")
        found = p.line(Part(day[:3] if short else day, "l"), Part(text, x))
        p.entries.append(Entry("hours", (day,), {"closed" if closed else "open": (found[1],)}, (found[0],)))
    p.gap(0.3)
    reach(p, some(p, ("phone", "site", "mail"), 0, 2), align)


def poster(p: Paper) -> None:
    """A poster or flyer: event, day, place and price, none with a label."""
    p.kind = ("poster", "flyer", "page")
    align = p.pick(("c", "c", "l"))
    p.line(Part(p.of("event"), align, p.large, "event"))
    p.subject = p.facts[-1].value
    if p.chance(0.5):
        p.line(Part(p.pick(("with", "featuring", "Live:")), align), Part(p.of("artist"), role="artist"))
    day, time = p.draw("date"), p.dates.time((10, 21), plain=True)
    if p.chance(0.5) and p.width(f"{day}, {time}") < p.span * 0.9:
        p.line(Part(day, align, role="event_date"), Part(time, role="starts_at"))
    else:
        p.line(Part(day, align, role="event_date"))
        p.line(Part(p.pick(("from", "at", "Doors", "Start")), align), Part(time, role="starts_at"))
    p.line(Part(p.of("venue"), align, role="venue"))
    p.gap(0.4)
    if p.chance(0.6):
        p.line(Part(p.pick(("Tickets", "Admission", "Entry")), align, label=True), Part(p.draw("amount"), role="price"))
    if p.chance(0.3):
        p.line(
            Part(
                p.pick(("Everybody is welcome", "Bring your friends", "In case of rain indoors", "Free parking")), align
            )
        )
    reach(p, some(p, ("phone", "site", "mail"), 0, 2), align)


def _ticks(p: Paper, by: str, count: int) -> list[str]:
    """What stands below the points of a chart."""
    if by == "month":
        whole = p.chance(0.5)
        return (
            [m if whole else m[:3] for m in MONTHS[:count]] if p.chance(0.5) else [m[:3] for m in MONTHS[6 : 6 + count]]
        )
    if by == "region":
        return p.rng.sample(("North", "South", "East", "West", "Central", "Online"), count)
    start = p.rng.randint(2005, 2020)
    return [str(start + i) for i in range(count)] if by == "year" else [f"Q{i + 1}" for i in range(min(count, 4))]


def chart(p: Paper) -> None:
    """Bars or a line between axes with marks, and the values at the points."""
    p.kind = ("chart", "diagram", "graph")
    thing = p.pick(
        ("Sales", "Visitors", "Rainfall in mm", "Members", "Cars sold", "Orders", "Temperature", "Output in t", "Users")
    )
    by = p.pick(("month", "region", "year", "quarter"))
    titled(
        p, f"{thing} per {by}" if p.chance(0.7) else f"{thing} {p.rng.randint(2000, 2030)}", p.pick(("l", "c")), p.bold
    )
    count = p.rng.randint(3, 6 if by == "month" else 5)
    names = _ticks(p, by, count)
    top_value = p.rng.choice((10, 50, 100, 200, 1000, 5000))
    values = (
        p.rng.sample(range(max(1, top_value // 12), top_value), len(names))
        if top_value >= 50
        else [round(p.rng.uniform(1, 10), 1) for _ in names]
    )
    height = p.span * p.rng.uniform(0.4, 0.65)
    left = p.sheet.x0 + p.width(f"{top_value:,}", p.small) + 8
    top, bottom = p.sheet.y + p.body.size, p.sheet.y + p.body.size + height
    ink, fill = p.sheet.style.ink, p.sheet.style.accent
    p.sheet.shapes.append(Shape(None, outline=ink, points=((left, top), (left, bottom), (p.sheet.x1, bottom))))
    for i in range(p.rng.choice((2, 4, 5)) + 1):
        share = i / 4
        if share <= 1:
            y = bottom - share * (bottom - top)
            mark = f"{top_value * share:,.0f}" if top_value >= 50 else f"{top_value * share:g}"
            p.sheet.write(
                left - p.width(mark, p.small) - 4, mark, p.small, p.sheet.next_line(), round(y + p.small.size * 0.35)
            )
            p.sheet.shapes.append(Shape(None, outline=p.sheet.style.muted, points=((left - 3, y), (left, y))))
    step = (p.sheet.x1 - left) / len(names)
    bars, points, places = p.chance(0.65), [], []
    for i, value in enumerate(values):
        x = left + (i + 0.5) * step
        y = bottom - value / top_value * (bottom - top)
        if bars:
            p.sheet.shapes.append(Shape((x - step * 0.3, y, x + step * 0.3, bottom - 1), fill))
        points.append((x, y))
        text = f"{value:,}"
        run = len(p.sheet.runs)
        p.sheet.write(x - p.width(text, p.small) / 2, text, p.small, p.sheet.next_line(), round(y - 3), ink)
        places.append(run)
    if not bars:
        p.sheet.shapes.append(Shape(None, outline=fill, points=tuple(points), width=2))
    p.sheet.y = bottom + 2
    found = p.line(*(Part(n, left + (i + 0.5) * step - p.width(n, p.small) / 2, p.small) for i, n in enumerate(names)))
    for i, name in enumerate(names):
        from_run: Pieces = (Stretch(places[i], 0, len(p.sheet.runs[places[i]].text)),)
        p.entries.append(Entry("bar", (name,), {"value": from_run}, (found[i],)))
