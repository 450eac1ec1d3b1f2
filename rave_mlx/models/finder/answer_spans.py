"""From a finder's scores to the words that answer a question, with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.models.finder.word_pieces import NEXT_CELL, Piece

MOST_PIECES = 48
"""Word pieces of the longest answer."""
_KEPT = 8
"""Spans of a page that are looked at."""


@dataclass(frozen=True)
class Span:
    """Words of a page that may answer a question.

    Attributes:
        text: what they say, one space between words.
        words: numbers of the words.
        probability: that they are the answer, where it is one on this page or nothing.
    """

    text: str
    words: tuple[int, ...]
    probability: float


@dataclass(frozen=True)
class SpanScores:
    """The spans of one page, the likeliest first, and the probability that none of them is the answer."""

    spans: tuple[Span, ...]
    absent: float


def read_spans(
    first: NDArray[np.float32],
    last: NDArray[np.float32],
    page_start: int,
    page: Sequence[Piece],
    words: Sequence[PageWord],
) -> SpanScores:
    """The likeliest spans of a page: whole rows may follow each other, but no two cells of a row are one answer.

    Args:
        first, last: (L,) scores of where an answer begins and ends; those of token 0 mean that there is none.
        page_start: the first token of the page.
        page: its pieces, in order.
        words: its words.
    """
    behind = page_start + len(page)
    inside = slice(page_start, behind)
    begins, ends = (np.concatenate([scores[:1], scores[inside]]).astype(np.float64) for scores in (first, last))
    begins, ends = (scores - _log_sum(scores) for scores in (begins, ends))
    table = begins[1:, None] + ends[None, 1:]
    distance = np.subtract.outer(np.arange(len(page)), np.arange(len(page)))
    cells = np.cumsum([piece.starts == NEXT_CELL for piece in page])
    one_cell = np.subtract.outer(cells, cells) == 0
    table = np.where((distance <= 0) & (distance > -MOST_PIECES) & one_cell, table, -np.inf)
    none = begins[0] + ends[0]
    total = _log_sum(np.append(table.ravel(), none))
    best = np.argsort(table, axis=None)[::-1][:_KEPT]
    found: dict[tuple[str, tuple[int, ...]], float] = {}
    for flat in best.tolist():
        start, stop = divmod(flat, len(page))
        if not np.isfinite(table[start, stop]):
            continue
        span = _words_of(page[start : stop + 1], words)
        found[span] = found.get(span, 0.0) + float(np.exp(table[start, stop] - total))
    spans = [Span(text, numbers, probability) for (text, numbers), probability in found.items() if text]
    spans.sort(key=lambda span: -span.probability)
    return SpanScores(tuple(spans), float(np.exp(none - total)))


def over_windows(windows: Sequence[SpanScores]) -> SpanScores:
    """The spans of a page that was read in windows, or of several pages: one of them holds the answer, or none.

    Args:
        windows: of each the probabilities where it is the only one.
    """
    if len(windows) == 1:
        return windows[0]
    odds: dict[tuple[str, tuple[int, ...]], float] = {}
    for window in windows:
        for span in window.spans:
            key = span.text, span.words
            # A span that two windows hold is one answer.
            odds[key] = max(odds.get(key, 0.0), span.probability / max(1e-6, window.absent))
    total = 1.0 + sum(odds.values())
    spans = [Span(text, numbers, value / total) for (text, numbers), value in odds.items()]
    spans.sort(key=lambda span: -span.probability)
    return SpanScores(tuple(spans), 1.0 / total)


def _words_of(pieces: Sequence[Piece], words: Sequence[PageWord]) -> tuple[str, tuple[int, ...]]:
    """The text of pieces, and the numbers of their words."""
    numbers = tuple(dict.fromkeys(piece.word for piece in pieces))
    texts = []
    for number in numbers:
        own = [piece for piece in pieces if piece.word == number]
        cut = number in (numbers[0], numbers[-1])
        texts.append(words[number].text[own[0].start : own[-1].end] if cut else words[number].text)
    return " ".join(texts), numbers


def _log_sum(scores: NDArray[np.float64]) -> float:
    top = float(scores.max())
    return top + float(np.log(np.exp(scores - top).sum()))
