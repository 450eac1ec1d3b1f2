"""Files of rows in the encodings that programs write, and the columns that data sets have."""

from __future__ import annotations

import base64
import codecs
import json

import pytest
from support import picture, write_image

from rave_mlx.inputs.image_reference import ImageReference, looks_like_image, read_reference
from rave_mlx.inputs.row_columns import check_unread, find_answers, find_images
from rave_mlx.inputs.text_files import RowError, read_rows

ROWS = [{"question": "Größe?\u2028\u2029\x85 €", "answer": "1"}, {"question": "b", "answer": "2"}]
TEXT = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)

READABLE = {
    "plain": TEXT.encode(),
    "crlf": TEXT.replace("\n", "\r\n").encode(),
    "cr": TEXT.replace("\n", "\r").encode(),
    "blank lines": TEXT.replace("\n", "\n\n \t\n").encode() + b"\n\n",
    "byte order mark": codecs.BOM_UTF8 + TEXT.encode(),
    "byte order marks of files put together": codecs.BOM_UTF8 + TEXT.replace("\n", "\n\ufeff").encode(),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16 big endian": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-16 without mark": TEXT.encode("utf-16-le"),
    "utf-16 big endian without mark": TEXT.encode("utf-16-be"),
    "utf-32": TEXT.encode("utf-32"),
    "padding": TEXT.encode() + b"\n\0\0\0",
    "end mark of DOS": TEXT.encode() + b"\r\n\x1a",
    "list": json.dumps(ROWS, indent=2).encode(),
    "list in one line": json.dumps(ROWS).encode(),
    "list under data": json.dumps({"dataset_name": "docvqa", "data": ROWS}, indent=1).encode(),
    "escapes": "\n".join(map(json.dumps, ROWS)).encode(),
}


@pytest.mark.parametrize("form", READABLE)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_are_the_same_in_every_encoding_and_form(tmp_path, form, name):
    (tmp_path / name).write_bytes(READABLE[form])
    found = list(read_rows(tmp_path / name))
    assert [row for _, row in found] == ROWS
    assert [place.partition(" ")[0] for place, _ in found] == ["row" if "list" in form else "line"] * 2


