"""The synthetic documents: exact truth, disjoint splits, arbitrary sizes, any set of fonts."""

import math
import re
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
from PIL import Image

from rave_mlx import synthetic
from rave_mlx.errors import ModelError
from rave_mlx.synthetic import (
    PageConfig,
    absent,
    english,
    fonts,
    forms,
    held_out_page,
    phrasings,
    questions,
    render,
    values,
    words,
)
from rave_mlx.synthetic import pages as layouts
from recipes.builtin import data, places, tokens

CLEAN = PageConfig(scan=False)
SEEDS = range(40)
QUESTION_LISTS = [name for name, value in vars(phrasings).items() if isinstance(value, phrasings.Phrasings)]


def text_of(page):
    return "\n".join(page.lines)


@pytest.fixture(scope="module")
def pages():
    return [synthetic.make(seed) for seed in SEEDS]


def test_a_seed_gives_the_same_page_and_another_seed_another(pages):
    for seed in (0, 7, 21):
        again = synthetic.make(seed)
        assert again.image.tobytes() == pages[seed].image.tobytes()
        assert (again.words, again.questions, again.fields) == (
            pages[seed].words,
            pages[seed].questions,
            pages[seed].fields,
        )
    assert len({page.image.tobytes() for page in pages}) == len(pages)


def test_sizes_are_arbitrary_within_bounds_or_as_asked():
    sizes = [synthetic.make(seed, PageConfig(trim=0)).image.size for seed in SEEDS]
    assert all(192 <= w <= 512 and 64 <= h <= 512 for w, h in sizes)
    assert sum(w % 16 != 0 and h % 16 != 0 for w, h in sizes) > len(sizes) // 2
    assert synthetic.make(3, PageConfig(width=333, height=201, trim=0)).image.size == (333, 201)


def test_trimming_leaves_an_allowed_height_and_no_text_is_lost():
    for seed in range(20):
        config = PageConfig(width=300, height=400, trim=1, heights=(97, 211, 307, 400), scan=False)
        page = synthetic.make(seed, config)
        assert page.image.height in config.heights
        assert all(word.box[3] <= page.image.height for word in page.words)


@pytest.mark.parametrize("kind", synthetic.PAGE_KINDS)
def test_every_word_has_ink_in_its_box(kind):
    for seed in range(6):
        page = synthetic.make(seed, replace(CLEAN, kind=kind, height=400, width=380), mode="L")
        pixels = np.asarray(page.image, np.int32)
        for word in page.words:
            left, top, right, bottom = word.box
            assert -1 <= left < right <= page.image.width + 1, word
            assert -1 <= top < bottom <= page.image.height + 1, word
            patch = pixels[max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1]
            assert patch.max() - patch.min() > 40, (seed, word)


def test_all_ink_of_a_text_page_lies_in_word_boxes():
    seen = 0
    for seed in range(12):
        page = synthetic.make(seed, replace(CLEAN, kind="lines", width=300, height=200), mode="L")
        if page.title:
            continue
        seen += 1
        pixels = np.asarray(page.image, np.int32)
        outside = np.ones(pixels.shape, bool)
        for word in page.words:
            left, top, right, bottom = word.box
            outside[max(0, int(top) - 1) : int(bottom) + 2, max(0, int(left) - 1) : int(right) + 2] = False
        paper = pixels[0, 0]
        assert np.abs(pixels[outside] - paper).max(initial=0) < 60
    assert seen >= 5


def test_boxes_follow_the_skew_of_a_scan():
    image = Image.new("L", (300, 200), 255)
    image.paste(0, (40, 150, 44, 154))
    angle = math.radians(2.5)
    turned = 255 - np.asarray(image.rotate(2.5, Image.Resampling.BILINEAR, fillcolor=255), np.float64)
    y, x = (float((axis * turned).sum() / turned.sum()) + 0.5 for axis in np.indices(turned.shape))
    expected = render._turn(42, 152, (math.cos(angle), math.sin(angle), 150, 100))
    assert (x, y) == pytest.approx(expected, abs=0.3)
    box = render._turn_box((40, 150, 44, 154), (math.cos(angle), math.sin(angle), 150, 100))
    assert box[0] < x < box[2]
    assert box[1] < y < box[3]


def test_words_spell_the_lines(pages):
    for page in pages:
        by_line = {}
        for word in page.words:
            by_line.setdefault(word.line, []).append(word)
        spelt = [" ".join(w.text for w in sorted(by_line[i], key=lambda w: w.box[0])) for i in sorted(by_line)]
        assert [" ".join(line.split()) for line in page.lines] == spelt


