"""Pages that are asked by meaning: what is said to be there is there, and is where it is said to be."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.tasks import open_task
from rave_mlx.evaluate.tasks.meaning_pages import SPLITS
from rave_mlx.synthetic import meaning
from rave_mlx.synthetic.meaning import ABSENT, GREETED, LAYOUTS, QUOTE_MARK, UNCLEAR, MeaningConfig

SAID = ("greeting", "unclear", "absent", "yesno")
"""Kinds whose answers are not read off the page."""


@pytest.fixture(scope="module")
def pages():
    """A clean page of every layout."""
    return [
        meaning.make(seed, MeaningConfig(layout=name, held_layouts=LAYOUTS[name].held, worn=False, cut=0.0))
        for seed, name in enumerate(LAYOUTS)
    ]


@pytest.fixture(scope="module")
def cut_pages():
    """Pages of which only a part is shown."""
    return [meaning.make(seed, MeaningConfig(worn=False, cut=1.0)) for seed in range(16)]


def every(pages):
    return [(page, q) for page in pages for q in page.questions]


def test_a_seed_gives_the_same_page_and_another_seed_another(pages):
    again = meaning.make(3, MeaningConfig(layout=pages[3].layout, worn=False, cut=0.0))
    assert again.image.tobytes() == pages[3].image.tobytes()
    assert again.questions == pages[3].questions
    assert meaning.make(4, MeaningConfig(layout=pages[3].layout)).questions != pages[3].questions


def test_every_layout_is_drawn_and_asked_about(pages):
    assert [page.layout for page in pages] == list(LAYOUTS)
    assert all(len(page.questions) >= 6 for page in pages)
    assert {q.kind for _, q in every(pages)} >= set(meaning.KINDS) - {"list", "summary", "extreme"}


def test_boxes_hold_ink_from_edge_to_edge(pages, cut_pages):
    """What a box holds differs from the paper, in its middle as near its ends."""
    checked = 0
    for page, q in every([*pages, *cut_pages]):
        grey = np.asarray(page.image.convert("L"), float)
        for left, top, right, bottom in q.boxes:
            assert -2 <= left < right <= page.image.width + 2
            assert -3 <= top < bottom <= page.image.height + 3
            inside = grey[max(0, round(top)) : round(bottom), max(0, round(left)) : round(right)]
            ink = np.ptp(inside, axis=0) > 40
            third = max(3, len(ink) // 3)
            assert ink[:third].any() and ink[-third:].any(), (page.layout, q)
            checked += 1
    assert checked > 250


def test_answers_are_printed_on_the_page(pages, cut_pages):
    for page, q in every([*pages, *cut_pages]):
        text = "".join(page.lines).replace(" ", "")
        if q.kind in ("value", "entry", "which", "extreme"):
            printed = [c for c, at in zip(q.answer, q.stands, strict=True) if at is not None]
            assert "".join(printed).replace(" ", "") in text or ", " in q.answer or len(q.boxes) > 1, q
            assert printed
        elif q.kind in SAID:
            assert not q.boxes


def test_characters_stand_inside_the_boxes(pages):
    for _, q in every(pages):
        for at in q.stands:
            if at is not None:
                assert any(b[0] - 1 <= at[0] <= b[2] + 1 and b[1] - 1 <= at[1] <= b[3] + 1 for b in q.boxes)


def test_a_page_is_asked_nothing_twice_with_different_answers(pages, cut_pages):
    for page in [*pages, *cut_pages]:
        answers: dict[str, set[str]] = {}
        for q in page.questions:
            answers.setdefault(q.text.lower().strip("?. "), set()).add(q.answer)
        assert all(len(found) == 1 for found in answers.values())


def test_what_is_not_there_is_not_there():
    """A role that is asked for in vain has neither a value on the page nor one of its labels."""
    from rave_mlx.synthetic.meaning.asking import plain

    asked = 0
    for seed in range(30):
        page = meaning.make(seed, MeaningConfig(worn=False))
        text = f" {plain(' '.join(page.lines))} "
        there = {q.role for q in page.questions if q.kind == "value"}
        for q in page.questions:
            if q.kind != "absent":
                assert q.answer != ABSENT
                continue
            asked += 1
            assert q.answer == ABSENT
            assert q.role not in there
            if q.role in meaning.ROLES:
                labels = [plain(label) for label in meaning.ROLES[q.role].labels]
                assert not any(f" {label} " in text for label in labels if len(label) > 1), q
    assert asked > 40


def test_the_two_refusals_are_different_and_say_what_can_be_asked(pages):
    unclear = [q for _, q in every(pages) if q.kind == "unclear"]
    assert unclear and {q.answer for q in unclear} == {UNCLEAR}
    assert {q.answer for _, q in every(pages) if q.kind == "greeting"} == {GREETED}
    assert "total" in UNCLEAR and ABSENT not in UNCLEAR


def test_sums_add_up_and_change_is_given_back():
    """Amounts of a till are those of its goods; a page's truth is no coincidence of labels."""
    from rave_mlx.synthetic.fonts import families
    from rave_mlx.synthetic.meaning.layouts.tills import till
    from rave_mlx.synthetic.meaning.paper import Paper
    from rave_mlx.synthetic.sheet import Sheet, make_style
    from rave_mlx.synthetic.values import Values

    seen = 0
    for seed in range(40):
        rng = Random(seed)
        sheet = Sheet(rng, Values(rng, False), make_style(rng, families(), (12, 12)), 360, 9999, 1)
        paper = Paper(sheet, False)
        till(paper)
        cents = {}
        for fact in paper.facts:
            if fact.role in ("payable", "paid", "change", "subtotal", "tax", "tip", "discount"):
                (part,) = fact.value
                text = sheet.runs[part.run].text
                cents[fact.role] = int("".join(c for c in text if c.isdigit())) * (-1 if text.startswith("-") else 1)
        if "change" in cents:
            assert cents["paid"] - cents["payable"] == cents["change"]
            seen += 1
        if "subtotal" in cents:
            parts = [cents.get(r, 0) for r in ("subtotal", "tax", "tip", "discount")]
            assert sum(parts) == cents["payable"]
            seen += 1
    assert seen > 20


