"""Whole pages: which blocks stand on a page of each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from rave_mlx.synthetic import bills, charts, fonts, forms, prose, tables
from rave_mlx.synthetic.sheet import Sheet, make_style
from rave_mlx.synthetic.values import Values, company

ITEMS: dict[str, Callable[[Sheet, int], None]] = {
    "items": tables.items,
    "stacked": bills.stacked,
    "coded": bills.coded,
    "menu": bills.menu,
    "statement": bills.statement,
    "opposite": bills.opposite,
}
"""Ways in which a receipt lists what was bought; held out is another one."""
INVOICE_TITLES = ("INVOICE", "Invoice", "Quote", "Purchase Order", "Order")
_ITEM_WEIGHTS = (9, 4, 3, 4, 4, 2)
"""How often each of `ITEMS` is drawn, in their order."""
HELD_ITEMS: dict[str, Callable[[Sheet, int], None]] = {"ticket": tables.ticket}
KINDS = ("form", "receipt", "invoice", "table", "letter", "columns", "label", "chart", "lines", "article")


@dataclass(frozen=True)
class PageConfig:
    """What to draw. `width`, `height`: pixels, None for a random size in 192-512 by 64-512.

    `kind`: one of `KINDS`, None for any; `block`: one layout block by name (see `forms.BLOCKS`), None for any.
    `held_values`, `held_labels`, `held_layouts`, `held_fonts`, `held_phrasing`: draw from the held-out side of a split.
    `families`: font family names, empty for all of the split; `sizes`: bounds of the body size in pixels;
    `scan`: whether to add noise, blur, skew, shadow, JPEG. `trim`: how often blank space below the text is cut off, as
    in a screenshot; `heights`: the heights a cut may leave, ascending, empty for any.
    """

    width: int | None = None
    height: int | None = None
    kind: str | None = None
    block: str | None = None
    held_values: bool = False
    held_labels: bool = False
    held_layouts: bool = False
    held_fonts: bool = False
    held_phrasing: bool = False
    families: tuple[str, ...] = ()
    sizes: tuple[float, float] = (12.0, 28.0)
    scan: bool = True
    trim: float = 0.6
    heights: tuple[int, ...] = ()


def held_out_page(**overrides: object) -> PageConfig:
    """A configuration with every split on its held-out side."""
    held = {f"held_{n}": True for n in ("values", "labels", "layouts", "fonts", "phrasing")}
    return PageConfig(**{**held, **overrides})  # type: ignore[arg-type]


def _families(config: PageConfig) -> Sequence[fonts.Family]:
    """The font families that a page may have."""
    return fonts.by_name(config.families) if config.families else fonts.families(config.held_fonts)


def draw_page(rng: Random, config: PageConfig) -> tuple[Sheet, str]:
    """Lay out one page; returns the sheet and the name of its layout. A page without any text is drawn again.

    Args:
        rng: the generator to draw from.
        config: what to draw.
    """
    while True:
        width = config.width or rng.randint(192, 512)
        height = config.height or rng.randint(64, 512)
        # Small pages would hold two words in large type; a browser's receipts are small type on small pages.
        largest = min(config.sizes[1], max(config.sizes[0], 13 + min(width / 30, height / 14)))
        style = make_style(rng, _families(config), (config.sizes[0], largest))
        scale = 2 if rng.random() < 0.3 else 1
        sheet = Sheet(rng, Values(rng, config.held_values), style, width, height, scale)
        layout = _compose(sheet, config)
        if sheet.runs:
            if rng.random() < config.trim:
                _trim(sheet, config.heights)
            return sheet, layout


def _trim(sheet: Sheet, heights: tuple[int, ...]) -> None:
    """Cut the blank space below the last line, to one of the allowed heights."""
    lowest = max(run.baseline + 0.3 * run.type.size for run in sheet.runs)
    wanted = max(64.0, lowest + sheet.rng.randint(3, 20))
    allowed = [h for h in heights if h >= wanted] if heights else [int(wanted)]
    if allowed:
        sheet.height = min(sheet.height, allowed[0])


def _compose(sheet: Sheet, config: PageConfig) -> str:
    """Write the blocks of a page of the wanted or a random kind; the name of its layout."""
    rng = sheet.rng
    weights = (26, 16, 9, 20, 4, 3, 5, 6, 12, 11)  # of `KINDS`, in their order
    kind = config.kind or rng.choices(KINDS, weights)[0]
    # These need several lines to be what they are.
    if config.kind is None and sheet.height < 110 and kind in ("chart", "columns", "letter", "article"):
        kind = rng.choice(("form", "lines", "table"))
    if sheet.chance(0.5):
        sheet.y += rng.uniform(0, max(0.0, sheet.height * 0.25 - 20))
    return _PAGES[kind](sheet, config)


def _field_block(sheet: Sheet, config: PageConfig, wanted: int) -> str:
    """Write one block of fields, the wanted or a random one; its name."""
    blocks = forms.HELD_BLOCKS if config.held_layouts else forms.BLOCKS
    name = config.block if config.block in forms.BLOCKS or config.block in forms.HELD_BLOCKS else None
    name = name or sheet.rng.choice(list(blocks))
    {**forms.BLOCKS, **forms.HELD_BLOCKS}[name](sheet, wanted, config.held_labels)
    return name


def _many(sheet: Sheet, low: int = 1) -> int:
    """How many rows to write: often as many as fit."""
    most = max(low, int((sheet.bottom - sheet.y) / sheet.pitch()))
    return most if sheet.chance(0.35) else sheet.rng.randint(low, max(low, min(most, 12)))


def _form(sheet: Sheet, config: PageConfig) -> str:
    """A title, one or two blocks of fields, perhaps a border."""
    if sheet.chance(0.62):
        prose.title(sheet)
    if sheet.chance(0.12):
        prose.letterhead(sheet)
    name = _field_block(sheet, config, _many(sheet))
    if sheet.chance(0.25) and sheet.room(60):
        sheet.y += sheet.rng.randint(2, 12)
        if sheet.chance(0.4):
            sheet.rule()
            sheet.y += 4
        _field_block(sheet, config, sheet.rng.randint(1, 5))
    _frame(sheet)
    return f"form/{name}"


def _receipt(sheet: Sheet, config: PageConfig) -> str:
    """Shop, some fields, what was bought, totals, thanks."""
    rng = sheet.rng
    if sheet.chance(0.7):
        prose.title(sheet, company(rng) if sheet.chance(0.7) else None)
    if sheet.chance(0.4):
        prose.letterhead(sheet)
    if sheet.chance(0.45):
        _small_fields(sheet, config, rng.randint(1, 3))
    if sheet.chance(0.3):
        sheet.rule()
        sheet.y += 3
    name = "ticket" if config.held_layouts else rng.choices(list(ITEMS), _ITEM_WEIGHTS)[0]
    many = max(1, min(rng.randint(1, 9), int((sheet.bottom - sheet.y) / sheet.pitch()) - 1))
    {**ITEMS, **HELD_ITEMS}[name](sheet, many)
    if sheet.chance(0.85):
        tables.totals(sheet)
    if sheet.chance(0.25):
        _small_fields(sheet, config, rng.randint(1, 2))
    if sheet.chance(0.35) and sheet.room(sheet.pitch()):
        text = rng.choice(
            ("Thank you!", "THANK YOU", "Thank you for your visit", "Please come again", "Have a nice day")
        )
        if sheet.fit(text, sheet.body, sheet.x1 - sheet.x0):
            sheet.line([((sheet.width - sheet.measure(text, sheet.body)) / 2, text, sheet.body)])
    _frame(sheet)
    return f"receipt/{name}"


def _small_fields(sheet: Sheet, config: PageConfig, wanted: int) -> None:
    """A few fields of a plain block, beside what the page is about."""
    name = sheet.rng.choice(("inline", "inline", "spread", "aligned", "pairs", "flow"))
    forms.BLOCKS[name](sheet, wanted, config.held_labels)


def _invoice(sheet: Sheet, config: PageConfig) -> str:
    """A title, fields, a table, totals."""
    rng = sheet.rng
    prose.title(sheet, rng.choice((*INVOICE_TITLES, None)))
    if sheet.chance(0.3):
        prose.letterhead(sheet)
    name = _field_block(sheet, config, rng.randint(1, 5))
    sheet.y += rng.randint(2, 12)
    room = int((sheet.bottom - sheet.y) / sheet.pitch())
    tables.table(sheet, max(1, min(rng.randint(1, 6), room - 2)))
    if sheet.chance(0.85):
        tables.totals(sheet, sheet.x0 + (sheet.x1 - sheet.x0) * rng.choice((0, 0.4, 0.5)))
    return f"invoice/{name}"


def _table(sheet: Sheet, config: PageConfig) -> str:
    """A table, perhaps under a title."""
    if sheet.chance(0.45):
        prose.title(sheet)
    if sheet.chance(0.1):
        _small_fields(sheet, config, 1)
    tables.table(sheet, sheet.rng.randint(1, 9))
    if sheet.chance(0.1):
        tables.totals(sheet)
    return "table"


def _letter(sheet: Sheet, config: PageConfig) -> str:
    """Letterhead, subject, fields, paragraphs and lists."""
    rng = sheet.rng
    if sheet.chance(0.5):
        prose.letterhead(sheet)
    if sheet.chance(0.8):
        prose.title(sheet, prose.heading_words(sheet) if sheet.chance(0.6) else None)
    if sheet.chance(0.4):
        _small_fields(sheet, config, rng.randint(1, 3))
    for _ in range(rng.randint(1, 3)):
        (prose.bullets if sheet.chance(0.3) else prose.paragraph)(sheet, rng.randint(1, 6))
        sheet.y += rng.randint(2, 12)
    return "letter"


def _columns(sheet: Sheet, config: PageConfig) -> str:
    """Prose in two columns under a title."""
    if sheet.chance(0.8):
        prose.title(sheet, prose.heading_words(sheet))
    prose.two_columns(sheet, _many(sheet, 2))
    return "columns"


def _label(sheet: Sheet, config: PageConfig) -> str:
    """An address with a block of fields."""
    if sheet.chance(0.5):
        prose.title(sheet)
    prose.address(sheet)
    sheet.y += sheet.rng.randint(1, 8)
    name = _field_block(sheet, config, sheet.rng.randint(1, 4))
    _frame(sheet)
    return f"label/{name}"


def _chart(sheet: Sheet, config: PageConfig) -> str:
    """One chart, perhaps under a title."""
    if sheet.chance(0.7):
        prose.title(sheet)
    draw = sheet.rng.choice((charts.bars, charts.rows, charts.rows, charts.curve))
    draw(sheet, sheet.rng.randint(3, 8))
    return f"chart/{draw.__name__}"


def _lines(sheet: Sheet, config: PageConfig) -> str:
    """Unrelated lines, from which reading is learnt."""
    if sheet.chance(0.2):
        prose.title(sheet)
    prose.lines(sheet, _many(sheet))
    return "lines"


def _article(sheet: Sheet, config: PageConfig) -> str:
    """A page of a manual."""
    prose.article(sheet)
    return "article"


def _frame(sheet: Sheet) -> None:
    """Sometimes a border around the page."""
    if sheet.chance(0.12):
        inset = float(sheet.rng.randint(0, 3))
        low = min(sheet.height - 1.0, max(sheet.y + 3, 20.0)) if sheet.chance(0.5) else sheet.height - 1 - inset
        sheet.box(inset, inset, sheet.width - 1 - inset, low, width=sheet.rng.choice((1, 1, 2)))


_PAGES = {
    "form": _form,
    "receipt": _receipt,
    "invoice": _invoice,
    "table": _table,
    "letter": _letter,
    "columns": _columns,
    "label": _label,
    "chart": _chart,
    "lines": _lines,
    "article": _article,
}
