"""What the finder is trained on: words of pages, answers among them, their pieces, batches."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from finders import write_tokenizer

from rave_mlx.errors import ModelError
from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.models.finder.config import KINDS
from rave_mlx.models.finder.network import FinderInput
from rave_mlx.models.finder.word_pieces import WordPieces
from rave_mlx.synthetic import meaning
from rave_mlx.synthetic.meaning import LAYOUTS, MeaningConfig
from rave_mlx.synthetic.meaning.document import lay_out_page
from recipes.builtin.finder import examples, vocabulary
from recipes.builtin.finder.pages import READ_OFF, Asked, WordPage, WordSpan, make_page, said


@pytest.fixture(scope="module")
def pages():
    """A page of every layout that has one of a length to train on, a part of them cut off."""
    return [
        make_page(Random(seed), MeaningConfig(layout=name, held_layouts=LAYOUTS[name].held, cut=0.4))
        for seed, name in enumerate(LAYOUTS)
    ]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return WordPieces(write_tokenizer(tmp_path_factory.mktemp("pieces") / "tokenizer.json"))


def solid(text: str) -> str:
    return "".join(text.split())


def test_answers_are_the_words_that_the_spans_name(pages):
    """The generator's own answer, where it is read off in one piece, and each part of it where it is not."""
    whole = 0
    for page in pages:
        for asked in page.asked:
            assert (asked.kind == "span") == (asked.sort in READ_OFF) == bool(asked.spans)
            if not asked.spans:
                continue
            for span in asked.spans:
                assert solid(said(page.words, [span])) in solid(asked.answer)
            if len(asked.spans) == 1:
                assert said(page.words, asked.spans) == " ".join(asked.answer.split())
                whole += 1
    assert whole > 100


def test_kinds_are_those_of_the_finder(pages):
    found = {(asked.sort, asked.kind, asked.answer if asked.sort in ("yesno", "absent") else "") for page in pages
             for asked in page.asked}  # fmt: skip
    assert {kind for _, kind, _ in found} <= set(KINDS)
    assert {each for each in found if each[0] in ("yesno", "absent")} == {
        ("yesno", "yes", "yes"), ("yesno", "no", "no"), ("absent", "absent", meaning.ABSENT),
    }  # fmt: skip


def test_words_stand_where_the_drawn_page_has_them():
    """Answers' words lie in the boxes of the drawn page, and every word has ink."""
    checked = 0
    for seed in range(5):
        config = MeaningConfig(worn=False, cut=0.0)
        drawn, page = meaning.make(seed, config), make_page(Random(seed), config)
        if [q.text for q in drawn.questions][:3] != [a.question for a in page.asked][:3]:
            continue  # too long to train on: the next page was taken
        grey = np.asarray(drawn.image.convert("L"), float)
        for word in page.words:
            inside = grey[max(0, int(word.top)) : int(word.bottom) + 1, max(0, int(word.left)) : int(word.right) + 1]
            assert inside.max() - inside.min() > 20, word
        boxes = {q.text: q.boxes for q in drawn.questions}
        for asked in page.asked:
            if len(asked.spans) == 1:
                own = page.words[asked.spans[0].first : asked.spans[0].last + 1]
                (box,) = boxes[asked.question]
                assert min(w.left for w in own) <= box[0] + 1e-6 and max(w.right for w in own) >= box[2] - 1e-6
                assert {(w.top, w.bottom) for w in own} == {(box[1], box[3])}
                checked += 1
    assert checked > 10


def test_what_is_cut_off_is_no_word():
    """Of words over an edge those stay of which the middle is in the picture."""
    for seed in range(12):
        config = MeaningConfig(cut=1.0)
        page, laid = make_page(Random(seed), config), lay_out_page(seed, config)
        if laid.layout != page.layout:
            continue
        width, height = laid.places.size
        for word in page.words:
            assert 0 <= (word.left + word.right) / 2 <= width and 0 <= (word.top + word.bottom) / 2 <= height
        written = sum(len(run.text.split()) for run in laid.paper.sheet.runs)
        assert len(page.words) <= written


def test_pieces_of_an_answer_say_it(pages, pieces):
    for page in pages:
        read = pieces.page(page.words)
        for asked in page.asked:
            bounds = examples.stands(asked.spans, read)
            if bounds is not None:
                own = read[bounds[0] : bounds[1] + 1]
                text = "".join(page.words[piece.word].text[piece.start : piece.end] for piece in own)
                assert text == solid(said(page.words, asked.spans))


