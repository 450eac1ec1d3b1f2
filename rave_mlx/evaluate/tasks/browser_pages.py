"""Pages laid out and drawn by a browser instead of the generator that the built-in model was trained on.

Forms, receipts and small tables as HTML and CSS, 300-500 px wide, drawn by headless Chromium. Values come from the
held-out split; fonts, sizes, borders and spacing are chosen by this file alone.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from rave_mlx.errors import ModelError
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.tasks.generated_documents import group
from rave_mlx.synthetic.questions import Question
from rave_mlx.synthetic.values import Values

KINDS = ("form", "receipt", "table")
FACES = (
    "Arial",
    "Helvetica",
    "Verdana",
    "Georgia",
    "'Times New Roman'",
    "'Courier New'",
    "sans-serif",
    "serif",
    "Lato",
)
FORM_LABELS = {
    "Name": "name", "Customer": "name", "Date": "date", "Invoice No": "id", "Order ID": "id", "Phone": "phone",
    "Email": "mail", "City": "city", "Address": "street", "Due date": "date", "Status": "word", "Account": "id",
    "Company": "company", "Member ID": "id", "Date of birth": "date", "Zip": "zip", "Contact": "name",
    "Amount due": "amount", "Room": "count", "Weight": "measure",
}  # fmt: skip
DISHES = (
    "Soup", "Green salad", "Pasta", "Coffee", "Tea", "Apple pie", "Mineral water", "Sandwich", "Cheese",
    "Bread", "Orange juice", "Pizza", "Lamp", "Notebook", "Pens",
)  # fmt: skip
COLUMNS = {
    "Price": "amount",
    "Qty": "count",
    "Date": "date",
    "Code": "id",
    "City": "city",
    "Score": "percent",
    "Time": "time",
}


@dataclass(frozen=True)
class BrowserPage:
    """A drawn page with its questions."""

    kind: str
    face: str
    image: Image.Image
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class _Markup:
    """A page before it is drawn; sizes in pixels, `body` is HTML."""

    kind: str
    face: str
    width: int
    height: int
    body: str
    questions: tuple[Question, ...]


SEED = 11


def browser(pages: int) -> Iterator[Item]:
    """Questions about `pages` pages of each of `KINDS`.

    Raises:
        ModelError: when no Chromium is installed, or it draws nothing.
    """
    drawn = browser_pages(SEED, pages)
    for number, page in enumerate(drawn, 1):
        for q in page.questions:
            tags = {"split": f"browser {page.kind}s", "kind": group(q.kind), "font": page.face}
            yield Item(page.image, q.text, (q.answer,), tags, progress=number / len(drawn))


def browser_pages(seed: int, per_kind: int) -> list[BrowserPage]:
    """`per_kind` pages of each of `KINDS`.

    Raises:
        ModelError: when no Chromium is installed, or it draws nothing.
    """
    rng = Random(seed)
    pages = [_MAKERS[kind](rng) for kind in KINDS for _ in range(per_kind)]
    # All pages of a batch lie in one screenshot.
    return [page for i in range(0, len(pages), 24) for page in _draw(pages[i : i + 24])]


def _draw(pages: list[_Markup]) -> list[BrowserPage]:
    """Draw pages below each other in one screenshot and cut them apart."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise ModelError("no Chromium found; on Debian: apt install chromium")
    blocks = "".join(
        f'<div style="position:absolute;left:0;top:{sum(p.height for p in pages[:i])}px;width:{page.width}px;'
        f'height:{page.height}px;overflow:hidden;background:#fff">{page.body}</div>'
        for i, page in enumerate(pages)
    )
    with tempfile.TemporaryDirectory() as folder:
        source, shot = Path(folder) / "pages.html", Path(folder) / "pages.png"
        source.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{blocks}', encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={shot}"]
        size = f"--window-size=520,{sum(p.height for p in pages)}"
        done = subprocess.run([program, *options, size, source.as_uri()], capture_output=True, text=True, check=False)
        if not shot.is_file():
            raise ModelError(f"{program} drew no page: {done.stderr.strip().splitlines()[-1:]}")
        drawn = Image.open(shot).convert("RGB")
    out, top = [], 0
    for page in pages:
        out.append(
            BrowserPage(page.kind, page.face, drawn.crop((0, top, page.width, top + page.height)), page.questions)
        )
        top += page.height
    return out


