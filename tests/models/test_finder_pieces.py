"""Question and page as word pieces: characters, places and classes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from finders import SPECIAL, VOCABULARY, write_tokenizer

from rave_mlx.errors import ModelError
from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.models.finder.word_pieces import WordPieces

CLS, SEP, UNKNOWN = (SPECIAL.index(name) for name in ("[CLS]", "[SEP]", "[UNK]"))


def word(text, left=0.0, top=0.0, width=30.0, height=10.0):
    return PageWord(text, left, top, left + width, top + height)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return WordPieces(write_tokenizer(tmp_path_factory.mktemp("pieces") / "tokenizer.json"))


@pytest.mark.parametrize("text", ["Total:", "INVOICE", "13.60", "Straße", "Élan", "50€", "a-b/c", "Ørsted", "doing"])
def test_pieces_are_the_characters_of_their_word(pieces, text):
    found = pieces.page([word(text)])
    assert [(a.end, b.start) for a, b in pairwise(found)] == [(p.end, p.end) for p in found[:-1]]
    assert (found[0].start, found[-1].end) == (0, len(text))
    plain = text.lower().replace("é", "e")  # BERT's uncased text has no accents
    assert [VOCABULARY[p.id].removeprefix("##") for p in found] == [plain[p.start : p.end] for p in found]


def test_the_longest_pieces_are_taken(pieces):
    texts = [[VOCABULARY[p.id] for p in pieces.page([word(text)])] for text in ("invoice", "total", "totals", "Ж")]
    assert texts == [["in", "##voice"], ["total"], ["total", "##s"], ["[UNK]"]]


def test_pieces_come_in_the_order_of_reading_with_their_place(pieces):
    words = [word("3.40", 200, 100, 40), word("the", 20, 60, 30), word("tea", 54, 100, 26, 14), word("in", 20, 102)]
    found = pieces.page(words)
    assert list(dict.fromkeys(p.word for p in found)) == [1, 3, 2, 0]
    # 3 begins a row, 2 a cell; the middle of a cell and every further piece of a word have 1.
    assert [(p.word, p.starts) for p in found] == [
        (1, 3), (3, 3), (2, 1), (2, 1), (2, 1), (0, 2), (0, 1), (0, 1), (0, 1),
    ]  # fmt: skip
    places = {p.word: p.place for p in found}
    assert places[1] == (6.5, 2.0, 5.0)
    assert places[3] == places[2] == (places[0][0], 2.0, 8.0)
    assert places[0][1:] == (20.0, 24.0)


@pytest.mark.parametrize(
    ("height", "size"),
    [(6.9, 1), (7.0, 2), (8.9, 2), (10.0, 3), (11.1, 3), (12, 4), (14, 5), (20, 6), (23, 7), (90, 7)],
)
def test_classes_of_a_height(pieces, height, size):
    words = [word(str(i), 0, 200 * i) for i in range(4)] + [word("a", 0, 1000, height=height)]
    assert pieces.page(words)[-1].size == size


def test_what_the_network_reads(pieces):
    asked = pieces.question("What is the total")
    assert [VOCABULARY[i] for i in asked] == ["what", "is", "the", "total"]
    page = pieces.page([word("invoice"), word("5", 500)])
    given = pieces.join(asked, page)
    assert given.ids.tolist() == [CLS, *asked, SEP, *(VOCABULARY.index(p) for p in ("in", "##voice", "5")), SEP]
    assert given.page_start == 6
    assert given.starts.tolist() == [0] * 6 + [3, 1, 2, 0]
    assert given.sizes.tolist() == [0] * 6 + [3, 3, 3, 0]
    expected = np.zeros((10, 3), np.float32)
    expected[6:8], expected[8] = (0.5, 0, 3), (0.5, 50, 53)
    np.testing.assert_array_equal(given.places, expected)
    assert (given.ids.dtype, given.sizes.dtype, given.starts.dtype) == (np.int32,) * 3


def test_nothing_to_read(pieces):
    given = pieces.join([], pieces.page([]))
    assert given.ids.tolist() == [CLS, SEP, SEP]
    assert given.page_start == 2


def test_long_questions_are_cut(pieces):
    assert pieces.question("a " * 200) == [VOCABULARY.index("a")] * 60


def test_text_that_looks_like_a_separator_is_none(pieces):
    """Brackets of the page do not end it."""
    assert SEP not in pieces.question("what is [SEP]")
    assert {p.id for p in pieces.page([word("[SEP]")])} & {CLS, SEP} == set()


def test_files_that_are_no_tokenizer(tmp_path):
    for name, text, message in (
        ("missing.json", None, "missing.json: is missing"),
        ("broken.json", "{", "broken.json: is no tokenizer"),
        ("list.json", "[]", "list.json: is no tokenizer"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ModelError, match=message) as caught:
            WordPieces(tmp_path / name)
        assert "\n" not in str(caught.value)
    other = write_tokenizer(tmp_path / "other.json", [name for name in VOCABULARY if name != "[SEP]"])
    with pytest.raises(ModelError, match=r"other.json: has no \[CLS\] or no \[SEP\]"):
        WordPieces(other)
    assert WordPieces(write_tokenizer(tmp_path / "good.json")).size == len(VOCABULARY)
