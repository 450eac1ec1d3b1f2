"""Training batches of pages that are asked by meaning, and the natural pages to measure on."""

from __future__ import annotations

import itertools
from itertools import islice
from random import Random

import numpy as np
import pytest

from rave_mlx.synthetic import PageConfig
from rave_mlx.synthetic.meaning import QUOTE_MARK, MeaningQuestion
from recipes.builtin import natural
from recipes.builtin.data import CELL, KINDS, MEANING_TEXT, Mixture, batches, meaning_page_for, placed, text_length
from recipes.builtin.natural.table import table
from recipes.builtin.places import NOWHERE
from recipes.builtin.tokens import decode


@pytest.fixture(scope="module")
def mixed():
    return list(islice(batches(3, 700, lambda: 200, PageConfig(), Mixture(0.35)), 24))


def test_a_share_of_the_batches_is_asked_by_meaning(mixed):
    by_meaning = [b.ids.shape[1] > text_length(*b.image.shape[1:]) for b in mixed]
    assert 2 < sum(by_meaning) < len(mixed)
    for batch, meant in zip(mixed, by_meaning, strict=True):
        height, width = batch.image.shape[1:]
        assert batch.ids.shape[1] == round(text_length(height, width) * (MEANING_TEXT if meant else 1))
        kinds = {KINDS[k] for k in np.unique(batch.kind) if k >= 0}
        assert bool(kinds & {"value", "entry", "unclear", "yesno", "which", "summary"}) == meant


def test_without_a_share_batches_are_what_they_were():
    old, new = (next(batches(5, 900, lambda: 200, PageConfig(), *m)) for m in ((), (Mixture(0.0, quote=True),)))
    assert all(np.array_equal(a, b) for a, b in zip(vars(old).values(), vars(new).values(), strict=True))


def test_targets_lie_on_the_characters_of_the_answer():
    """The visual tokens that an answer's bytes point at are dark; what is said and not read has no place."""
    rng, known = Random(8), 0
    for _ in range(6):
        page, (height, width) = meaning_page_for(rng, 600, False)
        image = np.asarray(page.image.resize((width, height)), float)
        for q in page.questions:
            cells = placed(q, page.image.size, height, width)
            assert len(cells) == len(q.answer.encode())
            if q.kind in ("yesno", "absent", "unclear", "greeting"):
                assert set(cells) == {NOWHERE}
            for cell in set(cells) - {NOWHERE}:
                y, x = divmod(cell, width // CELL)
                square = image[max(0, y * CELL - 4) : (y + 1) * CELL + 4, max(0, x * CELL - 4) : (x + 1) * CELL + 4]
                assert np.ptp(square) > 25, q
                known += 1
    assert known > 60


def test_labels_are_the_answer_behind_the_question(mixed):
    """Read out of the packed row: what follows the question's marks is the answer that is learnt, and nothing else."""
    batch = next(b for b in mixed if b.ids.shape[1] > text_length(*b.image.shape[1:]))
    for s in range(batch.segment[0].max() + 1):
        at = np.flatnonzero(batch.segment[0] == s)
        learnt = at[batch.label[0][at] >= 0]
        assert decode(batch.label[0][learnt[:-1]].tolist()) == decode(batch.ids[0][learnt[1:]].tolist())
        assert batch.place[0][at].tolist() == list(range(len(at)))


def test_quoting_is_an_option():
    rng = Random(2)
    page, _ = meaning_page_for(rng, 600, True)
    assert any(QUOTE_MARK in q.answer for q in page.questions)
    page, _ = meaning_page_for(Random(2), 600, False)
    assert not any(QUOTE_MARK in q.answer for q in page.questions)
    assert all(isinstance(q, MeaningQuestion) for q in page.questions)


@pytest.mark.parametrize("name", natural.SETS)
def test_natural_questions_are_about_pages_that_exist_and_can_be_answered(name):
    """Each answer is printed in the page's HTML, or is yes, no or that it is not there."""
    folder = natural.__path__[0]
    asked = natural.questions(name)
    assert len(asked) >= 200 and len({q.page for q in asked}) == 30
    assert len({(q.page, q.question) for q in asked}) == len(asked)
    for q in asked:
        text = natural.printed(name, q.page)
        if q.kind == "value":
            assert any(answer.replace(" ", "") in text for answer in q.answers), (folder, q)
        else:
            assert q.answers[0] in ("yes", "no", "not found")


def test_the_sets_share_no_page_and_hardly_a_question():
    asked = {name: {q.question.lower().strip("?") for q in natural.questions(name)} for name in natural.SETS}
    shown = {name: {natural.printed(name, q.page) for q in natural.questions(name)} for name in natural.SETS}
    assert asked["development"] & asked["kept"] == {"iban"}
    for one, other in itertools.combinations(natural.SETS, 2):
        assert not shown[one] & shown[other]
        assert len(asked[one] & asked[other]) <= 5


def test_the_table_counts_sure_and_wrong():
    rows = [
        {"tags": {"kind": "value"}, "answer": "not found", "exact": False, "anls": 0.0, "certainty": 0.99},
        {"tags": {"kind": "value"}, "answer": "12.5", "exact": False, "anls": 0.8, "certainty": 0.95},
        {"tags": {"kind": "absent"}, "answer": "not found", "exact": True, "anls": 1.0, "certainty": 0.5},
    ]
    assert table(rows)[2:] == [
        "| all | 3 | 0.33 | 0.67 | 2 | 1 | 1 | 1 |",
        "| value | 2 | 0.00 | 0.50 | 2 | 1 | 1 | 1 |",
        "| absent | 1 | 1.00 | 1.00 | 0 | 0 | 0 | 0 |",
    ]
