"""Tables that are made of rows: what a spreadsheet and what pyarrow find in them."""

from __future__ import annotations

import csv
import json
import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rave_mlx.checkpoint.rows_file import RowsFile
from rave_mlx.documents.table_columns import records
from rave_mlx.documents.tables import _for_spreadsheet, check_table, write_tables
from rave_mlx.errors import RaveError, UsageError


def leaf(value, certainty=0.5, page=1, box=(1.0, 2.0, 3.0, 4.0)):
    return {"value": value, "certainty": certainty, "page": page, "box": list(box)}


FIELDS = {
    "total": leaf("13.60"),
    "paid": leaf(True),
    "vendor": {"name": leaf("=Müller & Co"), "value": leaf("x")},
    "tags": [leaf("a", 0.9), leaf("b", 0.4), leaf(None, 0.8)],
    "none": [],
    "items": [
        {"price": leaf(2), "taxes": [{"rate": leaf(0.19)}], "dims": {"w": leaf(3)}},
        {"price": leaf(2.5), "taxes": [], "dims": {"w": leaf(None)}},
    ],
    "file": leaf("named like a column"),
}
ROWS = [
    {"file": "a.pdf", "sha256": "00", "pages": 1, "fields": FIELDS, "error": None},
    {"file": "b.pdf", "sha256": None, "pages": None, "fields": None, "error": "torn"},
    {"file": "c.pdf", "sha256": "01", "pages": 2, "fields": {"total": leaf(None), "items": []}, "error": None},
]
VALUES = ["total", "paid", "vendor.name", "vendor.value", "tags", "none", "fields.file"]


def write(folder, ending, rows=ROWS):
    with RowsFile(folder / f"t{ending}.jsonl", {}) as out:
        for row in rows:
            out.add(row)
    return write_tables(folder / f"t{ending}.jsonl", folder / f"t{ending}")


def spreadsheet(file):
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_spreadsheet_of_the_documents_and_one_of_the_items(tmp_path):
    files = write(tmp_path, ".csv")
    assert [file.name for file in files] == ["t.csv", "t.items.csv"]
    assert files[0].read_bytes().startswith(b"\xef\xbb\xbffile,pages,error,total,")
    a, b, c = spreadsheet(files[0])
    names = list(a)
    assert names[:3] == ["file", "pages", "error"]
    assert names[3 : 3 + len(VALUES)] == VALUES
    assert names[-1] == "sha256"
    assert (a["total"], a["paid"], a["tags"], a["none"]) == ("13.60", "true", "a; b", "")
    assert a["vendor.name"] == "'=Müller & Co"
    assert (a["total (certainty)"], a["total (page)"], a["total (box)"]) == ("0.5", "1", "[1.0, 2.0, 3.0, 4.0]")
    assert a["tags (certainty)"] == "0.4"
    assert (a["file"], a["fields.file"]) == ("a.pdf", "named like a column")
    assert (b["file"], b["error"], b["total"], b["pages"]) == ("b.pdf", "torn", "", "")
    assert (c["total"], c["total (certainty)"]) == ("", "0.5")
    items = spreadsheet(files[1])
    assert [(i["file"], i["item"], i["price"], i["dims.w"], i["taxes"]) for i in items] == [
        ("a.pdf", "1", "2", "3", '[{"rate": 0.19}]'),
        ("a.pdf", "2", "2.5", "", ""),
    ]


def test_parquet_has_the_same_with_types(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = write(tmp_path, ".parquet")
    table = parquet.read_table(files[0])
    types = {name: table.schema.field(name).type for name in ("pages", "paid", "total", "total (certainty)")}
    assert types == {
        "pages": pyarrow.int64(), "paid": pyarrow.bool_(), "total": pyarrow.string(),
        "total (certainty)": pyarrow.float64(),
    }  # fmt: skip
    assert table.column("vendor.name").to_pylist() == ["=Müller & Co", None, None]
    assert table.column_names == list(spreadsheet(write(tmp_path, ".csv")[0])[0])
    items = parquet.read_table(files[1]).to_pylist()
    assert [(item["price"], item["dims.w"]) for item in items] == [(2.0, 3), (2.5, None)]


def test_columns_with_several_types_are_text(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    values = [1, "one", 2.5, True, None, 10**30]
    rows = [{"file": str(n), "fields": {"v": leaf(value)}, "error": None} for n, value in enumerate(values)]
    (file,) = write(tmp_path, ".parquet", rows)
    assert parquet.read_table(file).column("v").to_pylist() == ["1", "one", "2.5", "True", None, str(10**30)]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|'/c calc'!A0", "'=cmd|'/c calc'!A0"),
        ("+1 then", "'+1 then"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'\t=1+1"),
        (" =1+1", "' =1+1"),
        ("\r=1", "'\r=1"),
        ("-13.60", "-13.60"),
        ("+49 30 1234", "+49 30 1234"),
        ("-1,234.50", "-1,234.50"),
        ("a=b", "a=b"),
        ("", ""),
        (True, "true"),
        (-3, -3),
        (None, None),
    ],
)
def test_no_cell_is_a_formula(text, cell):
    assert _for_spreadsheet(text) == cell


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), max_size=5))
def test_any_text_comes_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("tables")
    rows = [{"file": text, "fields": {"v": leaf(text)}, "error": None} for text in texts]
    (file,) = write(folder, ".csv", rows)
    found = [row["v"] for row in spreadsheet(file)]
    assert [cell.removeprefix("'") if cell.startswith("'") else cell for cell in found] == [
        text.removeprefix("'") for text in texts
    ]


def test_names_of_fields_that_are_no_names_of_files(tmp_path):
    rows = [{"file": "a", "fields": {"../../a/b": [{"x": leaf(1)}], "": leaf(2)}, "error": None}]
    files = write(tmp_path, ".csv", rows)
    assert [file.name for file in files] == ["t.csv", "t._.._a_b.csv"]
    assert {file.parent for file in files} == {tmp_path}


def test_a_table_from_before_the_run_is_not_overwritten(tmp_path):
    (tmp_path / "t.items.csv").write_text("mine")
    os.utime(tmp_path / "t.items.csv", ns=(1, 1))
    with pytest.raises(RaveError, match="was there before the run; move it away, and make the table with --resume"):
        write(tmp_path, ".csv")
    assert (tmp_path / "t.items.csv").read_text() == "mine"
    assert not (tmp_path / "t.csv").exists()
    (tmp_path / "t.items.csv").unlink()
    first = write(tmp_path, ".csv")
    assert write_tables(tmp_path / "t.csv.jsonl", tmp_path / "t.csv") == first


def test_parquet_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'rave-mlx\[extract\]'"):
        check_table(tmp_path / "t.parquet")
    check_table(tmp_path / "t.csv")


def test_rows_of_any_shape_become_records():
    row = {"file": "a", "text": "x", "blocks": [{"k": 1}], "fields": {"value": leaf(1), "o": {"certainty": leaf(2)}}}
    ((table, record),) = records(row)
    assert table == ""
    assert record["blocks"] == json.dumps([{"k": 1}])
    assert (record["value"], record["o.certainty"]) == (1, 2)
