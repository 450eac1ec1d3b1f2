"""From scores to spans with probabilities, against every span of a page in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.models.finder.answer_spans import MOST_PIECES, Span, SpanScores, over_windows, read_spans
from rave_mlx.models.finder.word_pieces import Piece


def piece(word, start, end, starts=1):
    return Piece(5, word, start, end, (0.0, 0.0, 0.0), 1, starts)


def page(*lengths):
    """Words of so many pieces, two characters each, and the pieces; all of one cell."""
    words = ["".join(chr(97 + (n + i) % 26) + str(i) for i in range(count)) for n, count in enumerate(lengths)]
    pieces = [piece(n, 2 * i, 2 * i + 2) for n, count in enumerate(lengths) for i in range(count)]
    return [PageWord(text, 0, 0, 1, 1) for text in words], pieces


def softmax(scores):
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def every_span(first, last, start, pieces):
    """Probability of each span (first and last piece), and of none, by loops."""
    inside = [0, *range(start, start + len(pieces))]
    begins, ends = softmax([float(first[i]) for i in inside]), softmax([float(last[i]) for i in inside])
    table = {
        (a, b): begins[a + 1] * ends[b + 1]
        for a in range(len(pieces))
        for b in range(a, len(pieces))
        if b - a < MOST_PIECES and not any(piece.starts == 2 for piece in pieces[a + 1 : b + 1])
    }
    none = begins[0] * ends[0]
    total = none + sum(table.values())
    return {span: value / total for span, value in table.items()}, none / total


def text_of(a, b, pieces, words):
    """What a span says: whole words, but for the pieces that the first and the last one lack."""
    out, numbers = [], []
    for number in range(pieces[a].word, pieces[b].word + 1):
        own = [p for p in pieces[a : b + 1] if p.word == number]
        out.append(words[number].text[own[0].start : own[-1].end])
        numbers.append(number)
    return " ".join(out), tuple(numbers)


def scores(seed, pieces, question=4):
    rng = np.random.default_rng(seed)
    first, last = rng.normal(0, 2, (2, question + 2 + len(pieces) + 1)).astype(np.float32)
    return first, last, question + 2


@pytest.mark.parametrize("seed", range(20))
def test_the_likeliest_spans_of_all(seed):
    rng = np.random.default_rng(100 + seed)
    words, pieces = page(*rng.integers(1, 4, rng.integers(6, 14)))
    pieces = [replace(p, starts=1 if p.start else int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))) for p in pieces]
    first, last, start = scores(seed, pieces)
    table, absent = every_span(first, last, start, pieces)
    assert len(table) > 8
    found = read_spans(first, last, start, pieces, words)
    expected = sorted(table.items(), key=lambda item: -item[1])[:8]
    assert [(span.text, span.words) for span in found.spans] == [text_of(*key, pieces, words) for key, _ in expected]
    assert [span.probability for span in found.spans] == pytest.approx([value for _, value in expected], rel=1e-9)
    assert found.absent == pytest.approx(absent, rel=1e-9)


@pytest.mark.parametrize("lengths", [(1,), (2,), (1, 1), (2, 1), (1, 1, 1)])
def test_all_spans_of_a_small_page_and_none_sum_to_1(lengths):
    words, pieces = page(*lengths)
    found = read_spans(*scores(3, pieces), pieces, words)
    assert len(found.spans) == len(pieces) * (len(pieces) + 1) // 2
    assert sum(span.probability for span in found.spans) + found.absent == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(("last_piece", "allowed"), [(MOST_PIECES - 1, True), (MOST_PIECES, False)])
def test_the_longest_span(last_piece, allowed):
    words, pieces = page(*[1] * 70)
    first, last = np.zeros((2, 74), np.float32)
    first[3], last[3 + last_piece] = 20, 20
    found = read_spans(first, last, 3, pieces, words)
    best = found.spans[0]
    assert (best.words == tuple(range(last_piece + 1))) == allowed
    assert (best.probability > 0.9) == allowed
    assert max(len(span.words) for span in found.spans) <= MOST_PIECES


def test_ends_before_beginnings_are_no_spans():
    words, pieces = page(1, 1, 1)
    first, last = np.full((2, 6), -30, np.float32)
    first[2 + 2], last[2 + 0] = 5, 5
    first[0] = last[0] = 0
    found = read_spans(first, last, 2, pieces, words)
    assert found.absent == pytest.approx(1, abs=1e-6)


def test_two_cells_of_a_row_are_no_answer_and_two_rows_may_be():
    words, _ = page(1, 1, 1, 1)
    pieces = [piece(number, 0, 2, starts) for number, starts in enumerate((3, 2, 3, 1))]
    found = read_spans(np.ones(7, np.float32), np.ones(7, np.float32), 2, pieces, words)
    assert {span.words for span in found.spans} == {(0,), (1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3)}
    assert found.absent == pytest.approx(1 / 8)


def test_spans_that_are_equally_likely():
    """6 spans and none: a seventh each."""
    words, pieces = page(1, 1, 1)
    found = read_spans(np.ones(6, np.float32), np.ones(6, np.float32), 2, pieces, words)
    assert [span.probability for span in found.spans] == pytest.approx([1 / 7] * 6)
    assert {span.words for span in found.spans} == {(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)}
    assert found.absent == pytest.approx(1 / 7)


def test_scores_of_question_and_separators_do_not_count():
    words, pieces = page(2, 1)
    first, last, start = scores(1, pieces)
    plain = read_spans(first, last, start, pieces, words)
    for each in (first, last):
        each[1:start] = 90
        each[start + len(pieces) :] = 90
    assert read_spans(first, last, start, pieces, words) == plain


def test_one_letter_in_two_pieces_is_one_answer():
    """Pieces with the same characters: spans with the same text are one, with the sum of their probabilities."""
    words, pieces = [PageWord("€", 0, 0, 1, 1)], [piece(0, 0, 1), piece(0, 0, 1)]
    found = read_spans(np.zeros(5, np.float32), np.zeros(5, np.float32), 2, pieces, words)
    assert found == SpanScores((Span("€", (0,), pytest.approx(3 / 4)),), pytest.approx(1 / 4))


def test_large_scores_do_not_overflow():
    words, pieces = page(1, 1)
    found = read_spans(*np.full((2, 5), 3e4, np.float32), 2, pieces, words)
    assert found.absent == pytest.approx(1 / 4)
    first = np.array([-3e4, 0, 3e4, -3e4, 0], np.float32)
    found = read_spans(first, first, 2, pieces, words)
    assert found.spans[0] == Span("a0", (0,), pytest.approx(1))
    assert found.absent == 0


def test_a_page_without_pieces_has_no_answer():
    assert read_spans(*np.zeros((2, 4), np.float32), 3, [], []) == SpanScores((), 1.0)


def test_windows_that_share_an_answer():
    """Odds against none: 0.6 / 0.4 = 1.5 and 0.5 / 0.5 = 1; with none, 3.5 in sum."""
    a, b = Span("a", (0,), 0.6), Span("b", (7,), 0.5)
    found = over_windows([SpanScores((b,), 0.5), SpanScores((a,), 0.4)])
    assert [(span.text, span.words) for span in found.spans] == [("a", (0,)), ("b", (7,))]
    assert [span.probability for span in found.spans] == pytest.approx([1.5 / 3.5, 1 / 3.5])
    assert found.absent == pytest.approx(1 / 3.5)
    # The same words in both: the better of the two. The same text elsewhere is another answer.
    again, other = Span("a", (0,), 0.2), Span("a", (9,), 0.4)
    found = over_windows([SpanScores((a,), 0.4), SpanScores((again, other), 0.4)])
    assert [(span.words, span.probability) for span in found.spans] == [
        ((0,), pytest.approx(1.5 / 3.5)), ((9,), pytest.approx(1 / 3.5)),
    ]  # fmt: skip


def test_windows_without_a_shared_word_are_one_page():
    """Two pages that are small enough for all spans: one of all of them, or none, and each page's own odds stay."""
    parts = []
    for seed in (1, 2):
        words, pieces = page(1, 1)
        words = [PageWord(f"{seed}{word.text}", 0, 0, 1, 1) for word in words]
        pieces = [piece(p.word, p.start, p.end + 1) for p in pieces]
        parts.append(read_spans(*scores(seed, pieces), pieces, words))
    found = over_windows(parts)
    assert sum(span.probability for span in found.spans) + found.absent == pytest.approx(1, rel=1e-12)
    own = {span.text: span.probability for span in found.spans}
    for part in parts:
        for span in part.spans:
            assert own[span.text] / found.absent == pytest.approx(span.probability / part.absent, rel=1e-9)


def test_one_window_is_left_as_it_is():
    only = SpanScores((Span("a", (0,), 0.3),), 0.2)
    assert over_windows([only]) is only


def test_a_window_that_is_certain_divides_by_nothing():
    found = over_windows([SpanScores((Span("a", (0,), 1.0),), 0.0), SpanScores((), 1.0)])
    assert found.spans[0].probability == pytest.approx(1, abs=2e-6)
    assert 0 < found.absent < 2e-6
