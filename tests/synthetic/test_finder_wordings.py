"""What the finder's training adds to the generator's pages: more wordings, and pages of the older generator."""

from __future__ import annotations

from random import Random

import pytest

from rave_mlx.models.finder.config import KINDS
from rave_mlx.synthetic.meaning.roles import ROLES
from recipes.builtin.finder.older_pages import older_page
from recipes.builtin.finder.pages import said
from recipes.builtin.finder.wordings import WORDINGS, reworded


def test_wordings_are_for_roles_that_training_may_ask_for():
    assert set(WORDINGS) <= set(ROLES)
    assert not [name for name in WORDINGS if ROLES[name].held]
    assert sum(map(len, WORDINGS.values())) > 800


def test_wordings_are_expanded_and_plain():
    texts = [text for found in WORDINGS.values() for text in found]
    assert not [text for text in texts if set("[]|") & set(text) or text != " ".join(text.split()) or not text]
    assert {"how much do they want", "how much do they ask for", "how much do they charge"} <= set(WORDINGS["payable"])


def test_two_in_five_questions_are_asked_in_other_words():
    rng = Random(3)
    asked = [reworded(rng, "What is the total?", "payable", "value") for _ in range(2000)]
    other = [text for text in asked if text != "What is the total?"]
    assert 0.36 < len(other) / len(asked) < 0.44
    plain = {text.removesuffix("?").lower() for text in other}
    assert plain <= {text.lower() for text in WORDINGS["payable"]}
    assert len(plain) == len(set(map(str.lower, WORDINGS["payable"])))
    assert any(text[0].isupper() for text in other) and any(text[0].islower() for text in other)


@pytest.mark.parametrize(("role", "kind"), [("payable", "yesno"), ("no_role", "value"), ("tenant", "value")])
def test_other_questions_stay(role, kind):
    rng = Random(3)
    assert {reworded(rng, "Is it so?", role, kind) for _ in range(50)} == {"Is it so?"}


def test_answers_of_older_pages_stand_where_they_are_said_to_stand():
    rng, kinds = Random(8), set()
    for _ in range(40):
        page = older_page(rng)
        assert page.words
        for asked in page.asked:
            kinds.add(asked.kind)
            assert asked.kind in KINDS
            assert bool(asked.spans) == (asked.kind == "span")
            if asked.spans:
                assert said(page.words, asked.spans) == " ".join(asked.answer.split())
            assert (asked.kind == "absent") == (asked.answer == "not found")
        assert sum(asked.kind == "whole" for asked in page.asked) <= 1
    assert kinds == {"span", "absent", "whole"}


def test_older_pages_come_again_with_the_same_seed():
    assert older_page(Random(5)) == older_page(Random(5))
