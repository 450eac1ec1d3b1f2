"""Pages on which finding the value is the hard part: printed codes with values, many of them or few.

A visual token shows two or four characters or nothing, so that reading a token is easy and what decides an answer is
which token is attended to. On dense pages dozens of labels differ from others in a single letter.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from recipes.builtin.data import ALPHABET, CELL, SLOTS, UNCOUNTED, Batch
from recipes.builtin.places import NOWHERE
from recipes.builtin.tokens import TURN_END, encode

Kind = Literal["cards", "list", "easy", "full"]
KINDS: tuple[Kind, ...] = ("cards", "list", "easy", "full")
DENSE: tuple[Kind, ...] = ("full",)
"""What the primary outcome is measured on; the start has not seen such pages."""
LETTERS = "abcdefhknpstuxz"
DIGITS = "0123456789"
QUESTION_TOKENS = 2
"""Of every question: the letters of a label."""
SIZES = (10, 11, 12, 13)
"""Font sizes in pixels; those of cards are 3 less."""


@dataclass(frozen=True)
class Layout:
    """How a kind of page is laid out.

    Attributes:
        rows, columns: of the page, in visual tokens.
        fields: labelled values, of each list.
        across: lists beside each other.
        questions: asked about a page.
    """

    rows: int
    columns: int
    fields: int
    across: int
    questions: int


LAYOUTS: dict[Kind, Layout] = {
    "cards": Layout(rows=12, columns=12, fields=96, across=1, questions=24),
    "list": Layout(rows=12, columns=12, fields=11, across=3, questions=24),
    "easy": Layout(rows=6, columns=8, fields=8, across=1, questions=8),
    "full": Layout(rows=12, columns=12, fields=144, across=1, questions=24),
}


@dataclass(frozen=True)
class Asked:
    """A question about a page: what is asked, the answer, and the visual token (row, column) that shows it."""

    text: str
    answer: str
    stands: tuple[int, int]


@functools.cache
def _token(text: str, size: int) -> NDArray[np.uint8]:
    """Darkness of what a visual token shows, (16, 16) bytes: two characters, or two above two half as large."""
    box = Image.new("L", (CELL, CELL), 0)
    small = len(text) == 4
    font = ImageFont.load_default(size - 3 if small else size)
    for i, character in enumerate(text):
        bottom = 8 * (i // 2) + 7 if small else 13
        ImageDraw.Draw(box).text((8 * (i % 2) + 4, bottom), character, fill=255, font=font, anchor="ms")
    return np.asarray(box)


def _codes(rng: Generator, count: int) -> list[str]:
    """Different labels of two letters; most share one with an earlier label."""
    found: list[str] = []
    while len(found) < count:
        code = [LETTERS[i] for i in rng.integers(len(LETTERS), size=2)]
        if found and rng.random() < 0.8:
            code[rng.integers(2)] = found[rng.integers(len(found))][rng.integers(2)]
        if "".join(code) not in found:
            found.append("".join(code))
    return found


def _value(rng: Generator) -> str:
    return "".join(DIGITS[i] for i in rng.integers(10, size=2))


def _cards(rng: Generator, layout: Layout) -> tuple[dict[tuple[int, int], str], list[Asked]]:
    """Small cards all over the page: a label of two letters, and below it, in the same token, a value of two digits."""
    places = rng.permutation(layout.rows * layout.columns)[: layout.fields]
    texts, asked = {}, []
    for place, label in zip(places, _codes(rng, layout.fields), strict=True):
        at, value = divmod(int(place), layout.columns), _value(rng)
        texts[at] = label + value
        asked.append(Asked(label, value, at))
    return texts, asked


def _list(rng: Generator, layout: Layout) -> tuple[dict[tuple[int, int], str], list[Asked]]:
    """Labels of two letters, each with a value of two digits in a token to its right."""
    width = layout.columns // layout.across
    lines = rng.permutation(layout.rows)[: layout.fields]
    texts, asked = {}, []
    for number, label in enumerate(_codes(rng, layout.fields * layout.across)):
        row = int(lines[number % layout.fields])
        at = width * (number // layout.fields) + int(rng.integers(2))
        value, to = _value(rng), at + 1 + int(rng.integers(2))
        texts[row, at], texts[row, to] = label, value
        asked.append(Asked(label, value, (row, to)))
    return texts, asked


def _draw(rng: Generator, layout: Layout, texts: dict[tuple[int, int], str]) -> NDArray[np.uint8]:
    """The page in grey, with noise, (16 rows, 16 columns) bytes."""
    dark = np.zeros((CELL * layout.rows, CELL * layout.columns), np.float32)
    size = int(rng.choice(SIZES))
    for (row, column), text in texts.items():
        dark[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)] = _token(text, size)
    shift = int(rng.integers(-1, 2))
    dark = np.roll(dark, shift, axis=0) * rng.uniform(0.6, 1.0)
    grey = rng.uniform(215, 255) - dark * 0.8 + rng.normal(0, rng.uniform(2, 14), dark.shape)
    page: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return page


def _classes(layout: Layout, texts: dict[tuple[int, int], str]) -> NDArray[np.uint8]:
    """Classes of the characters of every visual token, as `recipes.builtin.data.cell_classes` counts them."""
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
        texts, asked = (_list if kind == "list" else _cards)(rng, layout)
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


def with_fewer(batch: Batch, questions: int) -> Batch:
    """The same pages with the first few of their questions, all of which are equally long.

    Args:
        batch: of one kind.
        questions: how many to keep of each page.
    """
    kept = int((batch.segment[0] < questions).sum())
    packed = ("ids", "segment", "place", "label", "weight", "kind", "target")
    return replace(batch, **{name: getattr(batch, name)[:, :kept] for name in packed})


def _packed(number: int, question: Asked, layout: Layout) -> NDArray[np.int64]:
    """Tokens of a question with its answer right behind it, (5, T): ids, segment, place, label, target."""
    before = encode(question.text)
    full = [*before, *encode(question.answer), TURN_END]
    count, first = len(full), len(before) - 1
    out = np.zeros((5, count), np.int64)
    out[0], out[1], out[2], out[3], out[4] = full, number, np.arange(count), -100, NOWHERE
    out[3, first : count - 1] = full[len(before) :]
    out[4, first : count - 2] = question.stands[0] * layout.columns + question.stands[1]
    return out
