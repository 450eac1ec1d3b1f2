"""Words of a line: where they stand, against drawn lines and against every choice of gaps."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from rave_mlx.inputs.lines.cells import stretches
from rave_mlx.inputs.lines.line_words import _choose, word_spans

LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIKLMNOPRSTUVWZ0123456789")


def line(seed, space, font=24, most=7):
    """Ink of a drawn line of random words with white between them (in heights of the font), the words, and the columns
    of each one's ink."""
    rng = np.random.default_rng(seed)
    letters = ImageFont.load_default(font)
    words = ["".join(rng.choice(LETTERS, rng.integers(1, 10))) for _ in range(rng.integers(2, most + 1))]
    image = Image.new("L", (60 * font, 3 * font), 255)
    x, truth = 10.0, []
    for word in words:
        alone = Image.new("L", image.size, 255)
        for each in (image, alone):
            ImageDraw.Draw(each).text((round(x), font), word, fill=0, font=letters)
        columns = np.flatnonzero((np.asarray(alone) < 160).any(axis=0))
        truth.append((columns[0], columns[-1] + 1))
        x = columns[-1] + 1 + font * space * rng.uniform(1, 1.3)
    ink = np.asarray(image) < 160
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return ink, words, np.array(truth) - columns[0]


@pytest.mark.parametrize(("space", "share"), [(0.28, 0.95), (0.45, 0.99), (0.8, 1.0)])
def test_spans_cover_the_ink_of_each_word(space, share):
    right = total = 0
    for seed in range(60):
        ink, words, truth = line(seed, space)
        found = np.array(word_spans(ink, words))
        assert found.shape == truth.shape
        right += int((np.abs(found - truth).max(axis=1) == 0).sum())
        total += len(words)
    assert right >= share * total


def test_readings_that_leave_a_letter_out_move_hardly_a_word():
    right = total = 0
    for seed in range(40):
        ink, words, truth = line(seed, 0.5)
        read = [word[:-1] if len(word) > 4 else word for word in words]
        right += int((np.abs(np.array(word_spans(ink, read)) - truth).max(axis=1) == 0).sum())
        total += len(words)
    assert right >= 0.97 * total


def test_the_spans_of_enlarged_ink_are_enlarged():
    for seed in range(10):
        ink, words, _ = line(seed, 0.3, font=14)
        expected = np.array(word_spans(ink, words))
        for factor in (2, 3):
            large = ink.repeat(factor, axis=0).repeat(factor, axis=1)
            np.testing.assert_allclose(word_spans(large, words), factor * expected)


def test_spans_are_in_order_and_within_the_line():
    rng = np.random.default_rng(3)
    for _ in range(200):
        ink = rng.random((rng.integers(1, 12), rng.integers(1, 80))) < rng.uniform(0, 0.3)
        words = ["x" * int(n) for n in rng.integers(1, 8, rng.integers(1, 7))]
        sides = np.array(word_spans(ink, words)).ravel()
        assert len(sides) == 2 * len(words)
        assert (np.diff(sides) >= 0).all()
        assert sides[0] >= 0 and sides[-1] <= ink.shape[1]


def test_without_enough_gaps_letters_are_equally_wide():
    assert word_spans(np.ones((10, 90), bool), ["ab", "c"]) == [(0, 45), (67.5, 90)]
    assert word_spans(np.zeros((0, 60), bool), ["a", "b", "cc"]) == [(0, 10), (20, 30), (40, 60)]


def test_white_at_the_sides_is_no_space():
    ink = np.zeros((10, 90), bool)
    ink[:, 10:80] = True
    assert word_spans(ink, ["ab", "c"]) == [(0, 45), (67.5, 90)]


def test_one_word_is_the_line():
    assert word_spans(np.eye(20, dtype=bool), ["word"]) == [(0, 20)]


def cost(gaps, height, width, letters):
    """What is made small, by the docstring's and constants' words: how much words differ from the width of their
    letters, less what wide gaps gain."""
    spaces = len(letters) - 1
    widths = sorted((b - a for a, b in gaps["all"]), reverse=True)
    letter = (width - sum(widths[:spaces])) / sum(letters)
    starts, ends = [0, *(b for _, b in gaps["taken"])], [*(a for a, _ in gaps["taken"]), width]
    total = 0.0
    for start, end, count in zip(starts, ends, letters, strict=True):
        total += ((end - start - count * letter) / (0.35 * count * letter + 0.35 * height)) ** 2
    return total - sum(1.2 * min((b - a) / height, 1.5) for a, b in gaps["taken"])


def test_no_choice_of_gaps_is_better():
    rng = np.random.default_rng(4)
    several = 0
    for _ in range(150):
        columns = rng.random(rng.integers(20, 70)) < 0.6
        columns[[0, -1]] = True
        gaps, height = stretches(~columns), int(rng.integers(4, 20))
        letters = [int(n) for n in rng.integers(1, 9, min(len(gaps), int(rng.integers(1, 5))) + 1)]
        if len(letters) < 2:
            continue
        chosen = tuple(map(tuple, _choose(np.array(gaps, float), height, len(columns), letters)))
        choices = list(combinations(gaps, len(letters) - 1))
        several += len(choices) > 20
        costs = [cost({"all": gaps, "taken": taken}, height, len(columns), letters) for taken in choices]
        assert chosen in choices
        assert costs[choices.index(chosen)] == pytest.approx(min(costs), rel=1e-9, abs=1e-9)
    assert several > 50