def test_glyphs_lie_on_their_words():
    page = synthetic.make(11, replace(CLEAN, kind="form", width=360, height=240), with_glyphs=True)
    spelt = "".join(g.character for g in page.glyphs)
    assert spelt.replace(" ", "") == "".join(w.text for w in page.words)
    for word in page.words:
        inside = [
            g
            for g in page.glyphs
            if g.line == word.line and word.box[0] - 2 <= g.x <= word.box[2] + 2 and g.character != " "
        ]
        assert [g.character for g in inside] == list(word.text)


def test_every_answer_follows_from_the_page():
    kinds = set()
    for seed in range(150):
        page = synthetic.make(seed)
        text = text_of(page)
        for q in page.questions:
            kinds.add(q.kind)
            if q.kind == "read":
                assert q.answer == text
            elif q.kind == "line":
                assert q.answer in page.lines
            elif q.kind == "absent":
                assert q.answer == synthetic.ABSENT
            elif q.kind == "count":
                assert int(q.answer) <= len(page.cells)
            elif q.kind == "title":
                assert q.answer == page.title
                assert q.answer in page.lines
            else:
                assert q.answer in text, (seed, q)
    assert kinds == set(synthetic.QUESTION_KINDS)


def test_no_question_has_two_answers(pages):
    for page in pages:
        answers = {}
        for q in page.questions:
            assert answers.setdefault(q.text.lower(), q.answer) == q.answer


def test_lines_that_stand_side_by_side_have_no_number():
    for seed in range(30):
        config = PageConfig(width=400, height=300, scan=False, kind="columns")
        sheet, _ = layouts.draw_page(Random(seed), config)
        asked = [q for q in questions.ask(Random(seed), sheet) if q.kind == "line"]
        rows: dict[float, set[int]] = {}
        for run in sheet.runs:
            if run.line >= 0:
                rows.setdefault(run.baseline, set()).add(run.line)
        above = [sorted(rows[row]) for row in sorted(rows)]
        alone = next((i for i, numbers in enumerate(above) if numbers != [i]), len(above))
        lines = questions.text_lines(sheet)
        assert {q.answer for q in asked} <= set(lines[:alone]), seed
        assert len(asked) >= min(alone, 1)


def test_absent_labels_are_absent(monkeypatch):
    monkeypatch.setattr(questions, "_near", lambda *_: ())
    asked = [(p, q) for p in map(synthetic.make, range(80)) for q in p.questions if q.kind == "absent"]
    assert len(asked) > 5
    for page, q in asked:
        label = next(name for name in sorted(words.LABELS, key=len, reverse=True) if name.lower() in q.text.lower())
        assert label.lower() not in text_of(page).lower()


def test_rows_headers_and_numbers_that_a_page_lacks_are_asked_for():
    """No telling word of what is asked for stands on the page, and the rest of the question is the page's own."""
    rows = columns = labels = 0
    for seed in range(120):
        sheet, _ = layouts.draw_page(Random(seed), CLEAN)
        text = "\n".join(questions.text_lines(sheet)).lower()
        label = absent.missing_label(Random(seed), text)
        assert label is not None and label.split()[0].lower() not in text
        labels += len(label.split()) == 2
        cell = absent.missing_cell(Random(seed), sheet, text) if sheet.cells else None
        if cell is not None:
            new_row = cell.row not in {c.row for c in sheet.cells}
            assert new_row != (cell.column not in {c.column for c in sheet.cells})
            strange = cell.row if new_row else cell.column
            long = [word for word in re.findall(r"\w+", strange.lower()) if len(word) > 2]
            assert not any(word in text for word in long or [strange.lower()]), (seed, strange)
            rows, columns = rows + new_row, columns + (not new_row)
    assert min(rows, columns, labels) > 5


def test_what_is_asked_in_vain_changes_no_other_question(monkeypatch):
    with_them = [synthetic.make(seed).questions for seed in range(60)]
    monkeypatch.setattr(questions, "_near", lambda *_: ())
    without = [synthetic.make(seed).questions for seed in range(60)]
    added = [found[len(plain) :] for found, plain in zip(with_them, without, strict=True)]
    assert [found[: len(plain)] for found, plain in zip(with_them, without, strict=True)] == without
    assert 8 < sum(map(len, added)) < 30
    assert {(q.kind, q.answer) for extra in added for q in extra} == {("absent", synthetic.ABSENT)}


