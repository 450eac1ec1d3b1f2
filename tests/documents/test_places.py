"""Where values stand: in the text layer, by the model's attention, and in both."""

from __future__ import annotations

import io

import numpy as np
import pytest
from families import cases, write_checkpoint
from families.aki import write_released
from reportlab.pdfgen.canvas import Canvas
from support import ask, picture

import rave_mlx
from rave_mlx.documents.extraction.attention_box import Region, find_region, trim
from rave_mlx.documents.extraction.attention_rows import choose_heads, look_up
from rave_mlx.documents.extraction.places import Place, ShownPage, Sought, find_places
from rave_mlx.documents.extraction.text_places import find_in_text, occurrences, pick
from rave_mlx.inputs.images.pdf import render_page
from rave_mlx.inputs.images.pdf_text import PageText, read_page_text
from rave_mlx.inputs.images.token_boxes import TokenBoxes
from rave_mlx.look import collect
from rave_mlx.look.pointing import targets

LINES = (
    ("Invoice no: K 204-417", "Date: 3 May 2026"),
    ("Net amount", "1.234,50 EUR"),
    ("Total amount", "13.60"),
    ("Paid", "13.60"),
    ("Ship to: Ingrid", "12.50 and 112.50, 12.505"),
    ("Halvorsen", "“Mill” Lane – 7"),
)
PAGE_WIDTH, PAGE_HEIGHT, PITCH = 400, 300, 30


@pytest.fixture(scope="module")
def pdf() -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(PAGE_WIDTH, PAGE_HEIGHT))
    for i, cells in enumerate(LINES):
        for x, cell in zip((20, 200), cells, strict=True):
            canvas.drawString(x, PAGE_HEIGHT - 40 - PITCH * i, cell)
    canvas.save()
    return buffer.getvalue()


@pytest.fixture(scope="module")
def page(pdf) -> PageText:
    return read_page_text(pdf, 1)


@pytest.fixture(scope="module")
def lmm():
    return rave_mlx.load()


def said(page: PageText, value: str) -> list[str]:
    return [page.text[a:b] for a, b in occurrences(page, value)]


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("1.234,50 EUR", ["1.234,50 EUR"]),
        ("1234.5", ["1.234,50"]),
        ("13.6", ["13.60", "13.60"]),
        ("13.60", ["13.60", "13.60"]),
        ("12.50", ["12.50"]),
        ("12.5", ["12.50"]),
        ("K204417", ["K 204-417"]),
        ("k 204-417", ["K 204-417"]),
        ("2026-05-03", ["3 May 2026"]),
        ('"Mill" Lane - 7', ["“Mill” Lane – 7"]),
        ("Total   amount", ["Total amount"]),
        ("amount", ["amount", "amount"]),
        ("mount", []),
        ("360", []),
        ("1250", []),
        ("2026-05-04", []),
        ("", []),
        ("  ", []),
    ],
)
def test_places_of_a_value_in_the_text(page, value, printed):
    assert said(page, value) == printed


def test_values_that_a_line_end_parts():
    text = "Ship to: Ingrid\nHalvor-\nsen"
    found = PageText(text, np.zeros((len(text), 4)), np.zeros(len(text), bool))
    assert said(found, "Ingrid Halvorsen") == ["Ingrid\nHalvor-\nsen"]


def test_boxes_are_those_of_the_print(page, pdf):
    dark = np.asarray(render_page(pdf, 1, 480_000).convert("L")) < 128
    ((left, top, right, bottom),) = find_in_text(page, "1.234,50 EUR")
    height, width = dark.shape
    rows, columns = np.nonzero(dark[:, int(0.45 * width) :])
    line = (rows > height * 62 / PAGE_HEIGHT - 12) & (rows < height * 72 / PAGE_HEIGHT + 12)
    assert left * width == pytest.approx(columns[line].min() + int(0.45 * width), abs=2)
    assert right * width == pytest.approx(columns[line].max() + 1 + int(0.45 * width), abs=2)
    assert top * height == pytest.approx(rows[line].min(), abs=3)
    assert bottom * height == pytest.approx(rows[line].max() + 1, abs=3)


