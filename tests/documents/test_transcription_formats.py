"""What models write becomes blocks: Markdown, HTML, front matter, layouts, LaTeX; and back."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rave_mlx.documents.transcription.answer_formats import Shown, read_answer
from rave_mlx.documents.transcription.html_blocks import read_html, read_table
from rave_mlx.documents.transcription.markdown_blocks import plain_markdown, read_markdown, strip_fence
from rave_mlx.documents.transcription.prompt_file import Format
from rave_mlx.documents.transcription.table import Cell, Table, from_markdown, place_cells
from rave_mlx.documents.transcription.writing import to_markdown, to_text

PAGE = """# Invoice *2291*

Dear **Ms Howard**,
thank you for your [order](http://x).

- one
- two
  goes on
    - inner
3. three

| Item | EUR |
|:-----|----:|
| Tea \\| mint | 1.10 |
| Cake | 2.00 |

<table><tr><th rowspan="2">A</th><td>b</td></tr>
<tr><td>c &amp; d</td></tr></table>

```python
x = 1
```

$$
E = mc^2
$$

Heading
=======

![A chart](page_1_2_3_4.png)

<page_number>7</page_number>
"""


def kinds(blocks):
    return [(block.kind, block.text) for block in blocks]


def test_markdown_page():
    blocks = read_markdown(PAGE)
    assert kinds(blocks) == [
        ("heading", "Invoice 2291"),
        ("paragraph", "Dear Ms Howard,\nthank you for your order."),
        ("list item", "one"),
        ("list item", "two\ngoes on"),
        ("list item", "inner"),
        ("list item", "three"),
        ("table", "Item\tEUR\nTea | mint\t1.10\nCake\t2.00"),
        ("table", "A\tb\n\tc & d"),
        ("code", "x = 1"),
        ("formula", "E = mc^2"),
        ("heading", "Heading"),
        ("picture", "A chart"),
        ("page footer", "7"),
    ]
    assert [block.level for block in blocks[2:6]] == [0, 0, 2, 0]
    assert blocks[7].table.cells[0] == Cell("A", 0, 0, rows=2, header=True)
    for block in blocks:
        # Every block knows what it was read from.
        assert block.text.split()[0].strip("*|") in PAGE[slice(*block.span)].replace("&amp;", "&")


def test_markdown_written_again_says_the_same():
    once = to_markdown(read_markdown(PAGE))
    assert to_markdown(read_markdown(once)) == once
    assert kinds(read_markdown(once))[:-2] == kinds(read_markdown(PAGE))[:-2]
    assert "| Tea \\| mint | 1.10 |" in once
    assert '<th rowspan="2">A</th>' in once


def test_text_of_a_page():
    assert to_text(read_markdown("# A\n\nb\nc\n\n- d\n- e\n\n| x | y |\n|---|---|\n| 1 | 2 |")) == (
        "A\n\nb\nc\n\n- d\n- e\n\nx\ty\n1\t2"
    )


def test_text_that_looks_like_markdown_is_escaped():
    text = "# no heading\n1. no item\n> no quote\n- none\n*a* `b` <b>c</b>\n---"
    written = to_markdown(read_answer(text, "text"))
    assert kinds(read_markdown(written)) == [("paragraph", text)]


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("```markdown\n# A\n```", "# A"),
        ("```\n# A\n```\n", "# A"),
        ("```html\n<p>A", "<p>A"),
        ("# A", "# A"),
        ("```python\nx\n```\n\nmore\n\n```\ny\n```", "```python\nx\n```\n\nmore\n\n```\ny\n```"),
    ],
)
def test_fences_around_a_whole_answer(text, inner):
    body, start = strip_fence(text)
    assert body == inner
    assert text[start:].startswith(body)


@pytest.mark.parametrize(
    ("markdown", "plain"),
    [
        ("a **b** *c* _d_ `e`", "a b c d e"),
        ("snake_case_name 2 * 3 * 4", "snake_case_name 2 * 3 * 4"),
        ("1\\. x \\* y", "1. x * y"),
        ("x<sup>2</sup> &lt; y<br>z", "x2 < y\nz"),
        ("$a_1 * b_2$", "$a_1 * b_2$"),
        ("[text](url) and ![alt](src)", "text and alt"),
    ],
)
def test_plain_text_of_markdown(markdown, plain):
    assert plain_markdown(markdown) == plain


def test_latex_that_models_mix_in():
    text = (
        "\\title{A report}\n\\section*{One}\nText.\n\n"
        "\\begin{tabular}{|l|r|}\n\\hline\n\\multicolumn{2}{|c|}{Both} \\\\\n"
        "\\hline\n\\multirow{2}{*}{a} & 1 \\\\\n & 2 \\% \\\\\n\\hline\n\\end{tabular}\n\nEnd."
    )
    blocks = read_answer(text, "got")
    assert kinds(blocks) == [
        ("title", "A report"), ("heading", "One"), ("paragraph", "Text."), ("table", "Both\t\na\t1\n\t2 %"),
        ("paragraph", "End."),
    ]  # fmt: skip
    assert [(c.rows, c.columns) for c in blocks[3].table.cells] == [(1, 2), (2, 1), (1, 1), (1, 1)]


def test_qwen_markdown_has_places_of_pictures():
    text = "# A\n\n<!-- Image (100, 200, 300, 400) -->\n\n<!-- Table (0, 500, 1000, 600) -->\n| a | b |\n|---|---|\n"
    blocks = read_answer(text, "markdown", "thousandths")
    assert [(b.kind, b.box) for b in blocks] == [
        ("heading", None), ("picture", (0.1, 0.2, 0.3, 0.4)), ("table", (0.0, 0.5, 1.0, 0.6))
    ]  # fmt: skip


HTML = """```html
<html><body>
<h1 data-bbox="84 50 420 90">Invoice</h1>
<p data-bbox="84 100 420 130">First<br>second &amp; third</p>
<ol data-bbox="84 140 420 200"><li>one</li><li>two</li></ol>
<div class="image" data-bbox="500 50 800 200"><img data-bbox="500 50 800 200"/></div>
<div class="formula" data-bbox="84 210 420 230"><div>E=mc^2</div></div>
<table data-bbox="84 240 800 400"><thead><tr><th>a</th><th colspan="2">b</th></tr></thead>
<tbody><tr><td>1<td>2<td>3</tr></tbody></table>
</body></html>
```"""


def test_qwen_html_with_boxes():
    blocks = read_answer(HTML, "html", "read_pixels", Shown((840, 420)))
    assert kinds(blocks) == [
        ("heading", "Invoice"), ("paragraph", "First\nsecond & third"), ("list item", "one"), ("list item", "two"),
        ("picture", ""), ("formula", "E=mc^2"), ("table", "a\tb\t\n1\t2\t3"),
    ]  # fmt: skip
    assert blocks[0].box == pytest.approx((0.1, 50 / 420, 0.5, 90 / 420))
    assert blocks[6].box == pytest.approx((0.1, 240 / 420, 800 / 840, 400 / 420))
    assert [block.marker for block in blocks[2:4]] == ["1.", "2."]


def test_chandra_layout_blocks():
    text = (
        '<div data-bbox="[0, 0, 1000, 50]" data-label="Page-Header"><p>Header</p></div>'
        '<div data-bbox="[0, 60, 1000, 90]" data-label="Section-Header"><h2>Two</h2></div>'
        '<div data-bbox="[0, 100, 1000, 200]" data-label="Text"><p>Some <b>bold</b> text <math>x^2</math></p></div>'
        '<div data-bbox="[0, 300, 500, 400]" data-label="Figure"><img alt="a dog"/></div>'
        '<div data-bbox="[0, 500, 500, 600]" data-label="Caption"><p>Figure 1</p></div>'
        '<div data-bbox="[0, 700, 500, 800]" data-label="Form"><input type="checkbox" checked> yes</div>'
    )
    blocks = read_answer(text, "html", "thousandths")
    assert [(b.kind, b.text, b.box) for b in blocks] == [
        ("page header", "Header", (0, 0, 1, 0.05)), ("heading", "Two", (0, 0.06, 1, 0.09)),
        ("paragraph", "Some bold text $x^2$", (0, 0.1, 1, 0.2)), ("picture", "a dog", (0, 0.3, 0.5, 0.4)),
        ("caption", "Figure 1", (0, 0.5, 0.5, 0.6)), ("paragraph", "☑ yes", (0, 0.7, 0.5, 0.8)),
    ]  # fmt: skip


def test_boxes_that_cannot_be():
    for box in ("1 2 3", "a b c d", "0 0 5000 10", ""):
        (block,) = read_answer(f'<p data-bbox="{box}">x</p>', "html", "thousandths")
        assert block.box is None


def test_front_matter_of_olmocr():
    answer = (
        "---\nprimary_language: en\nis_rotation_valid: True\nrotation_correction: 0\nis_table: False\n---\n# A\n\nText"
    )
    blocks = read_answer(answer, "front_matter")
    assert kinds(blocks) == [("heading", "A"), ("paragraph", "Text")]
    assert answer[slice(*blocks[1].span)] == "Text"
    assert read_answer("---\nprimary_language: null\n---\nnull", "front_matter") == []
    assert kinds(read_answer("No header", "front_matter")) == [("paragraph", "No header")]


def test_thoughts_are_left_out():
    answer = "<think>It is a\n# page</think><answer># A</answer>"
    (block,) = read_answer(answer, "thinking")
    assert (block.kind, block.text, answer[slice(*block.span)]) == ("heading", "A", "# A")
    assert read_answer("<think>It never ends", "thinking") == []


def test_layout_json_of_dots_ocr_also_where_it_is_cut():
    items = [
        {"bbox": [10, 20, 300, 40], "category": "Title", "text": "# A title"},
        {"bbox": [10, 50, 300, 90], "category": "Text", "text": "Some **text**"},
        {"bbox": [10, 100, 300, 140], "category": "Table", "text": "<table><tr><td>1</td><td>2</td></tr></table>"},
        {"bbox": [10, 150, 300, 190], "category": "Picture"},
        {"bbox": [10, 200, 300, 240], "category": "Formula", "text": "$$x$$"},
        {"bbox": [10, 250, 300, 290], "category": "List-item", "text": "- item"},
    ]
    text = json.dumps(items)
    blocks = read_answer(text, "layout_json", "read_pixels", Shown((400, 400)))
    assert kinds(blocks) == [
        ("title", "A title"), ("paragraph", "Some text"), ("table", "1\t2"), ("picture", ""), ("formula", "x"),
        ("list item", "item"),
    ]  # fmt: skip
    assert blocks[0].box == (0.025, 0.05, 0.75, 0.1)
    cut = read_answer(text[: text.index("Formula")], "layout_json", "read_pixels", Shown((400, 400)))
    assert cut == blocks[:4]


def random_table(rng):
    rows, taken = [], set()
    height, width = rng.randint(1, 5), rng.randint(1, 5)
    for r in range(height):
        cells = []
        for c in range(width):
            if (r, c) in taken:
                continue
            spans = rng.choice(((1, 1), (1, 1), (1, 2), (2, 1)))
            places = {(r + i, c + j) for i in range(spans[0]) for j in range(spans[1])}
            if places & taken or any(y >= height or x >= width for y, x in places):
                spans, places = (1, 1), {(r, c)}
            taken |= places
            text = rng.choice(("a", "b & c", "1 < 2", "x|y", "two\nlines", ""))
            cells.append(Cell(text, 0, 0, *spans, header=r == 0))
        rows.append(cells)
    return place_cells(rows)


@pytest.mark.parametrize("seed", range(60))
def test_tables_survive_html_and_markdown(seed):
    table = random_table(random.Random(seed))
    assert read_table(table.to_html()) == table
    if table.is_plain:
        lines = table.to_markdown().split("\n")
        assert from_markdown(lines).grid() == table.grid()
    (block,) = read_markdown(table.to_markdown()) if table.to_markdown().strip("|- \n") else [None]
    if block is not None:
        assert block.kind == "table"


def test_html_that_is_no_html():
    assert kinds(read_html("a < b and <unknown>c</unknown>")) == [("paragraph", "a < b and c")]
    assert read_table("no table") == Table(())
    (block,) = read_html('<table><tr><td colspan="9999999">x<td rowspan="-3">y')
    assert [(c.rows, c.columns) for c in block.table.cells] == [(1, 1), (1, 1)]


PIECES = (
    "<table>", "</table>", "<tr>", "<td>", "<p data-bbox='1 2 3 4'>", "|", "---", "\n", "# ", "```", "- ", "a", "$$",
    "<otsl>", "<fcel>", "<nl>", "</otsl>", "<loc_1>", '{"bbox": [1,2,3,4]}', "\\begin{tabular}{l}", "\\\\", "![", "](",
    "</doctag>", "<list_item>", "<ordered_list>", "1. ", "===", "<!--", "\x00", "é", "&",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(Format.__args__), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_nothing_that_a_model_writes_is_an_error(written, text):
    blocks = read_answer(text, written, "thousandths")
    to_markdown(blocks), to_text(blocks)
    assert all(b.span is None or 0 <= b.span[0] <= b.span[1] <= len(text) for b in blocks)
