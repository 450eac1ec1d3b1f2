"""Pages as words, with questions and the words of their answers; nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.synthetic.meaning import MeaningConfig
from rave_mlx.synthetic.meaning.document import LaidOut, lay_out_page
from rave_mlx.synthetic.meaning.facts import Stretch, stretches, text_of
from rave_mlx.synthetic.meaning.sight import Candidate
from rave_mlx.synthetic.sheet import NO_LINE

READ_OFF = ("value", "entry", "extreme", "which")
"""Kinds of questions whose answers are words of the page."""
LEAST_WORDS, MOST_WORDS = 2, 230
"""Words of a page; others are not trained on."""

Marks = dict[tuple[int, int], tuple[int, int]]
"""Number of a word and place in it, for a character of a run: (run, character)."""


@dataclass(frozen=True)
class WordSpan:
    """Words `first` to `last` of a page, from character `start` of the first up to character `end` of the last."""

    first: int
    start: int
    last: int
    end: int


@dataclass(frozen=True)
class Asked:
    """A question about a page.

    Attributes:
        question: its text.
        kind: what it asks for, one of `models.finder.config.KINDS`.
        answer: as the generator has it.
        spans: where that stands, for kind "span": more than one where it stands in several places.
        sort: kind of the question as the generator has it.
        role: what is asked for.
    """

    question: str
    kind: str
    answer: str
    spans: tuple[WordSpan, ...]
    sort: str
    role: str


@dataclass(frozen=True)
class WordPage:
    """A page: its words in the order they were written, questions, and the name of its layout."""

    words: tuple[PageWord, ...]
    asked: tuple[Asked, ...]
    layout: str


def make_page(rng: Random, config: MeaningConfig) -> WordPage:
    """The next page that is neither empty nor too long.

    Args:
        rng: the generator to draw from.
        config: what to write; `rounds` says how often the page is asked anew.
    """
    while True:
        laid = lay_out_page(rng, config)
        words, marks = _words(laid)
        if LEAST_WORDS <= len(words) <= MOST_WORDS:
            break
    found = (_asked(candidate, laid, marks) for candidate in laid.asked)
    return WordPage(tuple(words), tuple(each for each in found if each is not None), laid.layout)


def said(words: Sequence[PageWord], spans: Sequence[WordSpan]) -> str:
    """The text of an answer, one space between words.

    Args:
        words: of the page.
        spans: of the answer.
    """
    parts = []
    for span in spans:
        for number in range(span.first, span.last + 1):
            text = words[number].text[: span.end if number == span.last else None]
            parts.append(text[span.start if number == span.first else 0 :])
    return " ".join(parts)


def _words(laid: LaidOut) -> tuple[list[PageWord], Marks]:
    """The words that can be read, and which character of the sheet is which of theirs."""
    words: list[PageWord] = []
    marks: Marks = {}
    width, height = laid.places.size
    for number, run in enumerate(laid.paper.sheet.runs):
        if run.line == NO_LINE:
            continue
        end = 0
        for text in run.text.split():
            start = run.text.index(text, end)
            end = start + len(text)
            stretch = Stretch(number, start, end)
            sight = laid.places.sight(stretch)
            left, top, right, bottom = box = laid.places.box(stretch)
            # Of words that the edge cuts, those are read of which it leaves most.
            if sight == 1 or (sight > 0 and 0 <= (left + right) / 2 < width and 0 <= (top + bottom) / 2 < height):
                marks.update({(number, start + k): (len(words), k) for k in range(len(text))})
                words.append(PageWord(text, *box))
    return words, marks


def _asked(candidate: Candidate, laid: LaidOut, marks: Marks) -> Asked | None:
    """A question with the words of its answer; None where they are not words of the page, or in part only."""
    answer, spans = text_of(candidate.answer, laid.paper.sheet.runs), []
    kind = {"yesno": answer}.get(candidate.kind, candidate.kind)
    if candidate.kind in READ_OFF:
        kind = "span"
        for stretch in stretches(candidate.answer):
            span = _span(stretch, laid, marks)
            if span is None:
                return None
            spans.append(span)
        if not spans:
            return None
    return Asked(candidate.text, kind, answer, tuple(spans), candidate.kind, candidate.role)


def _span(stretch: Stretch, laid: LaidOut, marks: Marks) -> WordSpan | None:
    """The words of a stretch, white at its ends left out."""
    text = laid.paper.sheet.runs[stretch.run].text[stretch.start : stretch.end]
    start = stretch.start + len(text) - len(text.lstrip())
    end = stretch.start + len(text.rstrip())
    first, last = marks.get((stretch.run, start)), marks.get((stretch.run, end - 1))
    if start >= end or first is None or last is None:
        return None
    return WordSpan(*first, last[0], last[1] + 1)