def test_values_are_split_by_hash(pages):
    open_kinds = {"id", "date", "name", "phone", "mail", "amount", "street", "measure", "iban"}
    train = {f.value for p in pages for f in p.fields if f.kind in open_kinds}
    held = {
        f.value
        for seed in range(15)
        for f in synthetic.make(seed, PageConfig(kind="form", held_values=True)).fields
        if f.kind in open_kinds
    }
    assert len(train) > 25
    assert len(held) > 10
    assert not any(map(values.held_out, train))
    assert all(map(values.held_out, held))


def test_no_listed_word_has_stray_spaces():
    for name, value in vars(words).items():
        if isinstance(value, list | tuple | dict) and not name.startswith("_"):
            assert all(each == " ".join(each.split()) and each for each in value if isinstance(each, str)), name


def test_labels_are_split(pages):
    held = {label for label, (_, _, outside) in words.LABELS.items() if outside} | set(words.HELD_PREFIXED)
    seen = {f.label for p in pages for f in p.fields}
    assert not seen & held
    asked = {f.label for s in range(12) for f in synthetic.make(s, PageConfig(kind="form", held_labels=True)).fields}
    assert asked & held


def test_layouts_are_split(pages):
    held = {*forms.HELD_BLOCKS, *layouts.HELD_ITEMS}
    assert not held & {*forms.BLOCKS, *layouts.ITEMS}
    assert not {p.layout.rpartition("/")[2] for p in pages} & held
    outside = {
        synthetic.make(s, PageConfig(kind=k, held_layouts=True)).layout for s in range(8) for k in ("form", "receipt")
    }
    assert {name.rpartition("/")[2] for name in outside} <= held


def test_the_packages_to_install_are_whole_names():
    names = fonts.DEBIAN_PACKAGES.split()
    assert all(re.fullmatch(r"fonts-[a-z0-9-]*[a-z0-9]", name) for name in names), names


@pytest.mark.skipif(fonts.families() == fonts.families(True), reason="no font of the list is installed")
def test_fonts_are_split(pages):
    train = {f.name for f in fonts.FAMILIES if not f.held_out}
    assert {p.font for p in pages} <= train
    assert not {synthetic.make(s, PageConfig(held_fonts=True)).font for s in range(8)} & train


def test_all_phrasings_are_checked():
    assert len(QUESTION_LISTS) == 16


def bare(text):
    return text.strip("?.").lower()


@pytest.mark.parametrize("name", QUESTION_LISTS)
def test_phrasings_are_split(name):
    listed = getattr(phrasings, name)
    rng = Random(0)
    train = {questions.Asker(rng, held=False).phrase(listed) for _ in range(4000)}
    held = {questions.Asker(rng, held=True).phrase(listed) for _ in range(400)}
    assert held == set(listed.held)
    assert not {bare(t) for t in train} & {bare(t) for t in held}
    assert {bare(t) for t in listed.usual} <= {bare(t) for t in train}
    assert {bare(t) for t in train} <= {bare(t) for t in (*listed.usual, *listed.composed)}


def test_patterns_are_spelled_out():
    assert phrasings.compose("[Read|Give] the title[| here].", ("read the title",)) == (
        "Read the title here.",
        "Give the title.",
        "Give the title here.",
    )


def test_held_out_page_holds_everything_out():
    config = held_out_page(width=300)
    assert config.width == 300
    assert all(getattr(config, f"held_{n}") for n in ("values", "labels", "layouts", "fonts", "phrasing"))


def test_without_any_known_font_the_built_in_one_is_used(monkeypatch):
    monkeypatch.setattr(fonts, "DIRECTORIES", ())
    for cached in (fonts._index, fonts.families):
        cached.cache_clear()
    try:
        page = synthetic.make(1, replace(CLEAN, kind="form"))
        assert page.font == "Aileron"
        assert page.words
        with pytest.raises(ModelError, match=r"'Lato' is not installed.*apt install"):
            synthetic.make(1, PageConfig(families=("Lato",)))
    finally:
        for cached in (fonts._index, fonts.families):
            cached.cache_clear()


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(ModelError, match="'Comic Sans'"):
        synthetic.make(1, PageConfig(families=("Comic Sans",)))


def test_grey_pages_are_the_channel_mean_of_colour_pages():
    for seed in range(6):
        grey = np.asarray(synthetic.make(seed, CLEAN, mode="L").image, np.float32)
        colour = np.asarray(synthetic.make(seed, CLEAN, mode="RGB").image, np.float32).mean(-1)
        assert np.abs(grey - colour).max() <= 2