def test_of_equal_values_the_nearest_or_the_labelled_one_is_meant(page):
    total, paid = occurrences(page, "13.60")
    assert pick(page, [total, paid]) == (total, 0.0)
    assert pick(page, [total, paid], label="Paid") == (paid, 1.0)
    assert pick(page, [total, paid], label="total_amount")[0] == total
    assert pick(page, [total, paid], label="amount that was paid")[0] == total
    assert pick(page, [total, paid], near=page.box(*paid), label="total amount")[0] == paid
    assert find_in_text(page, "13.60", label="paid") == [page.box(*paid)]
    assert find_in_text(page, "99") is None


def test_a_label_above_its_value():
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(300, 200))
    for x, label in ((20, "Opening balance"), (160, "Closing balance")):
        canvas.drawString(x, 150, label)
        canvas.drawString(x, 134, "500.00")
    canvas.save()
    page = read_page_text(buffer.getvalue(), 1)
    first, second = occurrences(page, "500")
    assert pick(page, [first, second], label="closing balance")[0] == second
    assert pick(page, [first, second], label="opening balance")[0] == first


def test_a_layer_that_is_of_no_use_is_not_searched():
    text = "Total 13.60"
    useless = PageText(text, np.zeros((len(text), 4)), np.zeros(len(text), bool), unknown=0.5)
    assert occurrences(useless, "13.60") == []


def grid(columns: int, rows: int, side: float) -> TokenBoxes:
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) * side
    return TokenBoxes(np.stack([x, y, x + side, y + side], axis=1), np.zeros(columns * rows, bool), (side, side))


def test_a_region_is_what_lies_together_with_the_heaviest():
    maps = np.full((3, 40), 0.001)  # 8 x 5 cells
    maps[0, 10], maps[1, 11], maps[2, 12] = 0.9, 0.8, 0.9
    maps[1, 39] = 0.5
    found = find_region(maps, grid(8, 5, 16))
    assert found is not None
    assert found.box == (32, 16, 80, 32)
    assert find_region(np.zeros((0, 40)), grid(8, 5, 16)) is None
    assert find_region(np.zeros((2, 40)), grid(8, 5, 16)) is None
    nowhere = TokenBoxes(np.full((40, 4), np.nan), np.zeros(40, bool), (16, 16))
    assert find_region(maps, nowhere) is None
    everywhere = TokenBoxes(np.tile([0.0, 0, 128, 80], (40, 1)), np.zeros(40, bool), (128, 80))
    assert find_region(maps, everywhere) is None


def test_a_region_is_trimmed_to_the_line_and_the_words_it_lies_on():
    ink = np.zeros((60, 120), bool)
    ink[20:28, 30:50:2] = ink[20:28, 70:90:2] = True  # two words, 20 pixels apart
    ink[40:48, 30:90:2] = True  # the line below

    def lying(*boxes, weights=None):
        return Region(np.array(boxes, float), np.ones(len(boxes)) if weights is None else np.array(weights), (16, 16))

    assert trim(lying((32, 16, 48, 32)), ink) == (30, 20, 49, 28)
    assert trim(lying((32, 16, 48, 32), (80, 16, 96, 32)), ink) == (30, 20, 89, 28)
    both = [(32, 16, 48, 32), (32, 32, 48, 48)]
    assert trim(lying(*both, weights=[0.9, 0.2]), ink) == (30, 20, 49, 28)
    wide = [*both, (64, 32, 96, 48)]
    assert trim(lying(*wide, weights=[0.9, 0.8, 0.8]), ink) == (30, 20, 89, 48)
    assert trim(lying((96, 0, 112, 10)), np.zeros((60, 120), bool)) == (96, 0, 112, 10)


def test_heads_that_look_at_one_place_are_chosen():
    weights = np.full((4, 2, 3, 10), 0.1, np.float16)
    weights[:, 1, 2] = 0
    weights[np.arange(4), 1, 2, [3, 4, 5, 5]] = 1.0
    weights[:, 0, 0] = 0.0
    assert choose_heads(weights) == ((1, 2),)


def test_rows_are_those_of_the_answer_as_it_was_written(lmm):
    """Against the recording of `look`, which watches the decoding itself."""
    target = next(iter(targets(1)))
    messages = [ask(target.question.text, target.image)]
    seen = collect(lmm, messages, max_tokens=24)
    ids = [token.id for token in seen.tokens]
    spans = [(0, 1), (2, len(ids) - 1)]
    maps = look_up(lmm, lmm.prepare(messages), ids, spans)
    assert maps.tokens.tolist() == [0, *range(2, len(ids) - 1)]
    expected = seen.weights[maps.tokens].astype(np.float64)
    expected = np.mean([expected[:, layer, head] for layer, head in maps.heads], axis=0)
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.abs(maps.maps - expected).max() < 2e-3  # float16 rows
    assert (4, 2) in maps.heads
    assert len(maps.of((2, 4))) == 2