LATIN = json.dumps(ROWS[1]).encode() + b"\n" + '{"question": "Größe?"}'.encode("cp1252")
REFUSED = {
    "latin-1": (LATIN, r"rows.jsonl, line 2: not UTF-8 \(byte 0xf6\); it looks like Latin-1 or Windows-1252"),
    "latin-1 after carriage returns": (LATIN.replace(b"\n", b"\r"), "line 2: not UTF-8"),
    "cut utf-16": (TEXT.encode("utf-16")[:-1], r"line 2: not valid UTF-16.*truncated"),
    "gzip": (b"\x1f\x8b\x08\x00", "this is a gzip archive; unpack it"),
    "parquet": (b"PAR1\0", "this is Parquet"),
    "cut list": (b'[{"a": 1},\n{"a"', r"rows.jsonl: not JSON \(line 2, column"),
    "an object over lines": (b'{"a":\n1}', "one object over several lines"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_text_is_named_with_its_line_and_encoding(tmp_path, form):
    data, message = REFUSED[form]
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(RowError, match=message) as raised:
        list(read_rows(tmp_path / "rows.jsonl"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": "x\x0by"}', r"not JSON \(column 9: invalid control character at\)"),
        ('{"a": "x\0y"}', r"not JSON \(column 9: invalid control character at\)"),
        (r'{"a": "\ud83d"}', "half a surrogate pair"),
        ('{"image": "a.png", "image": "b.png"}', "the key 'image' is there twice"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_line_that_is_no_json_leaves_the_others(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(ROWS[1])}\n{line}\n{json.dumps(ROWS[1])}\n")
    found = list(read_rows(tmp_path / "rows.jsonl"))
    assert [place for place, _ in found] == ["line 1", "line 2", "line 3"]
    assert found[0][1] == found[2][1] == ROWS[1]
    with pytest.raises(RowError, match=message):
        raise found[1][1]


def test_tables_are_named(tmp_path):
    (tmp_path / "rows.csv").write_text("image,question\n")
    with pytest.raises(RowError, match=r"rows.csv: this is comma-separated; save the rows as JSON Lines"):
        list(read_rows(tmp_path / "rows.csv"))


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "a b#1.png"):
        write_image(picture(30, 20, len(name)), tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "column",
    [
        *("image", "images", "img", "imgs", "image_path", "image_paths", "image_file", "file_name", "filename"),
        *("picture", "image_url", "Image", "imagePath", "Image Path", "image-path", "page_image"),
    ],
)
def test_names_of_image_columns(folder, column):
    assert find_images({column: "a.png", "question": "?"}, folder) == (column, [ImageReference(folder / "a.png")])
    assert find_images({column: ["a.png", "b.png"]}, folder)[1][1] == ImageReference(folder / "b.png")
    assert find_images({column: None, "images": []}, folder) == (None, [])


def test_columns_that_agree_and_that_do_not(folder):
    shown = [ImageReference(folder / "a.png")]
    assert find_images({"image": "a.png", "file_name": "a.png", "images": ["a.png"]}, folder)[1] == shown
    with pytest.raises(RowError, match="both image and file_name are there"):
        find_images({"image": "a.png", "file_name": "b.png"}, folder)
    with pytest.raises(RowError, match="file_name: no image c.png in "):
        find_images({"file_name": "c.png"}, folder)
    data = (folder / "a.png").read_bytes()
    # The form of the `datasets` package, whose sets keep the name beside the bytes.
    assert find_images({"image": {"bytes": data, "path": None}, "image_filename": "b.png"}, folder)[1][0].source == data
    assert find_answers({"answer": "x", "answers": ["y", "x"], "label": "kind"}) == (["answer", "answers"], ["x", "y"])
    assert find_answers({"label": "x"}) == (["label"], ["x"])
    assert find_answers({"question": "?"}) == ([], [])
    with pytest.raises(RowError, match="both answer and ground_truth are there"):
        find_answers({"answer": "x", "ground_truth": "y"})
    with pytest.raises(RowError, match="answers should be text, or a list of texts"):
        find_answers({"answers": [{"answer": "x"}]})


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"scan": "a.png"}, "scan"),
        ({"scan": "somewhere/else.TIFF"}, "scan"),
        ({"url": "https://example.org/page.jpg?size=2"}, "url"),
        ({"pages": ["a.png", "b.png"]}, "pages"),
        ({"image": "a.png", "image_2": "b.png"}, "image_2"),
        ({"image": "a.png", "second": {"bytes": b"\x89PNG\r\n\x1a\n", "path": None}}, "second"),
        ({"image": "a.png", "video": "film.mp4"}, "video"),
        ({"image": "a.png", "choices": ["1", "2"]}, "choices"),
        ({"tools": "[]"}, "tools"),
    ],
)
def test_what_belongs_to_the_prompt_and_is_not_read_is_refused(folder, row, column):
    read, shown = find_images(row, folder)
    with pytest.raises(RowError, match=rf"column {column}\b"):
        check_unread(row, {read}, shown, folder)


def test_labels_are_left_alone(folder):
    row = {
        "image": "a.png", "id": 7, "source": "a.png", "flickr_url": "https://example.org/1.jpg", "image_width": 30,
        "image_id": "000", "origin": "elsewhere/scan.pdf", "video": None, "choices": [], "note": "as in page 2",
    }  # fmt: skip
    check_unread(row, {"image"}, find_images(row, folder)[1], folder)


def test_references(folder):
    data = (folder / "a.png").read_bytes()
    url = "data:image/png;base64," + base64.encodebytes(data).decode()
    assert read_reference(url, folder).source == data
    assert read_reference(base64.b64encode(data).decode(), folder).source == data
    assert read_reference(f"file://{folder}/a%20b%231.png", folder).source == folder / "a b#1.png"
    assert read_reference("a b#1.png", folder).source == folder / "a b#1.png"
    assert read_reference("a.png#page=2", folder) == ImageReference(folder / "a.png", 2)
    for value, message in (
        ("https://example.org/a.png", "addresses are not fetched"),
        ("x" * 5000, "no image xxx"),
        ("a\0b.png", "no image"),
        (" ", "found empty text"),
        (7, "found int"),
    ):
        with pytest.raises(RowError, match=message):
            read_reference(value, folder)
    assert looks_like_image(data) and not looks_like_image("The page is a.png or so.\nSee b.png")