def test_cells_hold_the_characters_drawn_over_them():
    page = synthetic.make(3, PageConfig(width=320, height=160, trim=0, scan=False), mode="L", with_glyphs=True)
    cells = data.cell_classes(page, 160, 320)
    assert cells.shape == (10, 20, data.SLOTS)
    for glyph in page.glyphs[:40]:
        place = int(glyph.y // 16), int(glyph.x // 16)
        neighbours = [g for g in page.glyphs if (int(g.y // 16), int(g.x // 16)) == place]
        if len(neighbours) <= 4 and len({g.line for g in neighbours}) == 1:
            inside = [data.ALPHABET[c - 1] for c in cells[place][1:5] if 0 < c <= len(data.ALPHABET)]
            assert inside == [g.character for g in neighbours if g.character in data.ALPHABET]


@pytest.mark.parametrize("kind", ["form", "table", "article", "columns"])
def test_cells_know_the_line_they_stand_in(kind):
    """Numbers are those by which questions name lines; words are measured apart from glyphs."""
    seen = 0
    for seed in range(4):
        config = PageConfig(width=320, height=256, trim=0, scan=False, kind=kind)
        page = synthetic.make(seed, config, with_glyphs=True)
        rows = data.line_numbers(page, 256, 320)
        order = sorted({w.line for w in page.words})
        assert len(order) == len(page.lines)
        for word in page.words:
            left, top, right, bottom = word.box
            first, last, x = int(top // 16), int(bottom // 16), int((left + right) / 2 // 16)
            number = order.index(word.line)
            alone = all(
                other.line == word.line or other.box[3] <= first * 16 or other.box[1] >= last * 16 + 16
                for other in page.words
            )
            if alone and right - left > 32 and number < data.LINES:
                # The place of a character is its x-height's middle: one cell of those that the word reaches into.
                assert number in rows[first : last + 1, x], (seed, word)
                assert word.text in page.lines[number]
                seen += 1
    assert seen > 4


def test_a_crop_reads_what_is_whole_on_the_page():
    """Characters cut by an edge are drawn, but are no text."""
    right = left = 0
    for seed in range(40):
        page = synthetic.make(seed, PageConfig(width=300, height=240, trim=0, scan=False, kind="article"), mode="L")
        for word in page.words:
            assert -1 <= word.box[0] < word.box[2] <= 301, (seed, word)
        pixels = np.asarray(page.image, np.int32)
        # On a crop, ink touches the very edge at which no word can be.
        dark = np.abs(pixels - np.median(pixels)) > 80
        right += bool(dark[:, -1].any())
        left += bool(dark[:, 0].any())
    assert right > 8
    assert left > 2


def test_prose_does_not_repeat_itself():
    rng = Random(0)
    made = [english.word(rng) for _ in range(6000)]
    assert len(set(made)) > 2500
    assert all(word and " " not in word for word in made)
    assert english.heading(rng, 3)[0].isupper() or not english.heading(rng, 3)[0].isalpha()


LAYOUTS = [("form", name) for name in (*forms.BLOCKS, *forms.HELD_BLOCKS)]
LAYOUTS += [("receipt", name) for name in (*layouts.ITEMS, *layouts.HELD_ITEMS)] + [("table", "table")]


@cache
def _of_layout(kind, name, seeds):
    """Pages of a layout, among those that the seeds give."""
    held = name in layouts.HELD_ITEMS or name in forms.HELD_BLOCKS
    block = name if kind == "form" else None
    config = PageConfig(width=420, height=320, scan=False, kind=kind, block=block, held_layouts=held, trim=0)
    found = [page for page in (synthetic.make(seed, config) for seed in seeds) if page.layout.endswith(name)]
    assert len(found) > 3
    return found


@pytest.mark.parametrize(("kind", "name"), LAYOUTS)
def test_no_word_stands_on_another_or_past_the_edge(kind, name):
    for page in _of_layout(kind, name, range(60)):
        boxes = [(w.text, *w.box) for w in page.words]
        for i, (text, x0, y0, x1, y1) in enumerate(boxes):
            assert x0 > -3 and x1 < page.image.width + 3 and y1 < page.image.height + 3, (text, page.layout)
            for other, a0, b0, a1, b1 in boxes[i + 1 :]:
                wide, high = min(x1, a1) - max(x0, a0), min(y1, b1) - max(y0, b0)
                assert min(wide, high) < 4, (text, other, page.layout, page.font)


@pytest.mark.parametrize(("kind", "name"), LAYOUTS)
def test_every_layout_asks_for_what_it_shows(kind, name):
    pages = _of_layout(kind, name, range(60))
    shown = [(q, text_of(page)) for page in pages for q in page.questions if data.WEIGHTS.get(q.kind, 1) == 1]
    asked = [(q, text) for q, text in shown if q.kind not in ("absent", "count")]
    assert len(asked) >= len(pages)
    for question, text in asked:
        assert question.answer in text, (question, text)


@pytest.mark.parametrize("block", ["signed", "figure", "below"])
def test_a_stacked_value_stands_next_to_its_label(block):
    for seed in range(8):
        page = synthetic.make(seed, PageConfig(width=400, height=300, scan=False, kind="form", block=block))
        where = {line: i for i, line in enumerate(page.lines)}
        for field in page.fields:
            values = [i for line, i in where.items() if field.value in line]
            labels = [i for line, i in where.items() if field.label in line]
            if len(values) == len(labels) == 1 and field.label not in field.value:
                assert labels[0] - values[0] == (-1 if block == "below" else 1), (seed, field)


def test_a_batch_packs_questions_with_their_answers():
    batch = next(data.batches(0, 1200, lambda: 200, PageConfig()))
    count, height, width = batch.image.shape
    assert height % 16 == 0
    assert width % 16 == 0
    assert batch.ids.shape == (count, data.text_length(height, width))
    for row in range(count):
        for segment in range(int(batch.segment[row].max()) + 1):
            here = batch.segment[row] == segment
            assert batch.place[row][here].tolist() == list(range(here.sum()))
            ids, label = batch.ids[row][here], batch.label[row][here]
            answer = label[label >= 0]
            assert answer[-1] == tokens.TURN_END
            # A label is the token after it.
            assert answer.tolist() == ids[-len(answer) :].tolist()
    assert set(np.unique(batch.weight)) <= {np.float32(w) for w in (*data.DENSE.values(), 1, 3)}


def test_training_questions_fit_and_are_weighted():
    rng = Random(0)
    page = synthetic.make(8, PageConfig(width=400, height=400))
    chosen = data.choose(rng, page.questions, 200)
    used = sum(len(tokens.question_ids(q.text)) + len(q.answer.encode()) + 1 for q in chosen)
    assert 0 < used <= 200
    assert tokens.decode(tokens.encode("Zürich €5")) == "Zürich €5"


@pytest.mark.parametrize("kind", ["form", "receipt", "table", "letter", "lines", "article"])
def test_a_place_is_that_of_the_character(kind):
    """Characters are found in the boxes of words, which are measured apart from the places of glyphs."""
    found = asked = 0
    for seed in range(6):
        page = synthetic.make(seed, PageConfig(width=320, height=256, trim=0, kind=kind), with_glyphs=True)
        lines = places.lines(page, 256, 320, 16)
        for q in page.questions:
            cells = places.locate(lines, q.text, q.answer)
            asked += 1
            if cells is None:
                continue
            found += 1
            assert len(cells) == len(q.answer.encode())
            boxes = [w.box for w in page.words if w.text.strip(":") in q.answer or q.answer in w.text]
            for cell in cells:
                y, x = divmod(cell, 20)
                assert any(
                    left - 16 < x * 16 + 8 < right + 16 and top - 16 < y * 16 + 8 < bottom + 16
                    for left, top, right, bottom in boxes
                ), (q, cell)
    assert found > asked / 2


def line(text, first=0):
    return places.Line(text, tuple(range(first, first + len(text))))


@pytest.mark.parametrize(
    ("lines", "question", "answer", "expected"),
    [
        ([line("Total: 12")], "What is the total?", "12", [7, 8]),
        ([line("Total: 12"), line("Tax 12", 50)], "What is the tax?", "12", [54, 55]),  # the line that is named
        ([line("Total: 12"), line("Tax 12", 50)], "How much?", "12", None),
        ([line("2012 by 12x")], "number?", "12", None),  # parts of longer words
        ([line("a\u20ac b")], "x?", "a\u20ac", [0, 1, 1, 1]),  # a byte each
        ([line("one"), line("two", 9)], "Read the text.", "one\ntwo", [0, 1, 2, 9, 9, 10, 11]),
        ([line("one")], "Is there a date?", "not found", None),
    ],
)
def test_answers_are_located(lines, question, answer, expected):
    assert places.locate(lines, question, answer) == expected
