"""Cells of printed lines: pieces that wide gaps part, against ink whose place is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from rave_mlx.inputs.lines import cells, page_lines
from rave_mlx.inputs.lines.cells import PageInk, _cells, split_into_cells, stretches
from rave_mlx.inputs.lines.page_lines import PageLine, find_lines


def drawn(texts, size=(600, 300), font=16):
    """A page with texts at (x, y), and the box of the ink of each."""
    image = Image.new("RGB", size, "white")
    letters, boxes = ImageFont.load_default(font), []
    for x, y, text in texts:
        alone = Image.new("L", size)
        ImageDraw.Draw(image).text((x, y), text, fill="black", font=letters)
        ImageDraw.Draw(alone).text((x, y), text, fill=255, font=letters)
        boxes.append(alone.point(lambda grey: 255 * (grey > 80)).getbbox())
    return image, boxes


def blocks(*sides, height=20, width=200):
    """Full blocks of ink from one column to another."""
    ink = np.zeros((height, width), bool)
    for first, behind in sides:
        ink[:, first:behind] = True
    return ink


def boxes(ink, scale=1.0):
    """The cells of ink that is one line."""
    height, width = (side / scale for side in ink.shape)
    return [cell.box for cell in _cells(PageInk(ink, scale), PageLine((0, 0, width, height), 3))]


ROWS = [("Article", "Number", "Price"), ("Green tea", "2", "3.40"), ("Apple pie", "1", "2.80")]
TABLE = [
    (x, 20 + 32 * row, text)
    for row, texts in enumerate(ROWS)
    for x, text in zip((20, 250, 420), texts, strict=True)
]  # fmt: skip


def near(found, expected, most=1.0):
    return np.abs(np.array(found) - np.array(expected)).max() <= most


def test_stretches_are_the_runs_of_a_row():
    rng = np.random.default_rng(0)
    for _ in range(50):
        marks = rng.random(rng.integers(0, 30)) < 0.5
        text = "".join("x" if mark else " " for mark in marks)
        expected, at = [], 0
        for word in text.split():
            at = text.index(word, at)
            expected.append((at, at + len(word)))
            at += len(word)
        assert stretches(marks) == expected


def test_a_gap_of_more_than_1_3_heights_parts_cells():
    assert boxes(blocks((0, 40), (66, 200))) == [(0, 0, 200, 20)]
    assert boxes(blocks((0, 40), (67, 200))) == [(0, 0, 40, 20), (67, 0, 200, 20)]
    assert boxes(blocks((0, 40), (60, 80), (120, 130), (180, 200))) == [
        (0, 0, 80, 20), (120, 0, 130, 20), (180, 0, 200, 20),
    ]  # fmt: skip


def test_the_cells_of_reduced_ink_are_in_pixels_of_the_page():
    assert boxes(blocks((0, 40), (67, 200)), 0.5) == [(0, 0, 80, 40), (134, 0, 400, 40)]


def test_a_cell_is_as_high_as_its_ink_unless_that_is_a_dash():
    ink = blocks((0, 40))
    ink[4:17, 100:140] = True  # 13 of 20 rows
    ink[9:11, 180:190] = True  # a dash
    assert boxes(ink) == [(0, 0, 40, 20), (100, 4, 140, 17), (180, 0, 190, 20)]


@pytest.mark.parametrize(("marks", "count"), [(5, 1), (6, 2)])
def test_specks_are_no_cells(marks, count):
    ink = blocks((0, 40), width=100)
    ink[3, 80 : 80 + marks] = True
    assert len(boxes(ink)) == count


def test_a_line_without_ink_stays():
    assert boxes(blocks()) == [(0, 0, 200, 20)]
    assert boxes(np.zeros((0, 0), bool)) == [(0, 0, 0, 0)]


def test_rows_of_a_table_come_in_cells():
    image, truth = drawn(TABLE)
    found, _ = split_into_cells(find_lines(image))
    assert len(found.lines) == len(TABLE)
    assert all(near(line.box, box) for line, box in zip(found.lines, truth, strict=True))
    assert found.image is not None and found.turned == 0


def test_running_text_stays_whole():
    image, truth = drawn([(20, 20, "Some words of running text: they stand near together."), (20, 50, "And more.")])
    found, _ = split_into_cells(find_lines(image))
    assert [near(line.box, box) for line, box in zip(found.lines, truth, strict=True)] == [True, True]


@pytest.mark.parametrize("thick", [1, 2])
def test_ruled_boxes_do_not_glue_cells(thick):
    image, truth = drawn(TABLE)
    draw = ImageDraw.Draw(image)
    for y in (12, 44, 76, 110):
        draw.line([(8, y), (560, y)], fill="black", width=thick)
    for x in (8, 230, 400, 560):
        draw.line([(x, 12), (x, 110)], fill="black", width=thick)
    found, _ = split_into_cells(find_lines(image))
    assert len(found.lines) == len(TABLE)
    assert all(near(line.box, box) for line, box in zip(found.lines, truth, strict=True))


def test_cells_of_a_page_that_is_looked_at_in_a_smaller_size(monkeypatch):
    for module in (cells, page_lines):
        monkeypatch.setattr(module, "MOST_PIXELS", 180_000)
    image, truth = drawn([(2 * x, 2 * y, text) for x, y, text in TABLE], (1200, 600), 32)
    found, ink = split_into_cells(find_lines(image))
    assert ink.scale == 0.5
    assert ink.ink.shape == (300, 600)
    assert len(found.lines) == len(TABLE)
    assert all(near(line.box, box, 2) for line, box in zip(found.lines, truth, strict=True))
    # The ink within a cell is that cell's: its first and last columns have marks.
    for line in found.lines:
        columns = np.flatnonzero(ink.within(line.box).any(axis=0))
        assert columns[0] <= 1 and columns[-1] >= ink.within(line.box).shape[1] - 2


def test_marks_outside_the_page_are_none():
    ink = PageInk(blocks((0, 200)), 1.0)
    assert ink.within((-20, -5, 10, 8)).shape == (8, 10)
    assert ink.within((190, 15, 300, 90)).shape == (5, 10)
    assert ink.within((300, 30, 310, 40)).size == 0
