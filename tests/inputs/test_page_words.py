"""Words in the order of reading: rows, cells, and lengths in word heights, against pages made for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rave_mlx.inputs.lines.page_words import PageWord, arrange


def word(text, left, top, width=30.0, height=10.0):
    return PageWord(text, left, top, left + width, top + height)


def told(words):
    """The text: rows on lines, cells parted by |."""
    marks = {0: " ", 1: " | ", 2: "\n"}
    return "".join(marks[placed.starts] + words[placed.number].text for placed in arrange(words)).strip()


def table(seed, rows=5, columns=3):
    """A table with cells of one to three words, rows of different heights and slightly shifted baselines, in random
    order, and what is read."""
    rng = np.random.default_rng(seed)
    words, lines, top = [], [], 10.0
    for row in range(rows):
        height, cells = float(rng.uniform(8, 16)), []
        for column in range(columns):
            left, texts = 20.0 + 200 * column + rng.uniform(0, 8), []
            for number in range(rng.integers(1, 4)):
                texts.append(f"{row}{column}{number}")
                width = rng.uniform(1, 3) * height
                shift = rng.uniform(-0.15, 0.15) * height
                words.append(word(texts[-1], left, top + shift, width, height * rng.uniform(0.9, 1.1)))
                left += width + 0.35 * height
            cells.append(" ".join(texts))
        lines.append(" | ".join(cells))
        top += height * rng.uniform(1.3, 3)
    order = rng.permutation(len(words))
    return [words[i] for i in order], "\n".join(lines)


@pytest.mark.parametrize("seed", range(30))
def test_tables_are_read_row_by_row(seed):
    words, expected = table(seed)
    assert told(words) == expected


def test_a_label_stands_in_a_row_with_a_larger_value():
    words = [word("57.30", 200, 0, 90, 30), word("Total", 10, 16), word("due", 44, 16), word("Date", 10, 50)]
    assert told(words) == "Total due | 57.30\nDate"


@pytest.mark.parametrize(("shift", "rows"), [(0.0, 1), (4.9, 1), (5.1, 2), (-4.9, 1), (-5.1, 2)])
def test_words_that_share_half_their_height_stand_in_a_row(shift, rows):
    words = [word("a", 0, 20), word("b", 34, 20 + shift)]
    assert sum(placed.starts == 2 for placed in arrange(words)) == rows


@pytest.mark.parametrize(
    ("heights", "gap", "cells"),
    [
        ((10, 10), 8.7, 1), ((10, 10), 8.9, 2),  # 1.1 x 0.8 x 10
        ((10, 30), 26.3, 1), ((10, 30), 26.5, 2),  # of the higher one; the usual height is 20
        ((10, 10, 40, 40, 40), 26.3, 1), ((10, 10, 40, 40, 40), 26.5, 2),  # 1.1 x 0.6 of the usual height, 40
    ],
)  # fmt: skip
def test_the_white_that_parts_cells(heights, gap, cells):
    words = [PageWord("a", 0, 0, 30, heights[0]), PageWord("b", 30 + gap, 0, 60 + gap, heights[1])]
    words += [word("c", 0, 500 + 100 * i, 30, height) for i, height in enumerate(heights[2:])]
    found = {placed.number: placed.starts for placed in arrange(words)}
    assert found[0] == 2
    assert found[1] == cells - 1


def test_lengths_are_in_usual_word_heights():
    words = [word("a", 20, 100, 30, 10), word("b", 54, 98, 26, 14), word("c", 200, 102, 40, 10), word("d", 0, 300)]
    placed = {each.number: each for each in arrange(words)}
    # The first row is that of the word with the highest middle; its cells have the sides and the height of their words.
    assert [placed[n].row for n in range(4)] == [10.5, 10.5, 10.5, 30.5]
    assert [(placed[n].left, placed[n].right, placed[n].height) for n in range(4)] == [
        (2.0, 8.0, 1.4), (2.0, 8.0, 1.4), (20.0, 24.0, 1.0), (0.0, 3.0, 1.0),
    ]  # fmt: skip
    assert [placed[n].starts for n in range(4)] == [2, 0, 1, 2]


@pytest.mark.parametrize("factor", [0.25, 8.0, 0.37, 1 / 3])
def test_the_unit_does_not_matter(factor):
    words, _ = table(3)
    sides = ("left", "top", "right", "bottom")
    scaled = [replace(each, **{side: getattr(each, side) * factor for side in sides}) for each in words]
    before, after = arrange(words), arrange(scaled)
    assert [(p.number, p.starts) for p in after] == [(p.number, p.starts) for p in before]
    for a, b in zip(after, before, strict=True):
        assert (a.row, a.left, a.right, a.height) == pytest.approx((b.row, b.left, b.right, b.height), rel=1e-12)


def test_a_page_that_is_moved_down_moves_its_rows_only():
    words, expected = table(5)
    moved = [replace(each, top=each.top + 640, bottom=each.bottom + 640) for each in words]
    assert told(moved) == expected
    unit = float(np.median([each.bottom - each.top for each in words]))
    assert [b.row - a.row for a, b in zip(arrange(words), arrange(moved), strict=True)] == pytest.approx(
        [640 / unit] * len(words)
    )


def test_every_word_comes_once_in_rows_from_the_top():
    rng = np.random.default_rng(1)
    for _ in range(40):
        count = int(rng.integers(1, 60))
        corners, sizes = rng.uniform(0, 300, (count, 2)), rng.uniform(1, 40, (count, 2))
        words = [word(str(i), *corners[i], *sizes[i]) for i in range(count)]
        placed = arrange(words)
        assert sorted(each.number for each in placed) == list(range(count))
        assert placed[0].starts == 2
        for a, b in pairwise(placed):
            if b.starts == 2:
                assert b.row >= a.row
            else:
                assert b.row == a.row
                assert words[b.number].left >= words[a.number].left
            if b.starts == 0:
                assert (b.left, b.right, b.height) == (a.left, a.right, a.height)


def test_no_words_and_words_without_height():
    assert arrange([]) == []
    flat = [PageWord("a", 0, 5, 10, 5), PageWord("b", 20, 5, 30, 5)]
    assert sorted(placed.number for placed in arrange(flat)) == [0, 1]
