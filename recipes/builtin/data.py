"""Training batches: pages of one padded size, characters of every cell, questions packed behind the image.

No torch here, so that workers stay light.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.synthetic import QUESTION_KINDS, Document, PageConfig, Question, forms, make, meaning
from rave_mlx.synthetic.meaning import MeaningConfig, MeaningPage, MeaningQuestion
from recipes.builtin.places import NOWHERE, lines, locate
from recipes.builtin.tokens import TURN_END, encode, question_ids

CELL = 16
"""As in `layers.py`, which imports torch."""
SLOTS = 6
"""Per cell: the character before it, the first four inside, the one behind."""
ALPHABET = string.printable[:95] + "€£äöüÄÖÜßéèêëçñåøÅØłŁœóíáźż•"
CHARACTERS = len(ALPHABET) + 2
"""Classes of cell supervision: none, the alphabet, any other character."""
LINES = 32
"""How many lines of a page are counted; the cells of later ones have no number."""
UNCOUNTED = -100
_CLASS = {c: i + 1 for i, c in enumerate(ALPHABET)}
WIDTHS = (192, 224, 256, 304, 352, 400, 448, 496, 592, 720, 848)
WIDTH_WEIGHTS = (2, 2, 3, 4, 4, 3, 2, 2, 1, 1, 1)
MEANING_WIDTH_WEIGHTS = (1, 1, 2, 3, 4, 4, 4, 4, 3, 3, 2)
"""How often a page has a width; the three largest are those of strips of a large page, as `panes` cuts them."""
HEIGHTS = (64, 80, 112, 144, 176, 208, 256, 304, 368, 432, 512)
"""Pages are drawn in few sizes, since a batch has one."""
WEIGHTS = {"read": 0.6, "line": 0.18, "reverse": 0.4, "title": 0.9, "quantity": 2.5}
"""How readily a question kind is taken into a batch; 1 where not named."""
KINDS = (*QUESTION_KINDS, *meaning.KINDS)
"""All kinds of questions, as `Batch.kind` counts them."""
DENSE = {
    "read": 0.5, "line": 0.6, "whole": 0.5, "list": 0.5, "summary": 0.6, "about": 0.6, "greeting": 0.15,
    "unclear": 0.15,
}  # fmt: skip
"""Weight of an answer's characters in the loss, for kinds with long or fixed answers; 1 where not named."""
MEANING_HEIGHTS = (*HEIGHTS, 608, 720, 848)
"""Heights of pages that are asked by meaning: receipts are long."""
MEANING_TEXT = 1.5
"""So many times the text tokens have pages that are asked by meaning, since they have more to ask."""
PAGES = {
    "form": 34, "receipt": 19, "invoice": 9, "table": 20, "chart": 3, "label": 3, "letter": 5, "lines": 8,
    "columns": 2, "article": 10,
}  # fmt: skip
"""How often a page of a kind is drawn: mostly those on which a value has to be found in the row of its name."""
TALL = 112
"""Least height in pixels of the page kinds that need several lines."""
BLOCKS = {
    "spread": 1.8, "aligned": 1.4, "below": 1.8, "figure": 1.8, "signed": 1.8, "leading": 1.8, "grid": 1.8,
    "framed": 1.4, "strip": 1.4, "sill": 1.8, "plate": 1.8,
}  # fmt: skip
"""How readily a form takes a block; 1 where not named."""


@dataclass(frozen=True)
class Batch:
    """Arrays of one step; B pages, T text tokens.

    image (B, H, W) grey bytes; cells (B, H/16, W/16, SLOTS) classes; rows (B, H/16, W/16) the number of the line that
    stands in a cell, from 0, `UNCOUNTED` where there is none; ids, segment, place, label (B, T) as in
    `Nano.decode`, label -100 where there is nothing to learn; weight (B, T); kind (B, T) of the answer, -1 elsewhere;
    target (B, T) the visual token on which the label stands, -1 where that is not known.
    """

    image: NDArray[np.uint8]
    cells: NDArray[np.uint8]
    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    segment: NDArray[np.int64]
    place: NDArray[np.int64]
    label: NDArray[np.int64]
    weight: NDArray[np.float32]
    kind: NDArray[np.int64]
    target: NDArray[np.int64]


@dataclass(frozen=True)
class Mixture:
    """What pages a training draws: the share of those asked by meaning, and whether their answers quote."""

    meaning: float = 0.0
    quote: bool = False


Page = Document | MeaningPage


def text_length(height: int, width: int) -> int:
    """Text tokens per page: about as many as the page has cells."""
    return int(np.clip(round(height * width / CELL**2 / 32) * 32 + 32, 128, 352))


