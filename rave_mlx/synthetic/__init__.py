"""Synthetic documents with exact truth: the pages the built-in model was trained on.

`make(seed)` draws one page: forms, receipts, invoices, tables, letters, two-column pages, labels, charts, plain lines,
in many fonts and sizes, clean or scanned, with the box of every word and questions that have one right answer.
The same seed, configuration, fonts and Pillow give the same page, bit for bit. Fonts come from the system; see
`fonts.DEBIAN_PACKAGES` for the set used in training.

    from rave_mlx import synthetic
    page = synthetic.make(7)
    page.image.save("page.png")
    for q in page.questions: print(q.text, "->", q.answer)

`pages.py` chooses the blocks of a page, the files of blocks (`forms.py`, `ruled.py`, `tables.py`, ...) write them on a
`sheet.Sheet`, `render.py` draws it, and `questions.py` asks about what was written.

Random choices are drawn from one generator in a fixed order (`questions._near` has its own): a draw that is added,
removed or moved changes the pages of all seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image

from rave_mlx.synthetic import render
from rave_mlx.synthetic.pages import KINDS as PAGE_KINDS
from rave_mlx.synthetic.pages import PageConfig, draw_page, held_out_page
from rave_mlx.synthetic.questions import ABSENT, Question, ask, text_lines
from rave_mlx.synthetic.questions import KINDS as QUESTION_KINDS
from rave_mlx.synthetic.render import Glyph, Word
from rave_mlx.synthetic.sheet import Cell, Field

__all__ = [
    "ABSENT",
    "PAGE_KINDS",
    "QUESTION_KINDS",
    "Cell",
    "Document",
    "Field",
    "Glyph",
    "PageConfig",
    "Question",
    "Word",
    "held_out_page",
    "make",
]


@dataclass(frozen=True)
class Document:
    """A page and all that is known about it. Boxes and places are pixels of `image`.

    `layout` names the page kind and its main block, `font` the body family, `size` its pixels; `lines` are the text in
    reading order; `glyphs` is empty unless asked for.
    """

    image: Image.Image
    layout: str
    font: str
    size: float
    title: str | None
    lines: tuple[str, ...]
    words: tuple[Word, ...]
    glyphs: tuple[Glyph, ...]
    fields: tuple[Field, ...]
    cells: tuple[Cell, ...]
    questions: tuple[Question, ...]


def make(
    seed: int | Random,
    config: PageConfig | None = None,
    *,
    mode: Literal["L", "RGB"] = "RGB",
    with_words: bool = True,
    with_glyphs: bool = False,
) -> Document:
    """Draw the page of a seed.

    Args:
        seed: of the page's random generator, or the generator itself, which is then drawn from.
        config: what to draw; None for any page of the training side of every split.
        mode: "RGB", or "L" for grey.
        with_words: whether the box of every word is computed.
        with_glyphs: whether the place of every character is computed.

    Raises:
        ModelError: for font families in `config` that are not installed, or a Pillow without FreeType.
    """
    config = config or PageConfig()
    rng = seed if isinstance(seed, Random) else Random(seed)
    sheet, layout = draw_page(rng, config)
    image, rotation = render.draw(sheet, mode), None
    if config.scan:
        image, rotation = render.scan(rng, image)
    return Document(
        image=image,
        layout=layout,
        font=sheet.style.family.name,
        size=sheet.style.size,
        title=sheet.title,
        lines=tuple(text_lines(sheet)),
        words=tuple(render.words(sheet, rotation)) if with_words else (),
        glyphs=tuple(render.glyphs(sheet, rotation)) if with_glyphs else (),
        fields=tuple(sheet.fields),
        cells=tuple(sheet.cells),
        questions=tuple(ask(rng, sheet, config.held_phrasing)),
    )