def _css(rng: Random) -> tuple[str, int, str]:
    """Face, size in pixels, and the style of a page's outer box."""
    face, size = rng.choice(FACES), rng.randint(13, 18)
    color = rng.choice(("#000", "#111", "#222", "#333", "#123", "#402"))
    return face, size, f"font:{size}px {face};color:{color};padding:{rng.randint(6, 20)}px;box-sizing:border-box"


def _heading(rng: Random, text: str) -> str:
    """A title line, in one of several sizes."""
    align = rng.choice(("left", "center"))
    size = rng.choice((1.2, 1.4, 1.6))
    style = f"font-size:{size}em;font-weight:bold;text-align:{align};margin-bottom:8px"
    return f'<div style="{style}">{html.escape(text)}</div>'


def _form(rng: Random) -> _Markup:
    """Labels with values beside or below them, in one of five styles."""
    values, (face, size, outer) = Values(rng, held=True), _css(rng)
    fields = [(label, values.draw(FORM_LABELS[label])) for label in rng.sample(list(FORM_LABELS), rng.randint(3, 6))]
    style = rng.choice(("grid", "inline", "right", "below", "boxed"))
    title = rng.choice(("Registration", "Customer record", "Order form", "Member details", "Visitor pass"))
    rows, pitch = [], size * rng.choice((1.4, 1.6, 1.9))
    for label, value in fields:
        name, text = html.escape(label), html.escape(value)
        if style == "grid":
            rows.append(
                f'<div style="display:grid;grid-template-columns:42% 58%"><span>{name}:</span><span>{text}</span></div>'
            )
        elif style == "inline":
            rows.append(f"<div><b>{name}:</b> {text}</div>")
        elif style == "right":
            rows.append(
                f'<div style="display:flex;justify-content:space-between"><span>{name}</span><span>{text}</span></div>'
            )
        elif style == "below":
            rows.append(f'<div style="font-size:.8em;color:#555">{name}</div><div>{text}</div>')
        else:
            rows.append(
                '<div style="display:grid;grid-template-columns:40% 60%;border:1px solid #888;margin-top:-1px">'
                f'<span style="padding-left:4px">{name}</span>'
                f'<span style="border-left:1px solid #888;padding-left:4px">{text}</span></div>'
            )
    body = f'<div style="{outer};line-height:{pitch:.0f}px">{_heading(rng, title)}{"".join(rows)}</div>'
    lines = len(fields) * (2 if style == "below" else 1)
    questions = [Question("title", "What is the title?", title)]
    for label, value in fields:
        template = rng.choice(("What is the {}?", "{}?", "Read the {}.", "Find the {}."))
        questions.append(Question("field", template.format(label.lower() if rng.random() < 0.5 else label), value))
    return _Markup("form", face, rng.randint(300, 500), round(lines * pitch + 40 + size * 2.6), body, tuple(questions))