def test_where_an_answer_stands(pieces):
    words = [PageWord("Total:", 0, 0, 40, 10), PageWord("12.50,", 50, 0, 90, 10), PageWord("in", 0, 20, 9, 30)]
    read = pieces.page(words)
    texts = [words[p.word].text[p.start : p.end] for p in read]
    assert texts == ["Total", ":", "1", "2", ".", "5", "0", ",", "in"]
    assert examples.stands([WordSpan(1, 0, 1, 5)], read) == (2, 6)
    assert examples.stands([WordSpan(1, 1, 1, 4)], read) == (3, 5)  # a part of a word
    assert examples.stands([WordSpan(0, 0, 1, 6)], read) == (0, 7)
    assert examples.stands([WordSpan(1, 0, 1, 6), WordSpan(2, 0, 2, 2)], read) == (2, 8)
    assert examples.stands([WordSpan(0, 0, 0, 5), WordSpan(2, 0, 2, 2)], read) is None  # others lie between
    assert examples.stands([], read) is None


def test_letters_are_damaged_where_there_is_no_answer(monkeypatch):
    rng = Random(0)
    assert [examples.damage(rng, "Total", 0.0) for _ in range(50)] == ["Total"] * 50
    assert [examples.damage(rng, "in", 1.0) for _ in range(50)] == ["in"] * 50
    found = {examples.damage(rng, "solo", 1.0) for _ in range(400)}
    missing, twice = {"olo", "slo", "soo", "sol"}, {"ssolo", "soolo", "sollo", "soloo"}
    assert found == missing | twice | {"5olo", "s0lo", "so1o", "sol0"}
    monkeypatch.setattr(examples, "damage", lambda rng, word, rate: "?")
    words = tuple(PageWord(text, 10.0 * i, 20.0, 10.0 * i + 8, 30.0) for i, text in enumerate("abcd"))
    asked = Asked("What?", "span", "b c", (WordSpan(1, 0, 2, 1),), "value", "total")
    read = examples.as_read(Random(1), WordPage(words, (asked,), "card"))
    assert [word.text for word in read.words] == ["?", "b", "c", "?"]
    heights = {word.height for word in read.words}
    assert len(heights) == 1 and 7 <= heights.pop() <= 10.5
    assert all(
        (a.left, a.right, a.bottom) == (b.left, b.right, b.bottom) for a, b in zip(words, read.words, strict=True)
    )


def test_examples_name_the_tokens_of_the_answer(pieces):
    rng, spans, others = Random(4), 0, 0
    for _ in range(25):
        for each in examples.examples(rng, pieces, MeaningConfig()):
            given = each.given
            assert len(given.ids) <= 60 + examples.PAGE_PIECES + 3
            if KINDS[each.kind] == "span":
                assert given.page_start <= each.first <= each.last < len(given.ids) - 1
                assert (given.starts[each.first : each.last + 1] > 0).all()
                spans += 1
            else:
                assert each.first == each.last == 0
                others += 1
    assert spans > 30 and others > 10


def test_batches_are_filled_up_and_the_same_for_a_seed(pieces):
    short = FinderInput(np.array([2, 5, 3, 6, 3]), np.ones((5, 3), np.float32), np.array([0, 0, 0, 4, 0]),
                        np.array([0, 0, 0, 3, 0]), 3)  # fmt: skip
    longer = FinderInput(np.arange(7), np.zeros((7, 3), np.float32), np.ones(7, int), np.ones(7, int), 4)
    batch = examples.collate([examples.Example(short, 3, 3, 0), examples.Example(longer, 0, 0, 1)])
    assert batch.ids.tolist() == [[2, 5, 3, 6, 3, 0, 0], [0, 1, 2, 3, 4, 5, 6]]
    assert batch.parts.tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]]
    assert batch.real.sum(1).tolist() == [5, 7] and batch.places.sum() == 15
    assert (batch.first.tolist(), batch.last.tolist(), batch.kind.tolist()) == ([3, 0], [3, 0], [0, 1])
    found, again = (examples.batches(9, pieces, 900, pool=12) for _ in range(2))
    for _ in range(4):
        one, same = next(found), next(again)
        assert one.ids.size <= 900 or len(one.ids) == 1
        assert all(np.array_equal(getattr(one, name), getattr(same, name)) for name in vars(one))


def test_pieces_are_chosen_by_letters_and_by_what_pages_say():
    pieces = [
        "[PAD]",
        "[unused0]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[",
        "the",
        "дом",
        "##ing",
        "tenant",
        "zebra",
        "q",
        "€",
    ]
    kept = vocabulary.choose_pieces(pieces, frozenset({"tenant"}), frequent=10)
    assert [pieces[n] for n in kept] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[", "the", "##ing", "tenant", "q", "€"]
    assert {"invoice", "tenant", "deductible"} <= vocabulary.generator_words()


def test_pieces_are_read_from_a_published_encoder(tmp_path):
    with pytest.raises(ModelError, match=r"vocab\.txt: is missing"):
        vocabulary.read_pieces(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\na\n##b\n", encoding="utf-8")
    assert vocabulary.read_pieces(tmp_path) == ["[PAD]", "a", "##b"]
