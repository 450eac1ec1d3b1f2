"""The printed lines of a page: where they stand and in which order, against pages whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support import form

from rave_mlx.documents.transcription.line_blocks import line_blocks
from rave_mlx.documents.transcription.writing import to_markdown, to_text
from rave_mlx.inputs.lines.ink import find_ink, skew, without_rules
from rave_mlx.inputs.lines.line_crops import crop_lines
from rave_mlx.inputs.lines.page_lines import find_lines
from rave_mlx.synthetic import held_out_page, make


def printed(blocks, size=(600, 400), font=16, background="white", ink="black"):
    """A page with texts at (x, y)."""
    image = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(image)
    for x, y, text in blocks:
        draw.text((x, y), text, fill=ink, font=ImageFont.load_default(font))
    return image


COLUMN = [
    "Some words of running text stand", "in this column, line below line,", "so that it is read to its end",
    "before the other one begins, as", "people do with two columns.",
]  # fmt: skip
ROWS = ["Coffee", "Tea with mint", "Cake", "Water", "Sandwich"]


def tops(page):
    return [round(line.box[1]) for line in page.lines]


def test_lines_of_a_plain_page():
    page = find_lines(form(["First", "Second line", "Third"]))
    assert page.turned == 0
    assert len(page.lines) == 3
    assert tops(page) == sorted(tops(page))
    assert {line.column for line in page.lines} == {page.lines[0].column}


def test_an_empty_page_has_none():
    assert find_lines(Image.new("RGB", (300, 200), "white")).lines == ()
    assert find_lines(Image.new("RGB", (300, 200), (40, 40, 40))).lines == ()
    assert find_lines(Image.new("L", (1, 1))).lines == ()
    noise = np.random.default_rng(0).normal(230, 4, (200, 300)).clip(0, 255).astype(np.uint8)
    assert find_lines(Image.fromarray(noise)).lines == ()


def test_columns_are_read_one_after_the_other():
    both = [(20, 60 + 22 * i, text) for i, text in enumerate(COLUMN)]
    both += [(320, 60 + 22 * i, text) for i, text in enumerate(COLUMN)]
    page = find_lines(printed([(20, 10, "A title above both of the columns, and over the gutter"), *both]))
    assert len(page.lines) == 11
    left = [line.box[0] < 300 for line in page.lines]
    assert left == [True] * 6 + [False] * 5
    assert len({line.column for line in page.lines}) == 3


def test_the_left_column_comes_first_where_it_begins_lower():
    both = [(20, 60 + 22 * i, text) for i, text in enumerate(COLUMN)]
    both += [(320, 38 + 22 * i, text) for i, text in enumerate(COLUMN)]
    left = [line.box[0] < 300 for line in find_lines(printed(both)).lines]
    assert left == [True] * 5 + [False] * 5


def test_rows_of_a_table_are_read_across():
    cells = [(x, 20 + 26 * i, text) for i, name in enumerate(ROWS) for x, text in ((20, name), (320, f"{i}.50 EUR"))]
    page = find_lines(printed(cells))
    assert len(page.lines) == len(ROWS)
    assert all(line.box[0] < 30 and line.box[2] > 350 for line in page.lines)


def test_rules_and_frames_are_no_lines():
    image = form(["Name: Miller", "City: Bonn"])
    draw = ImageDraw.Draw(image)
    for y in (3, 28, 54):
        draw.line([(2, y), (250, y)], fill="black")
    for x in (2, 250):
        draw.line([(x, 3), (x, 54)], fill="black")
    page = find_lines(image)
    assert len(page.lines) == 2
    assert all(9 <= line.box[0] <= 12 and line.box[2] < 130 for line in page.lines)


def test_light_text_on_a_dark_band():
    image = printed([(20, 100, "Dark on light")], (300, 160))
    ImageDraw.Draw(image).rectangle([0, 0, 300, 50], fill=(20, 30, 90))
    ImageDraw.Draw(image).text((20, 15), "Light on dark", fill="white", font=ImageFont.load_default(16))
    page = find_lines(image)
    assert len(page.lines) == 2
    assert all(18 <= line.box[0] <= 24 for line in page.lines)


@pytest.mark.parametrize("angle", [-2.0, -0.7, 0.4, 1.5])
def test_leaning_pages_are_leveled(angle):
    image = printed([(60, 60 + 22 * i, " ".join(COLUMN[:2])) for i in range(12)], (700, 400))
    page = find_lines(image.rotate(angle, Image.Resampling.BICUBIC, fillcolor="white"))
    assert page.turned == pytest.approx(angle, abs=0.15)
    assert len(page.lines) == 12
    for number, line in enumerate(page.lines):
        # On the page as it was, the line lies where rotating has put it.
        left, top, right, bottom = page.original(line.box)
        middle = np.array([(left + right) / 2 - 350, (top + bottom) / 2 - 200])
        turn = np.deg2rad(angle)
        x, y = (
            middle[0] * np.cos(turn) - middle[1] * np.sin(turn),
            middle[0] * np.sin(turn) + middle[1] * np.cos(turn),
        )
        assert y + 200 == pytest.approx(60 + 22 * number + 9, abs=5)
        assert x + 350 == pytest.approx((line.box[0] + line.box[2]) / 2, abs=5)


def test_generated_documents_keep_their_lines():
    """Pages of layouts, fonts and noise of every kind: most have each of their lines, in order."""
    right = total = 0
    for seed in range(24):
        document = make(5000 + seed, held_out_page())
        if document.layout.split("/")[0] in ("chart", "columns"):
            continue
        truth: dict[int, list[float]] = {}
        for word in document.words:
            if word.line >= 0:
                box = truth.setdefault(word.line, [*word.box])
                truth[word.line] = [*map(min, box[:2], word.box[:2]), *map(max, box[2:], word.box[2:])]
        page = find_lines(document.image)
        found, wanted = [page.original(line.box) for line in page.lines], [truth[line] for line in sorted(truth)]
        total += 1
        right += len(found) == len(wanted) and all(
            min(a[3], b[3]) - max(a[1], b[1]) > 0.5 * min(a[3] - a[1], b[3] - b[1])
            for a, b in zip(found, wanted, strict=True)
        )
    assert right >= 0.9 * total


def test_ink_is_found_in_shade():
    clean = form(["Some text", "and more"])
    shade = np.linspace(0.6, 1.0, clean.width)[None, :, None]
    shaded = Image.fromarray((np.asarray(clean) * shade).astype(np.uint8))
    assert np.mean(find_ink(shaded) != find_ink(clean)) < 0.01


def test_rules_go_and_letters_stay():
    ink = np.zeros((60, 200), bool)
    ink[10] = True  # a rule
    ink[20:32, 5:8] = ink[20:32, 20:23] = True  # letters
    left = without_rules(ink)
    assert not left[10].any()
    assert left[20:32, 5:8].all()
    assert skew(np.zeros((40, 40), bool)) == 0


def test_crops_have_the_size_that_is_read_best():
    crops = crop_lines(find_lines(printed([(20, 30, "Large print"), (20, 90, "x " * 250)], (3000, 300), font=40)))
    assert [round(crop.box[1] * 300) // 30 for crop in crops if not crop.goes_on] == [1, 3]
    assert crops[0].most < 80
    for crop in crops:
        assert crop.picture.height >= 64
        assert 64 <= crop.picture.width <= 848
        assert len(find_lines(crop.picture).lines) == 1
    # Every x stands on one of the parts.
    parts = crops[1:]
    assert len(parts) > 3
    assert [crop.goes_on for crop in parts] == [False] + [True] * (len(parts) - 1)
    (block,) = line_blocks(
        parts, [f" part {n} " for n in range(len(parts))], [0.9, None, 0.4] + [1.0] * (len(parts) - 3)
    )
    assert block.text == " ".join(f"part {n}" for n in range(len(parts)))
    assert block.certainty == 0.4


def test_lines_become_paragraphs_headings_and_breaks():
    texts = ["Registration", "Name: Elena", "City: Bonn", *COLUMN]
    image = Image.new("RGB", (600, 400), "white")
    draw = ImageDraw.Draw(image)
    draw.text((20, 10), texts[0], fill="black", font=ImageFont.load_default(28))
    for number, text in enumerate(texts[1:3]):
        draw.text((20, 70 + 22 * number), text, fill="black", font=ImageFont.load_default(16))
    for number, text in enumerate(texts[3:]):
        draw.text((20, 150 + 22 * number), text, fill="black", font=ImageFont.load_default(16))
    crops = crop_lines(find_lines(image))
    assert len(crops) == len(texts)
    blocks = line_blocks(crops, texts, [0.9] * len(texts))
    assert to_text(blocks) == "Registration\n\nName: Elena\nCity: Bonn\n\n" + "\n".join(COLUMN)
    assert to_markdown(blocks) == "# Registration\n\nName: Elena  \nCity: Bonn\n\n" + "\n".join(COLUMN)
    assert line_blocks(crops, [""] * len(texts), [None] * len(texts)) == []
