"""Pages on which finding the value is the hard part: lists and tables of printed codes, dense or easy.

Every visual token shows one code of two characters or nothing, so that reading a token is easy and what decides an
answer is which token is attended to. On dense pages dozens of codes differ from each other in a single character.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from recipes.builtin.data import ALPHABET, CELL, SLOTS, UNCOUNTED, Batch
from recipes.builtin.places import NOWHERE
from recipes.builtin.tokens import TURN_END, encode, question_ids

Kind = Literal["list", "table", "easy"]
KINDS: tuple[Kind, ...] = ("list", "table", "easy")
DENSE: tuple[Kind, ...] = ("list", "table")
LETTERS = "abcdefhknpstuxz"
DIGITS = "0123456789"
SIZES = (10, 11, 12, 13)
"""Font sizes in pixels; a character has a box of 8 by 16."""


@dataclass(frozen=True)
class Layout:
    """How a kind of page is laid out.

    Attributes:
        rows, columns: of the page, in visual tokens.
        fields: labelled values of a list, or rows of a table.
        across: lists beside each other, or columns of values of a table.
        questions: asked about a page.
    """

    rows: int
    columns: int
    fields: int
    across: int
    questions: int


LAYOUTS: dict[Kind, Layout] = {
    "list": Layout(rows=12, columns=12, fields=11, across=3, questions=14),
    "table": Layout(rows=12, columns=12, fields=10, across=5, questions=12),
    "easy": Layout(rows=6, columns=8, fields=5, across=1, questions=5),
}


@dataclass(frozen=True)
class Asked:
    """A question about a page: what is asked, the answer, and the visual token (row, column) that shows it."""

    text: str
    answer: str
    stands: tuple[int, int]


@functools.cache
def _glyph(character: str, size: int) -> NDArray[np.uint8]:
    """Darkness of a character in its box, (16, 8) bytes."""
    box = Image.new("L", (8, CELL), 0)
    ImageDraw.Draw(box).text((4, 13), character, fill=255, font=ImageFont.load_default(size), anchor="ms")
    return np.asarray(box)


def _codes(rng: Generator, letters: str, count: int) -> list[str]:
    """Different codes of two letters; most share one with an earlier code."""
    found: list[str] = []
    while len(found) < count:
        if found and rng.random() < 0.8:
            code = list(found[rng.integers(len(found))])
            code[rng.integers(2)] = letters[rng.integers(len(letters))]
        else:
            code = [letters[i] for i in rng.integers(len(letters), size=2)]
        if "".join(code) not in found:
            found.append("".join(code))
    return found


def _value(rng: Generator) -> str:
    return "".join(DIGITS[i] for i in rng.integers(10, size=2))


def _list(rng: Generator, layout: Layout) -> tuple[dict[tuple[int, int], str], list[Asked]]:
    """Labels of two letters, each with a value of two digits to its right."""
    width = layout.columns // layout.across
    labels = _codes(rng, LETTERS, layout.fields * layout.across)
    lines = rng.permutation(layout.rows)[: layout.fields]
    texts, asked = {}, []
    for number, label in enumerate(labels):
        row = int(lines[number % layout.fields])
        at = width * (number // layout.fields) + int(rng.integers(2))
        value, to = _value(rng), at + 1 + int(rng.integers(2))
        texts[row, at], texts[row, to] = label, value
        asked.append(Asked(label, value, (row, to)))
    return texts, asked


def _table(rng: Generator, layout: Layout) -> tuple[dict[tuple[int, int], str], list[Asked]]:
    """Rows with labels of two letters, columns with headings of two capitals, two digits in every cell."""
    labels = _codes(rng, LETTERS, layout.fields)
    heads = _codes(rng, LETTERS.upper(), layout.across)
    top, left = int(rng.integers(layout.rows - layout.fields)), int(rng.integers(2))
    places = [left + 2 + 2 * i for i in range(layout.across)]
    texts = {(top, at): head for at, head in zip(places, heads, strict=True)}
    asked = []
    for row, label in enumerate(labels, top + 1):
        texts[row, left] = label
        for at, head in zip(places, heads, strict=True):
            texts[row, at] = _value(rng)
            asked.append(Asked(label + head, texts[row, at], (row, at)))
    return texts, asked


def _draw(rng: Generator, layout: Layout, texts: dict[tuple[int, int], str]) -> NDArray[np.uint8]:
    """The page in grey, with noise, (16 rows, 16 columns) bytes."""
    dark = np.zeros((CELL * layout.rows, CELL * layout.columns), np.float32)
    size = int(rng.choice(SIZES))
    for (row, column), text in texts.items():
        for i, character in enumerate(text):
            left = CELL * column + 8 * i
            dark[CELL * row : CELL * (row + 1), left : left + 8] = _glyph(character, size)
    shift = int(rng.integers(-1, 2))
    dark = np.roll(dark, shift, axis=0) * rng.uniform(0.6, 1.0)
    grey = rng.uniform(215, 255) - dark * 0.8 + rng.normal(0, rng.uniform(2, 14), dark.shape)
    page: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return page


def _classes(layout: Layout, texts: dict[tuple[int, int], str]) -> NDArray[np.uint8]:
    """Classes of the two characters of every visual token, as `recipes.builtin.data.cell_classes` counts them."""
    out = np.zeros((layout.rows, layout.columns, SLOTS), np.uint8)
    for (row, column), text in texts.items():
        out[row, column, 1 : 1 + len(text)] = [ALPHABET.index(character) + 1 for character in text]
    return out


def make_batch(rng: Generator, kind: Kind, pages: int) -> Batch:
    """A batch of pages of one kind with their questions packed behind each.

    Args:
        rng: the generator to draw from; the same state gives the same batch.
        kind: of the pages.
        pages: how many.
    """
    layout = LAYOUTS[kind]
    images, cells, rows = [], [], []
    for _ in range(pages):
        texts, asked = (_table if kind == "table" else _list)(rng, layout)
        chosen = [asked[i] for i in rng.permutation(len(asked))[: layout.questions]]
        images.append(_draw(rng, layout, texts))
        cells.append(_classes(layout, texts))
        rows.append([_packed(number, q, layout) for number, q in enumerate(chosen)])
    ids, segment, place, label, target = (
        np.array([np.concatenate(p, 1) for p in rows], np.int64)[:, i] for i in range(5)
    )
    nothing = np.full((pages, layout.rows, layout.columns), UNCOUNTED, np.int64)
    weight = np.ones(ids.shape, np.float32)
    kinds = np.where(label >= 0, KINDS.index(kind), -1)
    return Batch(np.stack(images), np.stack(cells), nothing, ids, segment, place, label, weight, kinds, target)


def _packed(number: int, question: Asked, layout: Layout) -> NDArray[np.int64]:
    """Tokens of a question with its answer, (5, T): ids, segment, place, label, target."""
    before = question_ids(question.text)
    full = [*before, *encode(question.answer), TURN_END]
    count, first = len(full), len(before) - 1
    out = np.zeros((5, count), np.int64)
    out[0], out[1], out[2], out[3], out[4] = full, number, np.arange(count), -100, NOWHERE
    out[3, first : count - 1] = full[len(before) :]
    out[4, first : count - 2] = question.stands[0] * layout.columns + question.stands[1]
    return out
