"""The words of a page as the built-in model reads them: what they say, where they stand, how certain they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import rave_mlx
from rave_mlx.generation.job import Answer
from rave_mlx.inputs.lines.page_words import PageWord, arrange
from rave_mlx.policies.rereading.read_words import ReadWord, _certain_words, read_words

INSTRUCTION = "Read the first line."
TEXTS = [
    (20, 15, "Harbour"), (93, 15, "Cafe"), (20, 50, "Total"), (250, 50, "13.60"), (20, 85, "Date"),
    (250, 85, "4.5.2021"),
]  # fmt: skip


def drawn(texts, size=(420, 130), font=18):
    """A page with words at (x, y), and the box of the ink of each."""
    image, boxes = Image.new("RGB", size, "white"), []
    for x, y, text in texts:
        alone = Image.new("L", size)
        for each, ink in ((image, "black"), (alone, 255)):
            ImageDraw.Draw(each).text((x, y), text, fill=ink, font=ImageFont.load_default(font))
        boxes.append(alone.point(lambda grey: 255 * (grey > 80)).getbbox())
    return image, boxes


@pytest.fixture(scope="module")
def lmm():
    return rave_mlx.load()


@pytest.fixture(scope="module")
def page():
    return drawn(TEXTS)


@pytest.fixture(scope="module")
def read(lmm, page):
    return read_words(lmm, page[0], INSTRUCTION, None)


def test_words_are_read_where_they_stand(read, page):
    assert [each.word.text for each in read] == [text for _, _, text in TEXTS]
    for each, (left, top, right, bottom) in zip(read, page[1], strict=True):
        word = each.word
        assert (word.left, word.right) == (pytest.approx(left, abs=1.5), pytest.approx(right, abs=1.5))
        # From top to bottom a word is as high as its cell.
        assert top - 6 <= word.top <= top + 1.5
        assert bottom - 1.5 <= word.bottom <= bottom + 6


def test_certainties_are_probabilities(read):
    assert all(0 < each.certainty <= 1 for each in read)
    assert min(each.certainty for each in read) > 0.5


def test_rows_and_cells_of_the_page(read):
    assert [placed.starts for placed in arrange([each.word for each in read])] == [2, 0, 2, 1, 2, 1]


def test_a_page_that_leans_is_read_level(lmm, page):
    leaning = drawn([(x + 40, y + 40, text) for x, y, text in TEXTS], (520, 230))[0]
    leaning = leaning.rotate(1.5, Image.Resampling.BICUBIC, fillcolor="white")
    found = read_words(lmm, leaning, INSTRUCTION, None)
    assert [each.word.text for each in found] == [text for _, _, text in TEXTS]
    assert [placed.starts for placed in arrange([each.word for each in found])] == [2, 0, 2, 1, 2, 1]


def test_a_page_without_text_has_no_words(lmm):
    assert read_words(lmm, Image.new("RGB", (300, 200), "white"), INSTRUCTION, None) == ()


def test_a_word_of_the_second_page_stands_lower():
    moved = ReadWord(PageWord("a", 1, 2, 3, 4), 0.5).moved_down(100)
    assert moved == ReadWord(PageWord("a", 1, 102, 3, 104), 0.5)


@dataclass(frozen=True)
class Letters:
    """What `_certain_words` asks of a model, whose tokens are the bytes of a text, 0 its end."""

    stop: tuple[int, ...] = (0,)

    @property
    def config(self):
        return self

    tokens = tokenizer = config

    def stream(self):
        return self

    def add(self, token):
        return chr(token)

    def finish(self):
        return ""


def certain(text, probabilities):
    ids = (*map(ord, text), 0)
    answer = Answer(0, text, ids, np.array(probabilities, np.float32))
    return [(word, round(value, 4)) for word, value in _certain_words(Letters(), answer)]


def test_a_word_is_as_certain_as_its_least_letter():
    """And as the token behind it, which says that the word ends there."""
    #        a    b    _    c    end
    sure = [0.9, 0.8, 0.7, 0.6, 0.5]
    assert certain("ab c", sure) == [("ab", 0.7), ("c", 0.5)]
    assert certain("ab c", [0.3, 0.9, 0.9, 0.9, 0.9]) == [("ab", 0.3), ("c", 0.9)]
    # The space before a word is the one behind the word before.
    assert certain("ab c", [0.9, 0.9, 0.2, 0.9, 0.9]) == [("ab", 0.2), ("c", 0.9)]
    assert certain("aa a", [0.9, 0.8, 0.7, 0.6, 0.5]) == [("aa", 0.7), ("a", 0.5)]
    assert certain("  a ", [0.1, 0.1, 0.9, 0.8, 0.1]) == [("a", 0.8)]
    assert certain("", [0.4]) == []


def test_an_answer_that_was_cut_has_certain_words():
    answer = Answer(0, "ab c", tuple(map(ord, "ab c")), np.array([0.9, 0.8, 0.7, 0.6], np.float32))
    assert [(word, round(value, 4)) for word, value in _certain_words(Letters(), answer)] == [("ab", 0.7), ("c", 0.6)]


def test_words_of_letters_in_several_tokens(lmm):
    """The built-in model writes bytes: a word with an umlaut has more tokens than letters."""
    parts = [lmm.tokenizer.encode(text, first=False)[0] for text in ("Bär ", "5€ ", "x")]
    ids = (*parts[0], *parts[1], *parts[2], lmm.config.tokens.stop[0])
    assert [len(part) for part in parts] == [5, 5, 1]
    for at, word in enumerate(["Bär"] * 5 + ["5€"] * 5 + ["x"] * 2):
        probabilities = np.full(len(ids), 0.9, np.float32)
        probabilities[at] = 0.2
        found = dict(_certain_words(lmm, Answer(0, "Bär 5€ x", ids, probabilities)))
        assert list(found) == ["Bär", "5€", "x"]
        assert [name for name, value in found.items() if value < 0.5] == [word]
