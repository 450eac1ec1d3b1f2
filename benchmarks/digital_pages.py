"""Digital PDFs with their Markdown: letters, invoices, reports, manuals and two-column articles, printed by Chromium.

A page is a list of blocks, which are written twice: as HTML, of which Chromium prints a PDF with a text layer, and as
the Markdown that a model which reads without a mistake would write.
"""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

_WORDS = (
    "account", "agreement", "annual", "approval", "balance", "board", "branch", "budget", "builder", "capital",
    "charge", "client", "committee", "company", "condition", "contract", "council", "customer", "damage",
    "decision", "delivery", "department", "deposit", "design", "director", "district", "document", "equipment",
    "estimate", "evidence", "expense", "facility", "figure", "finance", "garden", "harbour", "heating", "history",
    "household", "increase", "inspection", "interest", "kitchen", "labour", "ladder", "landlord", "library",
    "machine", "maintenance", "manager", "material", "measure", "meeting", "method", "minister", "neighbour",
    "notice", "office", "operation", "payment", "permission", "pipeline", "platform", "policy", "premises",
    "procedure", "property", "purchase", "quarter", "railway", "record", "regulation", "repair", "request",
    "reserve", "residence", "safety", "schedule", "section", "service", "shareholder", "signature", "station",
    "storage", "supplier", "surface", "survey", "tenant", "terminal", "timber", "transport", "treatment",
    "valuation", "vehicle", "village", "voucher", "warehouse", "warranty", "weather", "window", "workshop",
)  # fmt: skip
_LINKS = (
    "of", "the", "and", "to", "in", "for", "with", "on", "by", "from", "at", "is", "was", "are", "were", "will",
    "has", "about", "under", "between", "after", "before", "its",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A part of a page: kind is heading, text, list, table or fields; `rows` its lines, each of one or more cells."""

    kind: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """A page: its name, its blocks, and whether it is set in two columns."""

    name: str
    blocks: tuple[Block, ...]
    columns: bool = False

    def markdown(self) -> str:
        """What a model that makes no mistake writes."""
        return "\n\n".join(_markdown(block) for block in self.blocks) + "\n"

    def plain(self) -> str:
        """The text, one paragraph or row a line."""
        return "\n".join(" ".join(row) for block in self.blocks for row in block.rows) + "\n"

    def html_tables(self) -> str:
        """As Markdown, with tables in HTML, as Nanonets-OCR or olmOCR write them."""
        parts = [_table_html(block) if block.kind == "table" else _markdown(block) for block in self.blocks]
        return "\n\n".join(parts) + "\n"

    def as_json(self) -> str:
        """The labelled values and the rows of tables, as an extraction would have them."""
        found: dict[str, object] = {}
        for block in self.blocks:
            if block.kind == "fields":
                found |= {name.lower().replace(" ", "_"): value for name, value in block.rows}
            elif block.kind == "table":
                names = [name.lower() for name in block.rows[0]]
                found["rows"] = [dict(zip(names, row, strict=True)) for row in block.rows[1:]]
            elif block.kind == "text":
                found.setdefault("summary", block.rows[0][0])
        return json.dumps(found, ensure_ascii=False, indent=2)

    def document(self) -> str:
        """As HTML."""
        style = "column-count:2;column-gap:8mm;text-align:justify" if self.columns else ""
        body = "\n".join(_html(block) for block in self.blocks)
        return (
            "<html lang=en><style>@page{size:A4;margin:18mm} body{font:10.5pt 'Liberation Serif'} td,th{padding:2px "
            f"14px 2px 0;text-align:left}}</style><body style='{style}'>{body}</body></html>"
        )


def _markdown(block: Block) -> str:
    if block.kind == "heading":
        return "\n\n".join(f"## {row[0]}" for row in block.rows)
    if block.kind == "list":
        return "\n".join(f"- {row[0]}" for row in block.rows)
    if block.kind == "fields":
        return "\n".join(f"**{name}:** {value}  " for name, value in block.rows)
    if block.kind == "table":
        ruled = [block.rows[0], tuple("---" for _ in block.rows[0]), *block.rows[1:]]
        return "\n".join("| " + " | ".join(row) + " |" for row in ruled)
    return "\n\n".join(row[0] for row in block.rows)


def _table_html(block: Block) -> str:
    rows = [
        "".join(f"<{tag}>{cell}</{tag}>" for cell in row)
        for row, tag in zip(block.rows, ["th", *["td"] * len(block.rows)], strict=False)
    ]
    return "<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"


def _html(block: Block) -> str:
    rows = [[html.escape(cell) for cell in row] for row in block.rows]
    if block.kind == "heading":
        return "".join(f"<h2>{row[0]}</h2>" for row in rows)
    if block.kind == "list":
        return "<ul>" + "".join(f"<li>{row[0]}</li>" for row in rows) + "</ul>"
    if block.kind == "fields":
        return "<p>" + "<br>".join(f"<b>{name}:</b> {value}" for name, value in rows) + "</p>"
    if block.kind == "table":
        head = "<tr>" + "".join(f"<th>{cell}</th>" for cell in rows[0]) + "</tr>"
        cells = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[1:]]
        return f"<table>{head}{''.join(cells)}</table>"
    return "".join(f"<p>{row[0]}</p>" for row in rows)


def pages(count: int, seed: int = 0) -> list[Page]:
    """`count` pages of five kinds in turn."""
    kinds = (_letter, _invoice, _report, _manual, _article)
    return [kinds[i % len(kinds)](Random(f"{seed}/{i}"), i) for i in range(count)]


def _sentence(rng: Random) -> str:
    words = [rng.choice(_WORDS if rng.random() < 0.6 else _LINKS) for _ in range(rng.randint(7, 18))]
    if rng.random() < 0.3:
        words[rng.randrange(len(words))] = rng.choice(
            (f"{rng.randint(2, 98)} %", f"{_amount(rng)}", f"§ {rng.randint(1, 40)}")
        )
    at = rng.randrange(2, len(words) - 1)
    words[at] += rng.choice((",", ",", "", ";", " –"))
    return " ".join(words).capitalize() + "."


def _text(rng: Random, count: int) -> Block:
    return Block("text", tuple((" ".join(_sentence(rng) for _ in range(rng.randint(3, 6))),) for _ in range(count)))


def _title(rng: Random) -> Block:
    return Block("heading", ((" ".join(rng.sample(_WORDS, rng.randint(2, 4))).capitalize(),),))


def _amount(rng: Random) -> str:
    return f"{rng.randint(1, 9999):,}.{rng.randint(0, 99):02}"


def _fields(rng: Random, count: int) -> Block:
    rows = []
    for word in rng.sample(_WORDS, count):
        day = f"{rng.randint(1, 28):02}.{rng.randint(1, 12):02}.20{rng.randint(10, 29)}"
        number = f"{rng.choice('ABKRT')}{rng.randint(10**5, 10**6)}"
        value = rng.choice((day, number, _amount(rng), rng.choice(_WORDS).capitalize()))
        rows.append((f"{word.capitalize()} {rng.choice(('no', 'date', 'total'))}", value))
    return Block("fields", tuple(rows))


def _table(rng: Random, rows: int) -> Block:
    body = [("Position", "Description", "Pieces", "Amount")]
    for number in range(1, rows + 1):
        name = " ".join(rng.sample(_WORDS, rng.randint(1, 3))).capitalize()
        body.append((str(number), name, str(rng.randint(1, 200)), _amount(rng)))
    return Block("table", tuple(body))


def _letter(rng: Random, number: int) -> Page:
    sender = f"{rng.choice(_WORDS).capitalize()} Ltd, {rng.randint(1, 99)} Mill Lane, Thornbury"
    address = Block("text", ((sender,), ("Dear Ms Osterkamp,",)))
    closing = Block("text", (("Kind regards",), ("Tobias Ferreira",)))
    return Page(f"letter {number}", (address, _text(rng, 4), closing))


def _invoice(rng: Random, number: int) -> Page:
    table = _table(rng, rng.randint(8, 16))
    return Page(f"invoice {number}", (_title(rng), _fields(rng, 6), table, _fields(rng, 3), _text(rng, 1)))


def _report(rng: Random, number: int) -> Page:
    return Page(f"report {number}", (_title(rng), _text(rng, 1), _table(rng, 24), _title(rng), _text(rng, 2)))


def _manual(rng: Random, number: int) -> Page:
    items = Block("list", tuple((_sentence(rng),) for _ in range(8)))
    return Page(f"manual {number}", (_title(rng), _text(rng, 1), items, _title(rng), _text(rng, 2), _fields(rng, 4)))


def _article(rng: Random, number: int) -> Page:
    parts = [block for _ in range(3) for block in (_title(rng), _text(rng, 3))]
    return Page(f"article {number}", tuple(parts), columns=True)


def print_pdf(source: str) -> bytes:
    """A page as Chromium prints it.

    Raises:
        FileNotFoundError: without Chromium.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise FileNotFoundError("Chromium is needed to print pages; install it")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "page.html").write_text(source, "utf-8")
        command: Sequence[str] = (
            program, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
            f"--user-data-dir={place / 'profile'}", f"--print-to-pdf={place / 'page.pdf'}", str(place / "page.html"),
        )  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return (place / "page.pdf").read_bytes()
