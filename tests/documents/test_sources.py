"""What people name, and the documents that are meant by it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from pathlib import Path

import pytest
from document_files import make_pdf, make_png
from PIL import Image

from rave_mlx.documents.pages_spec import parse_pages
from rave_mlx.documents.sources import ENDINGS, find_documents, natural_key
from rave_mlx.errors import ImageError, UsageError
from rave_mlx.inputs.image_reference import _SUFFIXES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is the current one, and a way to put files into it."""
    monkeypatch.chdir(tmp_path)

    def put(*names, data=b"x"):
        for name in names:
            file = Path(os.fsdecode(name))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    return put


def names(*named, **options):
    return [source.name for source in find_documents(list(named), **options).documents]


def test_order_is_as_named_and_natural_in_folders(folder):
    folder("s/page 10.png", "s/page 9.png", "s/Page 2.png", "s/page 1/a.pdf", "s/page 1.png", "b.pdf", "a.pdf")
    inside = ["s/page 1/a.pdf", "s/page 1.png", "s/Page 2.png", "s/page 9.png", "s/page 10.png"]
    assert names("b.pdf", "s", "a.pdf") == ["b.pdf", *inside, "a.pdf"]
    assert sorted(["x10", "x9", "X9b", "x", "x09", "10", "9"], key=natural_key) == [
        "9", "10", "x", "x09", "x9", "X9b", "x10",
    ]  # fmt: skip


def test_what_counts_in_a_folder_and_what_is_left_out(folder):
    folder(*(f"s/a{ending}" for ending in ENDINGS), "s/B.PDF", "s/notes.docx", "s/more.DOCX", "s/c.txt", "s/README")
    folder("s/.hidden.pdf", "s/.git/x.pdf", "s/x.pdf/inner.png")
    folder("s/scan", data=make_pdf("no ending"))
    pile = find_documents("s")
    found = {source.name for source in pile.documents}
    assert found == {f"s/a{ending}" for ending in ENDINGS} | {"s/B.PDF", "s/x.pdf/inner.png", "s/scan"}
    assert pile.describe_left_out() == (
        "4 files that are no picture or PDF are left out: 2 .docx, 1 without ending, 1 .txt"
    )
    assert _SUFFIXES - {".svg", ".jxl", ".dng", ".cr2", ".nef"} <= ENDINGS


def test_the_output_is_no_document(folder):
    folder("s/a.png", "s/out/page.png", "s/review.png")
    assert names("s", skip=[Path("s/out"), Path("s/review.png")]) == ["s/a.png"]


def test_patterns_pages_and_doubles(folder):
    folder("s/a2.pdf", "s/a10.pdf", "s/t/b.pdf", "odd[1].pdf", "x#page=2")
    assert names("s/*.pdf") == ["s/a2.pdf", "s/a10.pdf"]
    assert names("s/**/*.pdf") == ["s/a2.pdf", "s/a10.pdf", "s/t/b.pdf"]
    assert names("odd[1].pdf", "x#page=2") == ["odd[1].pdf", "x#page=2"]
    assert names("s/a2.pdf", "s", "./s/a2.pdf") == ["s/a2.pdf", "s/a10.pdf", "s/t/b.pdf"]
    pile = find_documents(["s/a2.pdf#page=3", "s/a2.pdf#page=4", "s/a2.pdf"], pages=parse_pages("1-2"))
    assert [(s.name, str(s.pages)) for s in pile.documents] == [
        ("s/a2.pdf#page=3", "3"), ("s/a2.pdf#page=4", "4"), ("s/a2.pdf", "1-2"),
    ]  # fmt: skip


def test_links(folder, tmp_path):
    folder("s/a.pdf", "s/deep/b.pdf", "elsewhere/c.pdf")
    Path("s/deep/round").symlink_to(tmp_path / "s")
    Path("s/out").symlink_to(tmp_path / "elsewhere")
    Path("s/z.pdf").symlink_to("a.pdf")
    Path("s/lost.pdf").symlink_to("nowhere")
    assert names("s") == ["s/a.pdf", "s/deep/b.pdf", "s/lost.pdf", "s/out/c.pdf", "s/z.pdf"]


def test_names_that_are_no_text(folder):
    folder(b"s/caf\xe9.png", "s/two\nlines.png", "s/täglich.png")
    found = find_documents("s").documents
    assert [source.name for source in found] == ["s/caf\\xe9.png", "s/two\nlines.png", "s/täglich.png"]
    assert Path(found[0].data).read_bytes() == b"x"


def test_pipes_and_sockets_with_an_ending_are_named(folder):
    folder("s/a.png")
    os.mkfifo("s/pipe.pdf")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("s/socket.png")
    try:
        assert names("s") == ["s/a.png", "s/pipe.pdf", "s/socket.png"]
    finally:
        listener.close()


def test_a_folder_that_cannot_be_opened_is_a_document_with_a_problem(folder, monkeypatch):
    folder("s/a.png", "s/locked/b.png")
    listdir = os.listdir

    def refuse(path):  # tests may run as root, who may enter every folder
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    a, locked = find_documents("s").documents
    assert (a.name, a.problem) == ("s/a.png", None)
    assert locked.name == "s/locked"
    assert locked.problem == "the folder cannot be opened (Permission denied); what is in it is not read"


def test_folders_deeper_than_calls_can_be(folder, monkeypatch, tmp_path):
    for _ in range(1200):
        Path("d").mkdir()
        os.chdir("d")
    Path("a.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    try:
        assert names("d") == ["d/" * 1200 + "a.png"]
    finally:
        subprocess.run(["rm", "-r", "d"], check=True)  # deeper than shutil.rmtree can go


def test_what_is_not_there(folder):
    folder("a.pdf", "s/c.txt")
    Path("empty").mkdir()
    pile = find_documents(["a.pdf", "b.pdf", "*.png"])
    assert [(s.name, s.problem) for s in pile.documents] == [
        ("a.pdf", None),
        ("b.pdf", "no such file or folder; check the path"),
        ("*.png", "no file matches; check the pattern"),
    ]
    for named, complaint in (
        (["b.pdf", "c.pdf"], "b.pdf: no such file or folder; check the path"),
        (["*.png"], "*.png: no file matches; check the pattern"),
        (["empty"], "empty: no document is there; name PDFs, pictures, or folders with them"),
        (["s"], "s: no document is there; 1 file that is no picture or PDF is left out: 1 .txt"),
        (["https://example.org/a.pdf"], "addresses are not fetched; download the image and name the file"),
        ([], "nothing is named: no document is there; name PDFs, pictures, or folders with them"),
    ):
        with pytest.raises(ImageError) as raised:
            find_documents(named)
        assert str(raised.value) == complaint
    with pytest.raises(UsageError, match="- is given twice"):
        find_documents(["-", "a.pdf", "-"])


def test_what_python_hands_over(folder, tmp_path):
    folder("a.png", data=make_png())
    opened = io.BytesIO(make_png(3))
    opened.name = "report.pdf"
    url = f"file://{tmp_path}/a.png"
    with Image.open("a.png") as picture:
        assert names(make_png(), picture.copy(), opened, bytearray(make_png(4)), url, Path("a.png")) == [
            "image 1", "image 2", "report.pdf", "image 4", f"{tmp_path}/a.png",
        ]  # fmt: skip
    assert [source.name for source in find_documents(opened).documents] == ["report.pdf"]
    assert [source.data for source in find_documents(make_png()).documents] == [make_png()]
    assert names(opened, opened) == ["report.pdf", "report.pdf (2)"]