def test_no_text_lies_over_another():
    """Layouts may fail to fit; such pages are drawn again."""
    for seed in range(12):
        page = meaning.make(seed, MeaningConfig(worn=False, cut=0.0, layout="invoice"), with_glyphs=True)
        places = sorted((round(g.y), g.x) for g in page.glyphs if g.character != " ")
        close = [(a, b) for a, b in pairwise(places) if a[0] == b[0] and b[1] - a[1] < 0.5]
        assert close == []


def test_quotes_stand_before_the_value():
    quoting = [meaning.make(s, MeaningConfig(worn=False, cut=0.0, quote=True)) for s in range(6)]
    plain = [meaning.make(s, MeaningConfig(worn=False, cut=0.0)) for s in range(6)]
    quoted = 0
    for a, b in zip(quoting, plain, strict=True):
        for q, value in zip(a.questions, b.questions, strict=True):
            assert q.text == value.text
            assert len(q.stands) == len(q.answer)
            if q.answer != value.answer:
                line, _, last = q.answer.rpartition(QUOTE_MARK)
                assert last == value.answer and value.answer in line
                quoted += 1
    assert quoted > 20


def test_sizes_are_as_asked():
    page = meaning.make(5, MeaningConfig(width=333, heights=(200, 300, 420)))
    assert page.image.width == 333 and page.image.height in (200, 300, 420)
    assert meaning.make(5, MeaningConfig(width=300, height=211), mode="L").image.size == (300, 211)


def test_the_task_asks_each_split_and_refuses_others():
    items, breakdowns = open_task("meaning:held_out", 2)
    found = list(items)
    assert {item.tags["split"] for item in found} == {"held_out"} and 4 <= len(found) <= 12
    assert all(LAYOUTS[item.tags["layout"]].held for item in found)
    assert breakdowns == (("split", "kind"), ("layout",), ("style",))
    with pytest.raises(UsageError, match="splits: familiar, roles, phrasing"):
        list(open_task("meaning:nothing", 1)[0])
    assert len({item.tags["split"] for item in open_task("meaning", 1)[0]}) == len(SPLITS)