def shown(target) -> tuple[list[dict], list[ShownPage]]:
    return [ask(target.question.text, target.image)], [ShownPage(3, target.image)]


def test_attention_finds_what_was_read_on_a_scan(lmm):
    """The box of the value is found, its middle lies in the true one and it covers most of that."""
    found = 0
    chosen = list(targets(5, seed=890_000))
    for target in chosen:
        messages, pages = shown(target)
        prompt = lmm.prepare(messages)
        ids = lmm.tokenizer.encode(target.question.answer, first=False)[0]
        (place,) = find_places(lmm, prompt, ids, [Sought(target.question.answer, (0, len(ids)))], pages)
        assert isinstance(place, Place)
        assert (place.page, place.source) == (3, "attention")
        left, top, right, bottom = place.box * np.tile(target.image.size, 2)
        x, y = (left + right) / 2, (top + bottom) / 2
        found += target.box[0] <= x <= target.box[2] and target.box[1] <= y <= target.box[3]
    assert found >= 4


def test_the_text_layer_says_where_and_attention_which(lmm, pdf, page):
    image = render_page(pdf, 1, 120_000)
    prompt = lmm.prepare([ask("What is the Paid?", image)])
    ids = lmm.tokenizer.encode("13.60", first=False)[0]
    sought = [Sought("13.60", (0, len(ids)), "total amount"), Sought("K204417", (0, 1))]
    total, paid = occurrences(page, "13.60")
    pages = [ShownPage(1, image, text=page)]
    watched = find_places(lmm, prompt, ids, sought, pages)
    assert watched[0] == Place(1, page.box(*paid), "text layer")  # asked for what was paid
    labelled = find_places(lmm, prompt, ids, sought, pages, watch=False)
    assert labelled[0] == Place(1, page.box(*total), "text layer")
    assert labelled[1] == watched[1] == Place(1, page.box(*occurrences(page, "K204417")[0]), "text layer")
    lower = [ShownPage(1, image, (0.0, 0.4, 1.0, 1.0), page)]
    assert find_places(lmm, prompt, ids, [Sought("1234.5", (0, 1))], lower, watch=False) == [None]


def test_a_part_of_the_page_is_a_part_of_its_fractions(lmm):
    target = next(iter(targets(1, seed=890_000)))
    messages, _ = shown(target)
    ids = lmm.tokenizer.encode(target.question.answer, first=False)[0]
    sought = [Sought(target.question.answer, (0, len(ids)))]
    prompt = lmm.prepare(messages)
    (whole,) = find_places(lmm, prompt, ids, sought, [ShownPage(1, target.image)])
    (part,) = find_places(lmm, prompt, ids, sought, [ShownPage(2, target.image, (0.5, 0.25, 1.0, 0.75))])
    assert part.page == 2
    assert part.box == pytest.approx(np.array(whole.box) * [0.5, 0.5, 0.5, 0.5] + [0.5, 0.25, 0.5, 0.25])


@pytest.mark.parametrize("name", ["qwen3_vl", "idefics3", "aki", "llava_next"])
def test_every_way_of_cutting_images_gives_boxes(name, tmp_path):
    if name == "aki":  # its images see the rest of their turn
        lmm = rave_mlx.load(write_released(tmp_path / name))
    else:
        case = next(case for key, case in cases().items() if key.startswith(name))
        lmm = rave_mlx.load(write_checkpoint(case, tmp_path / name))
    images = [picture(200, 120, 1), picture(97, 133, 2)]
    prompt = lmm.prepare([ask("Which?", *images)])
    ids = lmm.tokenizer.encode("some answer", first=False)[0]
    pages = [ShownPage(i + 1, image) for i, image in enumerate(images)]
    first, second = find_places(lmm, prompt, ids, [Sought("a", (0, 2)), Sought("b", (2, 3))], pages)
    for place in (first, second):
        assert place is None or (place.page in (1, 2) and 0 <= min(place.box) < max(place.box) <= 1)
    # A resampler's tokens show the whole image.
    assert (first is None and second is None) == (name == "aki")
