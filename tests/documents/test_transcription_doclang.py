"""DocLang as docling-core writes it; and what a model may leave open."""

from __future__ import annotations

import pytest

from rave_mlx.documents.transcription.answer_formats import read_answer
from rave_mlx.documents.transcription.doclang import read_doclang

PAGE = """<doclang version="0.7.0">
  <heading level="1"><location value="51" resolution="512"/><location value="51" resolution="512"/>
    <location value="256" resolution="512"/><location value="102" resolution="512"/>My title</heading>
  <heading level="3">Sub</heading>
  <text><location value="0" resolution="512"/><location value="256"/><location value="511"/><location value="307"/>
    A &lt; b <bold>&amp; c</bold>
  </text>
  <code><content>print(1)
  x &lt; 2</content></code>
  <list class="ordered"><ldiv><marker>1.</marker></ldiv>one<ldiv><marker>2.</marker></ldiv><text>two</text>
    <list><ldiv/>deep</list><ldiv/>three</list>
  <table><caption>Cap</caption><ched/>a<ched/>b &amp; c<nl/><fcel/>1<ecel/><nl/></table>
  <text><checkbox class="selected"/>yes</text>
  <text><![CDATA[<b>raw</b>]]></text>
</doclang>"""


def test_a_page():
    blocks = read_doclang(PAGE)
    assert [(b.kind, b.text) for b in blocks] == [
        ("title", "My title"), ("heading", "Sub"), ("paragraph", "A < b & c"), ("code", "print(1)\n  x < 2"),
        ("list item", "one"), ("list item", "two"), ("list item", "deep"), ("list item", "three"), ("caption", "Cap"),
        ("table", blocks[9].text), ("paragraph", "☑ yes"), ("paragraph", "<b>raw</b>"),
    ]  # fmt: skip
    assert [cell.text for cell in blocks[9].table.cells] == ["a", "b & c", "1", ""]
    assert [cell.header for cell in blocks[9].table.cells] == [True, True, False, False]
    assert (blocks[1].level, blocks[4].marker, blocks[6].level, blocks[7].level) == (3, "1.", 1, 0)
    assert blocks[2].box == pytest.approx((0.0, 0.5, 0.998, 0.6), abs=2e-3)
    for block in (blocks[1], blocks[2], blocks[7]):
        part = PAGE[slice(*block.span)]
        assert block.text.split()[0] in part, part
    assert read_answer(PAGE, "doclang", "loc500")[0].box == pytest.approx((0.1, 0.1, 0.5, 0.2), abs=2e-3)


@pytest.mark.parametrize("stop", range(0, len(PAGE), 7))
def test_an_answer_that_was_cut_is_read_as_far_as_it_goes(stop):
    for block in read_doclang(PAGE[:stop]):
        assert 0 <= block.span[0] <= block.span[1] <= stop


def test_what_docling_core_writes_is_read():
    types = pytest.importorskip("docling_core.types.doc")
    document, label = types.DoclingDocument(name="x"), types.DocItemLabel
    document.add_title("My title")
    document.add_heading("Section", level=1)
    document.add_text(label=label.TEXT, text="A < b & c")
    document.add_text(label=label.FORMULA, text="x^2")
    document.add_text(label=label.PAGE_HEADER, text="head")
    document.add_code("print(1)\nx")
    for numbered in (False, True):
        group = document.add_list_group()
        for number, word in enumerate(("one", "two"), 1):
            document.add_list_item(word, parent=group, enumerated=numbered, marker=f"{number}." if numbered else None)
    cells = [
        types.TableCell(
            text=text, start_row_offset_idx=r, end_row_offset_idx=r + 1, start_col_offset_idx=c,
            end_col_offset_idx=c + 1, column_header=r == 0,
        )
        for r, row in enumerate([["a", "b"], ["1", "2 & 3"]])
        for c, text in enumerate(row)
    ]  # fmt: skip
    document.add_table(types.TableData(table_cells=cells, num_rows=2, num_cols=2))
    blocks = read_doclang(document.export_to_doclang())
    assert [b.kind for b in blocks] == [
        "title", "heading", "paragraph", "formula", "page header", "code", *["list item"] * 4, "table",
    ]  # fmt: skip
    assert [b.text for b in blocks[:6]] == ["My title", "Section", "A < b & c", "x^2", "head", "print(1)\nx"]
    assert [(b.text, b.marker) for b in blocks[6:10]] == [("one", "-"), ("two", "-"), ("one", "1."), ("two", "2.")]
    assert [cell.text for cell in blocks[10].table.cells] == ["a", "b", "1", "2 & 3"]
