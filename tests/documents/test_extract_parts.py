"""What extraction is made of, without a model: questions, parts of pages, tables, spelling, combination, rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support import form

from rave_mlx.checkpoint.directory import BUILT_IN, read_config
from rave_mlx.documents.extraction.ask_tables import AskedTable, list_of_tables
from rave_mlx.documents.extraction.combine import combine
from rave_mlx.documents.extraction.extract import read_schema
from rave_mlx.documents.extraction.instructions import instruction
from rave_mlx.documents.extraction.plan import PageFrame, ReadPage
from rave_mlx.documents.extraction.questions import questions_of
from rave_mlx.documents.extraction.regions import cut_regions, turned_back
from rave_mlx.documents.extraction.results import Extraction, Node, Value
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.documents.extraction.spelling import respelled
from rave_mlx.documents.extraction.tables_of_page import Table, find_tables
from rave_mlx.documents.extraction.values import Hints
from rave_mlx.generation.job import Answer
from rave_mlx.inputs.images.pdf_text import PageText
from rave_mlx.inputs.lines.page_lines import find_lines

CONFIG = read_config(BUILT_IN).image
ITEMS = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"description": {"type": "string"}, "quantity": {"type": "integer"},
                               "amount": {"type": "number"}},
            },
        }
    },
}  # fmt: skip


def page_text(text: str) -> PageText:
    """A text layer with a row of boxes, a character a hundredth of the page wide."""
    boxes = np.array([(0.01 * i, 0.1, 0.01 * i + 0.01, 0.12) for i in range(len(text))])
    boxes[[c.isspace() for c in text]] = np.nan
    return PageText(text, boxes, np.zeros(len(text), bool))


@pytest.mark.parametrize(
    ("name", "schema", "asked"),
    [
        ("due_date", {"type": "string"}, ["What is the due date?"]),
        ("invoiceNumber", {"type": "string"}, ["What is the invoice number?"]),
        ("IBAN", {"type": "string"}, ["What is the IBAN?"]),
        ("who", {"type": "string", "description": "Who is the seller?"}, ["Who is the seller?"]),
        ("vat", {"title": "VAT", "description": "The tax."}, ["What is the VAT?", "What is the tax?"]),
        ("x", {"description": "a text that is much too long to be asked for by itself"}, ["What is the x?"]),
    ],
)  # fmt: skip
def test_questions(name, schema, asked):
    root = ExtractionSchema.of({"type": "object", "properties": {name: schema}}).root
    assert list(questions_of(root.fields[0], root)) == asked


def test_fields_of_objects_are_asked_for_with_the_objects_name():
    customer = {"type": "object", "properties": {"first_name": {"type": "string"}}}
    root = ExtractionSchema.of({"type": "object", "properties": {"customer": customer}}).root
    (leaf,) = root.leaves()
    assert questions_of(leaf, root) == ("What is the customer first name?",)


def test_names_of_fields_and_schema_files(tmp_path):
    assert [field.name for field in read_schema("total, due date").fields] == ["total", "due date"]
    path = tmp_path / "s.json"
    path.write_text(json.dumps(ITEMS))
    assert [field.name for field in read_schema(str(path)).fields] == ["items"]


def test_instruction_names_every_field():
    schema = ExtractionSchema.of({
        "type": "object",
        "properties": {
            "due": {"type": "string", "format": "date", "description": "when it must be paid"},
            "state": {"enum": ["paid", "open"]},
            **ITEMS["properties"],
        },
    })  # fmt: skip
    text = instruction(schema, template=False)
    assert '- due (date as YYYY-MM-DD): when it must be paid\n- state (one of "paid", "open")' in text
    assert "- items (list of object)\n  - description (text)\n  - quantity (whole number)\n  - amount (number)" in text
    shape = instruction(schema, template=True)
    assert json.loads(shape.removeprefix("# Template:\n").removesuffix("\n# Context:\n")) == {
        "due": "date",
        "state": ["paid", "open"],
        "items": [{"description": "verbatim-string", "quantity": "integer", "amount": "number"}],
    }


def test_regions_show_every_line_and_fit_the_model():
    sheet = Image.new("RGB", (1654, 2339), "white")
    draw = ImageDraw.Draw(sheet)
    for number in range(30):
        y = 150 + 60 * number + 90 * (number // 5)
        draw.text((160, y), f"Label {number}", fill="black", font=ImageFont.load_default(30))
        draw.text((1200, y), f"value {number}", fill="black", font=ImageFont.load_default(30))
    page = find_lines(sheet)
    regions = cut_regions(page, CONFIG)
    assert len(regions) > 3
    assert all(region.image.width * region.image.height <= CONFIG.max_pixels for region in regions)
    for line in page.lines:
        assert any(
            r.box[0] <= line.box[0] and r.box[1] <= line.box[1] and r.box[2] >= line.box[2] and r.box[3] >= line.box[3]
            for r in regions
        )
    assert cut_regions(find_lines(Image.new("RGB", (800, 600), "white")), CONFIG) == []


def test_boxes_turn_back_with_the_page():
    page = form(["A line of print that is long enough", "and another one that is as long"], (400, 120), 18)
    leaning = page.rotate(1.5, Image.Resampling.BICUBIC, fillcolor="white")
    leveled = find_lines(leaning)
    assert leveled.turned == pytest.approx(1.5, abs=0.3)
    for line in leveled.lines:
        assert turned_back(line.box, leveled.turned, leaning.size) == pytest.approx(leveled.original(line.box))


def test_tables_are_seen_from_white_space():
    sheet = Image.new("RGB", (700, 420), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    draw.text((20, 20), "A heading, and no row of the table", fill="black", font=font)
    rows = [("Item", "Qty", "Amount"), ("Blue paper", "12", "4.50"), ("Ink", "1", "19.00"), ("Pens", "3", "7.10")]
    for number, row in enumerate(rows):
        for x, text in zip((20, 360, 560), row, strict=True):
            draw.text((x, 110 + 36 * number), text, fill="black", font=font)
    draw.text((20, 360), "Thank you for your custom", fill="black", font=font)
    (table,) = find_tables(find_lines(sheet), columns=3)
    assert (len(table.rows), table.columns) == (4, 3)
    left, top, right, bottom = table.rows[2][2]
    assert 555 <= left < right <= 625
    assert 176 <= top < bottom <= 205


def asked_table(cells: list[list[str]], unread: tuple[tuple[int, int], ...] = ()) -> AskedTable:
    """A table as if a model had read it."""
    boxes = [
        [(100.0 * c, 40.0 * r, 100.0 * c + 60, 40.0 * r + 20) for c in range(len(row))] for r, row in enumerate(cells)
    ]
    page = ReadPage(PageFrame(2, 595, 842, "point"), (1190, 1684))
    field = ExtractionSchema.of(ITEMS).fields[0]
    table = AskedTable(field, Table(tuple(tuple(row) for row in boxes)), page)
    for r, row in enumerate(cells):
        for c, text in enumerate(row):
            ending = "length" if (r, c) in unread else "stop"
            table.take(r, c, Answer(None, text, probabilities=np.array([0.8], np.float32), ending=ending))
    return table


def test_columns_are_told_by_header_and_content():
    table = asked_table([["Qty", "Article", "Line total"], ["2", "Paper A4", "1,250.00 €"], ["10", "Ink", "7.50 €"]])
    found = list_of_tables(table.field, [table], Hints())
    assert found.plain() == [
        {"description": "Paper A4", "quantity": 2, "amount": 1250.0},
        {"description": "Ink", "quantity": 10, "amount": 7.5},
    ]
    amount = found.items[0].fields["amount"].leaf
    assert (amount.page, amount.raw) == (2, "1,250.00 €")
    assert amount.box == pytest.approx((100, 20, 130, 30))
    assert amount.certainty == pytest.approx(0.8)


def test_a_cell_that_does_not_fit_is_null_with_what_was_read():
    table = asked_table([["Description", "Quantity", "Amount"], ["Paper", "two", "3.10"], ["Ink", "1", "7.50"]])
    cell = list_of_tables(table.field, [table], Hints()).items[0].fields["quantity"].leaf
    assert (cell.value, cell.raw) == (None, "two")
    assert "two" in cell.problem


def test_no_table_is_null_with_the_reason():
    table = asked_table([["Name", "Town", "Phone"], ["Ann", "Kilbride", "none"], ["Bob", "Marlow", "none"]])
    assert list_of_tables(table.field, [table], Hints()).leaf.problem == "no table on the pages has such columns"
    assert list_of_tables(table.field, [], Hints()).leaf.problem == "no table is seen on the pages"


def test_spelling_is_that_of_the_page():
    page = page_text("hoshino@example.org  Replacement valve 15 mm  INV-2041 INV-2042")
    whole = (0.0, 0.0, 1.0, 1.0)
    assert respelled("hoshino@xample.org", page, whole) == "hoshino@example.org"
    assert respelled("Replacement vale 15 mm", page, whole) == "Replacement valve 15 mm"
    assert respelled("INV-2042", page, whole) == "INV-2042"
    assert respelled("INV-204", page, whole) == "INV-204"  # two are as near
    assert respelled("Aldwick", page, whole) == "Aldwick"
    assert respelled("hoshino@xample.org", page, (0.5, 0.0, 1.0, 1.0)) == "hoshino@xample.org"
    assert respelled("hoshino@xample.org", None, whole) == "hoshino@xample.org"


def leaf(value, certainty=0.9, page=1, problem=None) -> Node:
    return Node(leaf=Value(value, certainty, page if value is not None else None, problem=problem))


def test_parts_of_a_document_are_combined():
    schema = {"type": "object", "properties": {"total": {"type": "number"}, "name": {"type": "string"},
              "none": {"type": "string"}, "rows": {"type": "array", "items": {"type": "string"}}}}  # fmt: skip
    root = ExtractionSchema.of(schema).root
    parts = [
        Node(fields={"total": leaf(None, 0.99), "name": leaf("Ann", 0.7), "none": leaf(None, 0.8),
                     "rows": Node(items=(leaf("a"), leaf("b")))}),
        Node(fields={"total": leaf(12.5, 0.4, 3), "name": leaf("Bob", 0.6, 3), "none": leaf(None, 0.6),
                     "rows": Node(items=(leaf("b", page=3), leaf("c", page=3)))}),
    ]  # fmt: skip
    found = combine(root, parts)
    assert found.plain() == {"total": 12.5, "name": "Ann", "none": None, "rows": ["a", "b", "b", "c"]}
    assert found.fields["none"].leaf.certainty == 0.6
    # What is repeated on the same page, or where no place is known, is one item.
    same = [Node(items=(leaf("a"), leaf("b"))), Node(items=(leaf("b"), leaf("c")))]
    assert combine(root.fields[3], same).plain() == ["a", "b", "c"]


def test_a_row_is_as_the_command_writes_it():
    value = Value(13.6, 0.97123, 1, (10.0, 20.004, 30.0, 40.0), "13,60 €")
    node = Node(fields={"total": Node(leaf=value), "items": Node(items=(Node(fields={"n": Node(leaf=Value())}),))})
    row = Extraction("a.pdf", "ab", 3, node, "point").as_row()
    assert row == {
        "file": "a.pdf", "sha256": "ab", "pages": 3, "unit": "point",
        "fields": {
            "total": {"value": 13.6, "certainty": 0.9712, "page": 1, "box": [10.0, 20.0, 30.0, 40.0], "raw": "13,60 €"},
            "items": [{"n": {"value": None, "certainty": 0.0, "page": None, "box": None}}],
        },
        "error": None,
    }  # fmt: skip
    assert [path for path, _ in node.leaves()] == ["total", "items[0].n"]
