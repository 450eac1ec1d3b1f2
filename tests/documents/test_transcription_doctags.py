"""DocTags against docling-core: what is written by it is read as by it; and what no one would write."""

from __future__ import annotations

import random

import pytest

from rave_mlx.documents.transcription.answer_formats import read_answer
from rave_mlx.documents.transcription.doctags import read_doctags
from rave_mlx.documents.transcription.otsl import read_otsl
from rave_mlx.documents.transcription.writing import to_markdown

WORDS = ("Invoice", "total", "of", "the", "3.50", "EUR", "net", "P < 0.05", "a & b", "x_y", "Straße", "10 %", "Q1")


def text_of(rng, most=6):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def loc(rng):
    left, right = sorted(rng.sample(range(501), 2))
    top, bottom = sorted(rng.sample(range(501), 2))
    return f"<loc_{left}><loc_{top}><loc_{right}><loc_{bottom}>"


def random_otsl(rng, words=WORDS[:7] + WORDS[8:]):
    """A table whose merged cells are rectangles, without the mark at which docling-core cuts the text of cells."""
    rows, columns = rng.randint(1, 5), rng.randint(1, 5)
    grid = [[None] * columns for _ in range(rows)]
    for r in range(rows):
        for c in range(columns):
            if grid[r][c] is not None:
                continue
            height, width = rng.choice(((1, 1), (1, 1), (1, 1), (1, 2), (2, 1), (2, 2)))
            places = [(r + i, c + j) for i in range(height) for j in range(width)]
            if any(y >= rows or x >= columns or grid[y][x] is not None for y, x in places):
                places = [(r, c)]
            for y, x in places:
                grid[y][x] = "<xcel>" if y > r and x > c else "<ucel>" if y > r else "<lcel>"
            tag = "ched" if r == 0 else rng.choice(("fcel", "fcel", "ecel", "rhed"))
            grid[r][c] = f"<{tag}>" + ("" if tag == "ecel" else f"{rng.choice(words)} {rng.choice(words)}")
    return "".join("".join(row) + "<nl>" for row in grid)


def random_page(rng):
    parts = []
    for _ in range(rng.randint(1, 8)):
        kind = rng.choice(("text", "section_header_level_1", "section_header_level_2", "otsl", "list", "page_footer",
                           "caption", "footnote", "formula", "code"))  # fmt: skip
        if kind == "otsl":
            parts.append(f"<otsl>{loc(rng)}{random_otsl(rng)}</otsl>")
        elif kind == "list":
            items = "".join(f"<list_item>{loc(rng)}{text_of(rng)}</list_item>" for _ in range(rng.randint(1, 3)))
            parts.append(f"<unordered_list>{items}</unordered_list>")
        elif kind == "code":
            parts.append(f"<code>{loc(rng)}<_Python_>{text_of(rng)}</code>")
        else:
            parts.append(f"<{kind}>{loc(rng)}{text_of(rng)}</{kind}>")
    return "<doctag>" + "\n".join(parts) + "</doctag>"


def docling(page):
    document = pytest.importorskip("docling_core.types.doc.document")
    from PIL import Image

    tags = document.DocTagsDocument.from_doctags_and_image_pairs([page], [Image.new("RGB", (500, 500))])
    return document.DoclingDocument.load_from_doctags(tags, document_name="page")


@pytest.mark.parametrize("seed", range(120))
def test_pages_are_read_as_docling_reads_them(seed):
    page = random_page(random.Random(seed))
    theirs = docling(page)
    found = []
    for item, _ in theirs.iterate_items(included_content_layers={"body", "furniture"}):
        label = item.label.value
        box = None if not item.prov else tuple(x / 500 for x in item.prov[0].bbox.as_tuple())
        text = None if label == "table" else item.text
        found.append((label, text, box))
    names = {"heading": "section_header", "paragraph": "text", "list item": "list_item", "page footer": "page_footer"}
    ours = [
        (names.get(block.kind, block.kind), None if block.kind == "table" else block.text, block.box)
        for block in read_doctags(page)
    ]
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in found]
    for (_, _, box), (_, _, other) in zip(ours, found, strict=True):
        assert box == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize("seed", range(120))
def test_tables_have_the_cells_that_docling_finds(seed):
    otsl = random_otsl(random.Random(1000 + seed))
    (theirs,) = docling(f"<doctag><otsl>{otsl}</otsl></doctag>").tables
    wanted = {
        (c.start_row_offset_idx, c.start_col_offset_idx, c.end_row_offset_idx, c.end_col_offset_idx, c.text.strip())
        for c in theirs.data.table_cells
    }
    table = read_otsl(otsl)
    assert {(c.row, c.column, c.row + c.rows, c.column + c.columns, c.text) for c in table.cells} == wanted
    assert table.size == (theirs.data.num_rows, theirs.data.num_cols)


def test_cells_keep_a_mark_that_is_no_tag():
    assert [cell.text for cell in read_otsl("<ched>P < 0.05<fcel>a > b<nl>").cells] == ["P < 0.05", "a > b"]


def test_markdown_of_a_page():
    page = (
        "<doctag><title>Report</title><section_header_level_1><loc_1><loc_1><loc_9><loc_9>One</section_header_level_1>"
        "<text>First.</text><ordered_list><list_item>a</list_item><list_item>b</list_item></ordered_list>"
        "<otsl><caption>Prices</caption><ched>Item<ched>EUR<nl><fcel>Tea<fcel>1.10<nl></otsl>"
        "<picture><caption>A chart</caption></picture><formula>a^2</formula><checkbox_selected>paid</checkbox_selected>"
        "</doctag>"
    )
    assert to_markdown(read_doctags(page)) == (
        "# Report\n\n## One\n\nFirst.\n\n1. a\n2. b\n\nPrices\n\n| Item | EUR |\n| --- | --- |\n| Tea | 1.10 |\n\n"
        "A chart\n\n$$\na^2\n$$\n\n☑ paid"
    )


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_an_answer_may_end_anywhere(length):
    page = random_page(random.Random(5))
    whole, part = read_doctags(page), read_doctags(page[:length])
    assert len(part) <= len(whole) + 1
    for ours, complete in zip(part[:-1], whole, strict=False):
        assert (ours.kind, ours.text, ours.box) == (complete.kind, complete.text, complete.box)


def test_elements_that_are_not_closed():
    blocks = read_doctags("<text><loc_0><loc_0><loc_500><loc_250>one<section_header_level_1>two<text>three</text>loose")
    assert [(b.kind, b.text) for b in blocks] == [
        ("paragraph", "one"), ("heading", "two"), ("paragraph", "three"), ("paragraph", "loose")
    ]  # fmt: skip
    assert blocks[0].box == (0, 0, 1, 0.5)


def test_boxes_go_through_as_fractions():
    (block,) = read_answer("<text><loc_50><loc_100><loc_250><loc_500>x</text>", "doctags", "loc500")
    assert block.box == (0.1, 0.2, 0.5, 1.0)
