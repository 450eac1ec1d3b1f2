"""Documents that were opened: their hash, their pages, and files that nobody should have to think about."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading

import pytest
from document_files import ENCRYPTED, make_pdf, make_png, make_tiff
from PIL import Image
from support import IMAGE

from rave_mlx.documents import content
from rave_mlx.documents.pages import Document, describe_failures, open_document
from rave_mlx.documents.pages_spec import parse_pages
from rave_mlx.documents.sources import Source, find_documents
from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import open_image
from rave_mlx.inputs.images.preprocess import read_patches


def source(data, pages=None):
    (found,) = find_documents([data], pages=None if pages is None else parse_pages(pages)).documents
    return found


def refusal(data, pages=None):
    with pytest.raises(ImageError) as raised, open_document(source(data, pages)):
        pass
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("limit", [1 << 20, 100])
def test_pages_of_a_file_and_its_hash(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(content, "IN_MEMORY", limit)
    data = make_pdf("one", "two", "three")
    file = tmp_path / "a.pdf"
    file.write_bytes(data)
    with open_document(source(file)) as document:
        assert document.sha256 == hashlib.sha256(data).hexdigest()
        assert document.is_pdf
        assert [page.number for page in document.pages] == [1, 2, 3]
        for page in document.pages:
            assert page.draw(9000).tobytes() == open_image(data, page.number, page_pixels=9000).tobytes()
        assert [page.text().text for page in document.pages] == ["one", "two", "three"]


def test_a_page_is_cut_into_the_patches_of_its_file(tmp_path):
    file = tmp_path / "a.pdf"
    file.write_bytes(make_pdf("one", "two"))
    with open_document(source(file)) as document:
        found, expected = read_patches(document.pages[1], IMAGE), read_patches(str(file), IMAGE, page=2)
    assert found.size == expected.size
    assert (found.pixels == expected.pixels).all()


def test_a_picture_and_its_hash():
    picture = Image.open(io.BytesIO(make_png(9)))
    with open_document(source(picture)) as document, open_document(source(picture.convert("RGB"))) as other:
        assert document.sha256 != other.sha256
        (page,) = document.pages
        assert page.draw().getpixel((0, 0)) == (9, 9, 9)
        assert page.text() is None


def test_chosen_pages(tmp_path):
    data = make_pdf("one", "two", "three")
    with open_document(source(data, "3,1,9")) as document:
        assert [page.number for page in document.pages] == [3, 1]
        assert document.missing == [9]
    assert refusal(data, "4-6") == "pages 4-6 were asked for, the document has 3 pages; choose others"


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("zero.pdf", b"", "the file is empty; download or export it again"),
        ("encrypted.pdf", make_pdf("a", trailer=ENCRYPTED), "the PDF is encrypted; save a copy without a password"),
        ("none.pdf", make_pdf(), "the PDF has no pages; export it again"),
        ("cut.pdf", make_pdf("a", "b")[:60], "the PDF is damaged; download or export it again"),
        ("letter.docx", b"PK\x03\x04", "this is a ZIP archive or an Office document; unpack it, or export it as PDF"),
    ],
)
def test_what_is_no_document(tmp_path, name, data, complaint):
    (tmp_path / name).write_bytes(data)
    assert refusal(tmp_path / name).startswith(complaint)


def test_a_pipe_a_device_and_a_locked_file(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.pdf")
    assert refusal(tmp_path / "pipe.pdf") == "this is a pipe or a device; save the image to a file and name that"
    assert refusal("/dev/zero") == "this is a pipe or a device; save the image to a file and name that"
    file = tmp_path / "locked.pdf"
    file.write_bytes(make_pdf("a"))
    file.chmod(0)
    if os.geteuid() == 0:  # root may read everything: the refusal itself is all that cannot be had
        monkeypatch.setattr(type(file), "open", _refuse)
    assert refusal(file) == "permission denied; make the file readable for you (chmod u+r)"


def _refuse(*_):
    raise PermissionError(13, "Permission denied")


def test_standard_input(monkeypatch):
    piped = io.TextIOWrapper(io.BytesIO(make_pdf("a", "b")))
    monkeypatch.setattr(sys, "stdin", piped)
    with open_document(source("-")) as document:
        assert document.name == "-"
        assert len(document.pages) == 2


@pytest.mark.parametrize("change", ["longer", "touched"])
def test_a_large_file_that_changes_while_it_is_read(tmp_path, monkeypatch, change):
    monkeypatch.setattr(content, "IN_MEMORY", 10)
    file = tmp_path / "a.pdf"
    file.write_bytes(make_pdf("one", "two"))
    with open_document(source(file)) as document:
        document.pages[0].draw(5000)
        if change == "longer":
            with file.open("ab") as more:
                more.write(b"%")
        else:
            os.utime(file, ns=(1, 1))
        with pytest.raises(ImageError, match="^the file changed while it was read; run again when it is complete$"):
            document.pages[1].draw(5000)


def test_a_file_that_grows_while_it_is_hashed(tmp_path, monkeypatch):
    file = tmp_path / "a.pdf"
    file.write_bytes(make_pdf("one") * 100)
    monkeypatch.setattr(content, "_CHUNK", 1000)
    digest = hashlib.sha256

    def growing(*given):
        with file.open("ab") as more:
            more.write(b"more")
        return digest(*given)

    monkeypatch.setattr(content.hashlib, "sha256", growing)
    assert refusal(file) == "the file changed while it was read; run again when it is complete"


def test_ten_thousand_pages_and_more():
    data = make_pdf(*["p"] * 10_001)
    assert refusal(data) == "10001 pages, at most 10000 are read at once; choose with --pages"
    with open_document(source(data, "9998-")) as document:
        assert [page.number for page in document.pages] == [9998, 9999, 10_000, 10_001]
        assert document.pages[-1].draw(100).size
    with open_document(source(data, "2-")) as document:
        assert len(document.pages) == 10_000


def test_the_watch_is_told_of_pages():
    told = []
    data = make_tiff(Image.new("L", (8, 8)), Image.new("L", (8, 8)))
    found = source(data)
    with Document(found, content.read_content(found), lambda *given: told.append(given)) as document:
        thread = threading.Thread(target=document.page_done, args=(2, "torn"))
        thread.start()
        thread.join()
        document.page_done(1)
    assert told == [(document, 2, "torn"), (document, 1, None)]


def test_reasons_by_page_in_one_line():
    assert describe_failures({2: "torn", 5: "wet", 6: "wet", 7: "wet", 8: "torn", 9: "torn", 11: "torn"}) == (
        "page 2: torn; pages 5-7: wet; pages 8-9: torn; page 11: torn"
    )


def test_the_name_is_not_said_twice():
    with open_document(Source("a\nb.pdf", make_pdf("x").replace(b"/Type /Page ", b"/Type /Pxge "))) as document:
        (page,) = document.pages
        with pytest.raises(ImageError, match="^a.b.pdf, page 1: the PDF is damaged") as raised:
            open_image(page)
        assert page.reason(raised.value) == "the PDF is damaged; download or export it again"