def _receipt(rng: Random) -> _Markup:
    """A shop, a date, goods with prices, and sums."""
    values, (face, size, outer) = Values(rng, held=True), _css(rng)
    goods = [(name, values.draw("amount")) for name in rng.sample(DISHES, rng.randint(2, 6))]
    sums = [
        (name, values.draw("amount"))
        for name in rng.choice((("Total",), ("Subtotal", "Tax", "Total"), ("Net", "VAT", "Total")))
    ]
    shop = values.draw("company")
    date = values.draw("date")
    pitch = size * rng.choice((1.3, 1.5, 1.7))
    dots = rng.random() < 0.25
    fill = '<span style="flex:1;border-bottom:1px dotted #555;margin:0 4px 4px"></span>' if dots else ""

    def row(name: str, price: str, strong: bool = False) -> str:
        weight = "font-weight:bold" if strong else ""
        return (
            f'<div style="display:flex;justify-content:space-between;{weight}"><span>{html.escape(name)}</span>{fill}'
            f"<span>{html.escape(price)}</span></div>"
        )

    rule = rng.choice(("1px solid #333", "1px dashed #333", "0"))
    body = (
        f'<div style="{outer};line-height:{pitch:.0f}px">{_heading(rng, shop)}<div>Date: {html.escape(date)}</div>'
        + "".join(row(*g) for g in goods)
        + f'<div style="border-top:{rule};margin:4px 0"></div>'
        + "".join(row(*s, strong=s[0] == "Total") for s in sums)
        + "</div>"
    )
    questions = [Question("title", "What is the heading?", shop), Question("field", "What is the date?", date)]
    for name, price in goods:
        template = rng.choice(("How much is the {}?", "What is the price of {}?", "What does {} cost?", "{}?"))
        questions.append(Question("price", template.format(name.lower() if rng.random() < 0.5 else name), price))
    for name, price in sums:
        template = rng.choice(("What is the {}?", "{}?", "How much is the {}?"))
        questions.append(Question("field", template.format(name.lower() if rng.random() < 0.5 else name), price))
    height = round((len(goods) + len(sums) + 1) * pitch + 56 + size * 2.6)
    return _Markup("receipt", face, rng.randint(300, 420), height, body, tuple(questions))


def _table(rng: Random) -> _Markup:
    """Goods in rows, one to three properties in columns."""
    values, (face, size, outer) = Values(rng, held=True), _css(rng)
    header = ["Item", *rng.sample(list(COLUMNS), rng.randint(1, 3))]
    names = rng.sample(DISHES, rng.randint(2, 5))
    grid = [[name, *(values.draw(COLUMNS[c]) for c in header[1:])] for name in names]
    border = rng.choice(("border:1px solid #777;", "border-bottom:1px solid #bbb;", ""))
    pad = rng.randint(2, 6)
    align = rng.choice(("left", "left", "right"))
    cell = f'style="{border}padding:{pad}px {pad + 4}px;text-align:{align};white-space:nowrap"'
    rows = "".join(
        f'<tr style="background:{"#eee" if border == "" and i % 2 else "#fff"}">'
        + "".join(f"<td {cell}>{html.escape(v)}</td>" for v in row)
        + "</tr>"
        for i, row in enumerate(grid)
    )
    head = "".join(f"<th {cell}>{html.escape(h)}</th>" for h in header)
    width = 500 if len(header) == 4 else rng.randint(360, 500)
    if len(header) == 4:
        outer = outer.replace(f"{size}px", "13px", 1)
        size = 13
    wide = "width:100%;" if rng.random() < 0.6 else ""
    cells = f'<table style="border-collapse:collapse;font:inherit;{wide}"><tr>{head}</tr>{rows}</table>'
    body = f'<div style="{outer}">{cells}</div>'
    questions = []
    for row in grid:
        for column, value in zip(header[1:], row[1:], strict=True):
            template = rng.choice(("What is the {c} of {r}?", "What is the {c} for {r}?", "{r} {c}?"))
            low = rng.random() < 0.5
            asked = template.format(c=column.lower() if low else column, r=row[0].lower() if low else row[0])
            questions.append(Question("cell", asked, value))
    height = round((len(grid) + 1) * (size * 1.25 + 2 * pad + 2) + 40)
    return _Markup("table", face, width, height, body, tuple(rng.sample(questions, min(4, len(questions)))))


_MAKERS = {"form": _form, "receipt": _receipt, "table": _table}
