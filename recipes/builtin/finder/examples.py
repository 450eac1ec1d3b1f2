"""What a finder learns from: questions and pages as tokens, with where the answer begins and ends.

No torch here, so that the process that makes them stays light.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.models.finder.answer_spans import MOST_PIECES
from rave_mlx.models.finder.config import KINDS
from rave_mlx.models.finder.network import FinderInput
from rave_mlx.models.finder.word_pieces import Piece, WordPieces
from rave_mlx.synthetic.meaning import MeaningConfig
from recipes.builtin.finder.older_pages import older_page
from recipes.builtin.finder.pages import WordPage, WordSpan, make_page
from recipes.builtin.finder.wordings import reworded

OLDER_SHARE = 0.3
"""How many pages are of the older generator, whose titles, lines and tables are asked for by their places."""
PER_PAGE = 4
"""Most questions of a page."""
PAGE_PIECES = 320
"""Most word pieces of a page; what follows is cut off."""
NO_PLACE = 0
"""The token that answers begin and end at where they are no words of the page."""
_RARER = ("unclear", "greeting", "about", "summary", "list", "whole")
_RARER_SHARE = 0.4
"""How many of their questions are taken: these kinds are told apart after few."""
_POOL = 600
"""Examples that are sorted by length together."""
_ALIKE = {
    "o": "0", "0": "o", "l": "1", "1": "l", "i": "l", "s": "5", "5": "s", "8": "b", "b": "8", "m": "rn", "c": "e",
    "e": "c", "u": "v", "n": "m", "a": "o",
}  # fmt: skip
"""What letters are mistaken for."""


@dataclass(frozen=True, eq=False)
class Example:
    """A question and a page: tokens, first and last token of the answer, number of its kind in `KINDS`."""

    given: FinderInput
    first: int
    last: int
    kind: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples side by side, filled up at their ends.

    ids, sizes, starts (B, L) and places (B, L, 3) as in `FinderInput`; parts (B, L): 0 up to the end of the question,
    1 behind it; real (B, L): whether a token is none that fills up; first, last, kind (B,) as in `Example`.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.float32]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    parts: NDArray[np.int64]
    real: NDArray[np.bool_]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    kind: NDArray[np.int64]


def damage(rng: Random, word: str, rate: float) -> str:
    """A word as it may be read: now and then a letter is missing, twice there, or another.

    Args:
        rng: the generator to draw from.
        word: as it is printed; those of one or two letters stay.
        rate: how many of them are misread.
    """
    if rng.random() > rate or len(word) < 3:
        return word
    at, roll = rng.randrange(len(word)), rng.random()
    if roll < 0.3:
        return word[:at] + word[at + 1 :]
    if roll < 0.55:
        return word[: at + 1] + word[at:]
    return word[:at] + _ALIKE.get(word[at].lower(), word[at]) + word[at + 1 :]


def as_read(rng: Random, page: WordPage) -> WordPage:
    """The page as it may come from the reader: boxes of another height, wrong letters in words that are no answer."""
    answers = {number for asked in page.asked for span in asked.spans for number in range(span.first, span.last + 1)}
    rate, height = rng.choice((0.0, 0.0, 0.01, 0.04)), rng.uniform(0.7, 1.05)
    words = []
    for number, word in enumerate(page.words):
        text = word.text if number in answers else damage(rng, word.text, rate)
        words.append(PageWord(text, word.left, word.bottom - word.height * height, word.right, word.bottom))
    return replace(page, words=tuple(words))


def examples(rng: Random, pieces: WordPieces, config: MeaningConfig, worn: bool = True) -> list[Example]:
    """Examples from the next page.

    Args:
        rng: the generator to draw from.
        pieces: the tokenizer.
        config: of the page.
        worn: whether it is given as it may be read; False: as it is printed.
    """
    page = older_page(rng) if rng.random() < OLDER_SHARE else make_page(rng, config)
    scale = 1.0
    if worn:
        page, scale = as_read(rng, page), rng.uniform(0.9, 1.12)
    whole = pieces.page(page.words)
    read = whole[:PAGE_PIECES]
    out: list[Example] = []
    for asked in rng.sample(page.asked, len(page.asked)):
        if len(out) == PER_PAGE:
            break
        if asked.kind in _RARER and rng.random() > _RARER_SHARE:
            continue
        bounds = stands(asked.spans, whole)
        if asked.kind == "span" and (bounds is None or bounds[1] >= len(read)):
            continue
        question = reworded(rng, asked.question, asked.role, asked.sort)
        given = pieces.join(pieces.question(question), read)
        given = replace(given, places=given.places * np.float32(scale))
        first, last = (NO_PLACE, NO_PLACE) if bounds is None else (n + given.page_start for n in bounds)
        out.append(Example(given, first, last, KINDS.index(asked.kind)))
    return out


def stands(spans: Sequence[WordSpan], read: Sequence[Piece]) -> tuple[int, int] | None:
    """The first and the last piece of an answer; None where there is none, or other pieces lie between its parts.

    Args:
        spans: of the answer.
        read: the pieces of the page.
    """
    covered: set[int] = set()
    for span in spans:
        own = [number for number, piece in enumerate(read) if _is_inside(piece, span)]
        if not own:
            return None
        covered.update(own)
    if not covered or max(covered) - min(covered) + 1 != len(covered) or len(covered) > MOST_PIECES:
        return None
    return min(covered), max(covered)


def _is_inside(piece: Piece, span: WordSpan) -> bool:
    if not span.first <= piece.word <= span.last:
        return False
    return not (piece.word == span.first and piece.end <= span.start) and not (
        piece.word == span.last and piece.start >= span.end
    )


def collate(found: Sequence[Example]) -> Batch:
    """One batch."""
    shape = len(found), max(len(each.given.ids) for each in found)
    ids, sizes, starts, parts = (np.zeros(shape, np.int64) for _ in range(4))
    places, real = np.zeros((*shape, 3), np.float32), np.zeros(shape, bool)
    for row, each in enumerate(found):
        given, length = each.given, len(each.given.ids)
        ids[row, :length], sizes[row, :length], starts[row, :length] = given.ids, given.sizes, given.starts
        places[row, :length], real[row, :length] = given.places, True
        parts[row, given.page_start :] = 1
    first, last, kind = (np.array([getattr(e, name) for e in found]) for name in ("first", "last", "kind"))
    return Batch(ids, places, sizes, starts, parts, real, first, last, kind)


def batches(seed: int, pieces: WordPieces, tokens: int, pool: int = _POOL) -> Iterator[Batch]:
    """Endless batches, each of examples of about one length.

    Args:
        seed: same seed, same batches.
        pieces: the tokenizer.
        tokens: of a batch, about; those that fill up included.
        pool: so many examples are sorted by length before batches are cut from them.
    """
    rng, config = Random(seed), MeaningConfig()
    while True:
        found: list[Example] = []
        while len(found) < pool:
            found += examples(rng, pieces, config)
        found.sort(key=lambda each: len(each.given.ids) + rng.random() * 12)
        groups: list[list[Example]] = [[]]
        for each in found:
            if groups[-1] and (len(groups[-1]) + 1) * len(each.given.ids) > tokens:
                groups.append([])
            groups[-1].append(each)
        rng.shuffle(groups)
        yield from map(collate, groups)