def cell_classes(page: Page, height: int, width: int) -> NDArray[np.uint8]:
    """The characters that each cell of the resized page holds. A cell shared by two lines keeps the first.

    Args:
        page: drawn with its glyphs.
        height: of the canvas in pixels.
        width: of the canvas in pixels.

    Returns:
        (height/16, width/16, SLOTS) classes: 0 for none, else one more than the place in `ALPHABET`.
    """
    out = np.zeros((height // CELL, width // CELL, SLOTS), np.uint8)
    sx, sy = width / page.image.width / CELL, height / page.image.height / CELL
    cell, owner, slot, before, line = (-1, -1), -1, 1, 0, -1
    for glyph in page.glyphs:
        if glyph.line != line:
            cell, before, line = (-1, -1), 0, glyph.line
        code = _CLASS.get(glyph.character, CHARACTERS - 1)
        place = (int(glyph.y * sy // 1), int(glyph.x * sx // 1))
        if not (0 <= place[0] < out.shape[0] and 0 <= place[1] < out.shape[1]):
            cell, before = (-1, -1), code
            continue
        if place != cell:
            if cell[0] >= 0 and owner == line and out[cell][1]:
                out[cell][5] = code
            cell, slot = place, 1
            owner = line if not out[cell][1] else -1
            if owner == line:
                out[cell][0] = before
        if owner == line and slot <= 4:
            out[cell][slot] = code
            slot += 1
        before = code
    return out


def line_numbers(page: Page, height: int, width: int) -> NDArray[np.int64]:
    """The number of the line that stands in each cell of the resized page; of two lines the upper one.

    Args:
        page: drawn with its glyphs.
        height: of the canvas in pixels.
        width: of the canvas in pixels.

    Returns:
        (height/16, width/16) numbers from 0, `UNCOUNTED` where no line stands.
    """
    out = np.full((height // CELL, width // CELL), UNCOUNTED, np.int64)
    sx, sy = width / page.image.width / CELL, height / page.image.height / CELL
    numbers = {line: i for i, line in enumerate(sorted({glyph.line for glyph in page.glyphs}))}
    for glyph in page.glyphs:
        y, x = int(glyph.y * sy // 1), int(glyph.x * sx // 1)
        number = numbers[glyph.line]
        if number < LINES and 0 <= y < out.shape[0] and 0 <= x < out.shape[1] and out[y, x] == UNCOUNTED:
            out[y, x] = number
    return out


def choose(rng: Random, questions: Sequence[Question], room: int) -> list[Question]:
    """Questions that fit together into a row, in random order, those of favoured kinds more often.

    Args:
        rng: the generator to draw from.
        questions: of one page.
        room: text tokens of the row.
    """
    order = sorted(questions, key=lambda q: -(rng.random() ** (1 / WEIGHTS.get(q.kind, 1.0))))
    chosen = []
    for q in order:
        size = len(question_ids(q.text)) + len(encode(q.answer)) + 1
        if size <= room:
            chosen.append(q)
            room -= size
    return chosen


def collate(rng: Random, pages: Sequence[Page], height: int, width: int, length: int | None = None) -> Batch:
    """One batch from pages that all belong on one canvas.

    Args:
        rng: chooses among a page's questions.
        pages: drawn in grey, with their glyphs.
        height: of the canvas in pixels, a multiple of 16.
        width: of the canvas in pixels, a multiple of 16.
        length: text tokens of a page; None: in proportion to the canvas.
    """
    count = len(pages)
    if length is None:
        length = text_length(height, width)
        length = round(length * MEANING_TEXT) if isinstance(pages[0], MeaningPage) else length
    image = np.zeros((count, height, width), np.uint8)
    cells = np.zeros((count, height // CELL, width // CELL, SLOTS), np.uint8)
    rows = np.full((count, height // CELL, width // CELL), UNCOUNTED, np.int64)
    ids, place = np.zeros((count, length), np.int64), np.zeros((count, length), np.int64)
    segment, kind = np.full((count, length), -1, np.int64), np.full((count, length), -1, np.int64)
    label, weight = np.full((count, length), -100, np.int64), np.ones((count, length), np.float32)
    target = np.full((count, length), NOWHERE, np.int64)
    for b, page in enumerate(pages):
        shown = page.image
        if shown.size != (width, height):
            shown = shown.resize((width, height), Image.Resampling.BICUBIC)
        image[b] = np.asarray(shown)
        cells[b], rows[b] = cell_classes(page, height, width), line_numbers(page, height, width)
        at, text = 0, [] if isinstance(page, MeaningPage) else lines(page, height, width, CELL)
        for s, q in enumerate(choose(rng, page.questions, length)):
            asked = question_ids(q.text)
            full = [*asked, *encode(q.answer), TURN_END]
            end, first = at + len(full), at + len(asked) - 1
            ids[b, at:end], segment[b, at:end], place[b, at:end] = full, s, np.arange(len(full))
            label[b, first : end - 1] = full[len(asked) :]
            if isinstance(q, MeaningQuestion):
                stands: Sequence[int] | None = placed(q, page.image.size, height, width)
            else:
                stands = locate(text, q.text, q.answer)
            if stands is not None:
                target[b, first : end - 2] = stands
            kind[b, first : end - 1] = KINDS.index(q.kind)
            weight[b, first : end - 1] = DENSE.get(q.kind, 1.0)
            if q.kind not in DENSE:
                # The first characters decide whether the right place was found.
                weight[b, first : first + 2] = 3.0
            at = end
    return Batch(image, cells, rows, ids, segment, place, label, weight, kind, target)


def placed(question: MeaningQuestion, size: tuple[int, int], height: int, width: int) -> list[int]:
    """The visual token of each UTF-8 byte of an answer, `NOWHERE` for what is not read off the page.

    Args:
        question: with the places of its answer's characters.
        size: of the page's image (width, height).
        height: of the canvas in pixels.
        width: of the canvas in pixels.
    """
    rows, columns = height // CELL, width // CELL
    sx, sy = width / size[0] / CELL, height / size[1] / CELL
    out = []
    for character, point in zip(question.answer, question.stands, strict=True):
        cell = NOWHERE
        if point is not None:
            x, y = int(point[0] * sx // 1), int(point[1] * sy // 1)
            cell = y * columns + x if 0 <= y < rows and 0 <= x < columns else NOWHERE
        out += [cell] * len(character.encode())
    return out


def meaning_page_for(rng: Random, most_cells: int, quote: bool, rounds: int = 1) -> tuple[MeaningPage, tuple[int, int]]:
    """A page that is asked by meaning, and the canvas (height, width) that it belongs on.

    Args:
        rng: the generator to draw from.
        most_cells: visual tokens that the page may take.
        quote: whether its answers quote the line they come from.
        rounds: as of `MeaningConfig`.
    """
    width = rng.choices(WIDTHS, MEANING_WIDTH_WEIGHTS)[0]
    dx, dy = (0, 0) if rng.random() < 0.3 else (rng.randint(-8, 7), rng.randint(-8, 7))
    heights = tuple(h + dy for h in MEANING_HEIGHTS if h * width <= most_cells * CELL**2) or (HEIGHTS[0] + dy,)
    config = MeaningConfig(width=width + dx, heights=heights, quote=quote, rounds=rounds)
    page = meaning.make(rng, config, mode="L", with_glyphs=True)
    return page, (page.image.height - dy, width)


def page_for(rng: Random, most_cells: int, config: PageConfig) -> tuple[Document, tuple[int, int]]:
    """A page of limited size, and the canvas (height, width) that it belongs on.

    Most pages are a few pixels off the canvas and resampled onto it, as the image processor does with any page.

    Args:
        rng: the generator to draw from.
        most_cells: visual tokens that the page may take.
        config: what to draw; size, kind and block are chosen here.
    """
    width = rng.choices(WIDTHS, WIDTH_WEIGHTS)[0]
    fitting = [h for h in HEIGHTS if h * width <= most_cells * CELL**2] or [HEIGHTS[0]]
    height = rng.choice(fitting)
    dx, dy = (0, 0) if rng.random() < 0.3 else (rng.randint(-8, 7), rng.randint(-8, 7))
    heights = tuple(h + dy for h in HEIGHTS)
    low = height < TALL
    kinds = [k for k in PAGES if not (low and k in ("article", "chart", "columns", "letter", "invoice"))]
    kind = rng.choices(kinds, [PAGES[k] for k in kinds])[0]
    block = rng.choices(list(forms.BLOCKS), [BLOCKS.get(b, 1.0) for b in forms.BLOCKS])[0] if kind == "form" else None
    drawn = replace(config, width=width + dx, height=height + dy, heights=heights, kind=kind, block=block)
    page = make(rng, drawn, mode="L", with_words=False, with_glyphs=True)
    return page, (page.image.height - dy, width)


def batches(
    seed: int, cells_per_step: int, most_cells: Callable[[], int], config: PageConfig, mixture: Mixture = Mixture()
) -> Iterator[Batch]:
    """Endless batches, each of pages of one size.

    Args:
        seed: same seed, same batches.
        cells_per_step: visual tokens of a batch, about.
        most_cells: bounds the visual tokens of a page; asked anew for every page.
        config: what to draw.
        mixture: how many pages are asked by meaning; a batch is all of one sort.
    """
    rng = Random(seed)
    pools: dict[tuple[int, int, bool], list[Page]] = {}
    while True:
        by_meaning = mixture.meaning > 0 and rng.random() < mixture.meaning
        page: Page
        if by_meaning:
            page, canvas = meaning_page_for(rng, most_cells(), mixture.quote)
        else:
            page, canvas = page_for(rng, most_cells(), config)
        pool = pools.setdefault((*canvas, by_meaning), [])
        pool.append(page)
        if len(pool) >= max(3, min(32, cells_per_step * CELL**2 // (canvas[0] * canvas[1]))):
            yield collate(rng, pools.pop((*canvas, by_meaning)), *canvas)
